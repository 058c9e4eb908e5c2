"""Sends documents to a knowledge base and follows each of them to its end. Shows nothing itself: a watcher
is told what happens.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import msgspec

from api.client import Accepted, ApiError, Client, Document, KnowledgeBase, Progress, is_temporary
from api.known import Known
from api.selection import Source
from tasks.errors import CallboardError
from tasks.records import Task
from tasks.states import COMPLETED

T = TypeVar("T")

#: The stages of a document, in their order; a task's phase names the one it is in.
STAGES = ("validate", "convert", "chunk", "embed", "store", "index")
_AT_ONCE = 4
_OUTAGE_AT_MOST = 30.0
# Refusals that are about the document sent; any other would meet every document alike.
_ABOUT_THE_DOCUMENT = frozenset({400, 409, 413, 415, 422})


class Stopped(CallboardError):
    """Another document met an error that stops all of them."""

    code = "stopped"


class Outcome(StrEnum):
    """What became of a document."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    SENT = "sent"  # accepted by the server, and not followed further


class Failure(msgspec.Struct, frozen=True):
    """Why a document failed: the task's error, or the server's refusal."""

    code: str
    message: str


class DocumentReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one document; ``path`` is where it is from, and the counts are of chunks."""

    name: str
    path: str
    outcome: Outcome
    document_id: str | None = None
    task_id: str | None = None
    version: int | None = None
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    removed: int = 0
    duplicate_of: str | None = None
    error: Failure | None = None
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """What became of all documents, in the order they were given."""

    kb_id: str
    documents: list[DocumentReport]
    seconds: float

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many documents had which outcome; every outcome is there."""
        counted = Counter(document.outcome for document in self.documents)
        return {outcome: counted[outcome] for outcome in Outcome}

    @property
    def embedded(self) -> int:
        """How many chunks had to be embedded."""
        return sum(document.embedded for document in self.documents)

    @property
    def reused(self) -> int:
        """How many chunks had an embedding already."""
        return sum(document.reused for document in self.documents)

    @property
    def failed(self) -> list[DocumentReport]:
        """The documents that failed."""
        return [document for document in self.documents if document.outcome is Outcome.FAILED]


class Watcher(Protocol):
    """Is told what happens, by several threads at once."""

    def started(self, source: Source) -> None:
        """The document is being sent."""

    def progressed(self, source: Source, progress: Progress) -> None:
        """Its task has moved."""

    def finished(self, source: Source, report: DocumentReport) -> None:
        """It is final."""


class Unwatched:
    """A watcher that looks away."""

    def started(self, source: Source) -> None:
        """Look away."""

    def progressed(self, source: Source, progress: Progress) -> None:
        """Look away."""

    def finished(self, source: Source, report: DocumentReport) -> None:
        """Look away."""


def ensure_knowledge_base(client: Client, kb: str, embedder: str | None = None) -> bool:
    """Create the knowledge base ``kb`` if there is none; return whether it was created.

    Then ``embedder`` embeds its documents, by default that of the server.
    """
    if _knowledge_base(client, kb) is not None:
        return False
    try:
        client.create_knowledge_base(kb, kb_id=kb, embedder=embedder)
    except ApiError as error:
        if error.status == 409:  # somebody else was faster
            return False
        raise
    return True


def ingest(
    client: Client,
    kb: str,
    sources: Sequence[Source],
    *,
    watcher: Watcher | None = None,
    options: Mapping[str, Any] | None = None,
    wait: bool = True,
    at_once: int = _AT_ONCE,
) -> Report:
    """Send every document, ``at_once`` at a time, and follow it to its end (unless ``wait`` is false).

    A file that is there already, with these bytes and cut like that, is not sent again. A document that fails
    is reported and the others go on; an error that would meet all of them (no server, no right to write) is
    raised.
    """
    began = time.monotonic()
    stop = threading.Event()
    options = dict(options or {})
    known = Known.ask(client, kb, options, len(sources))
    carrier = _Carrier(client, kb, watcher or Unwatched(), options, known, wait, stop)
    with ThreadPoolExecutor(at_once, thread_name_prefix="ingest") as pool:
        futures = [pool.submit(carrier.carry, source) for source in sources]
        try:
            wait_for(futures, return_when=FIRST_EXCEPTION)
            _raise_first(futures)
        finally:
            # Also after Ctrl-C: what is on its way ends at its next pause, what waits is never sent.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return Report(kb, [future.result() for future in futures], round(time.monotonic() - began, 3))


class _Carrier:
    """Brings one document at a time to its end; shared by the threads, changed by none."""

    def __init__(
        self,
        client: Client,
        kb: str,
        watcher: Watcher,
        options: dict[str, Any],
        known: Known,
        wait: bool,
        stop: threading.Event,
    ) -> None:
        self._client = client
        self._kb = kb
        self._watcher = watcher
        self._options = options
        self._known = known
        self._wait = wait
        self._stop = stop

    def carry(self, source: Source) -> DocumentReport:
        self._pause(0)
        began = time.monotonic()
        self._watcher.started(source)
        report = self._outcome(source)
        report = msgspec.structs.replace(report, seconds=round(time.monotonic() - began, 3))
        self._watcher.finished(source, report)
        return report

    def _outcome(self, source: Source) -> DocumentReport:
        try:
            there = None if isinstance(source.place, str) else self._known.same(source.name, source.place)
            if there is not None:
                return _unchanged(source, there)
            accepted = self._patiently(lambda: self._upload(source))
        except OSError as error:
            message = f"{source.origin} cannot be read: {error.strerror or error}"
            return _failed(source, Failure("unreadable_file", message))
        except ApiError as error:
            if error.status not in _ABOUT_THE_DOCUMENT or error.code == "unknown_knowledge_base":
                raise
            return _failed(source, Failure(error.code, error.message))
        if not self._wait:
            return _sent(source, accepted)
        for progress in self._client.poll(accepted.task_id, pause=self._pause):
            self._watcher.progressed(source, progress)
        return _reported(source, accepted, self._patiently(lambda: self._client.task(accepted.task_id)))

    def _upload(self, source: Source) -> Accepted:
        if isinstance(source.place, str):
            return self._client.add_url(self._kb, source.place, name=source.name, **self._options)
        return self._client.upload(self._kb, source.place, source.name, **self._options)

    def _patiently(self, request: Callable[[], T]) -> T:
        """Repeat the request while the server is away or too busy; a document sent twice is unchanged."""
        gives_up, interval = time.monotonic() + _OUTAGE_AT_MOST, 0.5
        while True:
            try:
                return request()
            except CallboardError as error:
                busy = isinstance(error, ApiError) and error.status == 429
                if not is_temporary(error) or (not busy and time.monotonic() > gives_up):
                    raise
                self._pause(getattr(error, "retry_after", None) or interval)
                interval = min(interval * 2, 5.0)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped("stopped before the document was done: send it again")


def _knowledge_base(client: Client, kb: str) -> KnowledgeBase | None:
    try:
        return client.knowledge_base(kb)
    except ApiError as error:
        if error.status == 404 and not error.code.startswith("http_"):
            return None
        raise


def _raise_first(futures: Sequence[Future[DocumentReport]]) -> None:
    errors = [error for future in futures if future.done() and (error := future.exception())]
    for error in sorted(errors, key=lambda one: isinstance(one, Stopped)):
        raise error


def _failed(source: Source, failure: Failure) -> DocumentReport:
    return DocumentReport(name=source.name, path=source.origin, outcome=Outcome.FAILED, error=failure)


def _unchanged(source: Source, there: Document) -> DocumentReport:
    return DocumentReport(
        name=source.name,
        path=source.origin,
        outcome=Outcome.UNCHANGED,
        document_id=str(there.document_id),
        version=there.version,
        chunks=there.chunks,
    )


def _sent(source: Source, accepted: Accepted) -> DocumentReport:
    return DocumentReport(
        name=source.name,
        path=source.origin,
        outcome=Outcome.SENT,
        document_id=str(accepted.document_id),
        task_id=str(accepted.task_id),
    )


def _reported(source: Source, accepted: Accepted, task: Task) -> DocumentReport:
    result: dict[str, Any] = task.result if isinstance(task.result, dict) else {}
    return DocumentReport(
        name=source.name,
        path=source.origin,
        outcome=_outcome(task.status, result),
        document_id=str(result.get("document_id") or accepted.document_id),
        task_id=str(accepted.task_id),
        version=result.get("version"),
        chunks=result.get("chunks") or 0,
        embedded=result.get("embedded") or 0,
        reused=result.get("reused") or 0,
        removed=result.get("removed") or 0,
        duplicate_of=result.get("duplicate_of"),
        error=_failure(task),
    )


def _outcome(status: str, result: Mapping[str, Any]) -> Outcome:
    if status != COMPLETED:
        return Outcome.FAILED
    if result.get("unchanged"):
        return Outcome.UNCHANGED
    if result.get("duplicate_of"):
        return Outcome.DUPLICATE
    return Outcome.CHANGED if (result.get("version") or 1) > 1 else Outcome.NEW


def _failure(task: Task) -> Failure | None:
    if task.status == COMPLETED:
        return None
    error = task.error or {}
    return Failure(
        str(error.get("code") or task.status),
        str(error.get("message") or task.message or f"the task was {task.status}"),
    )
