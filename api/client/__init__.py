"""Callboard over HTTP: ``Client`` speaks the routes of the API with plain methods and typed answers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec

from api.client.answers import (
    Accepted,
    ApiError,
    ClientError,
    Document,
    Hit,
    KnowledgeBase,
    Progress,
    ServerUnreachable,
    StillUnfinished,
    UnexpectedAnswer,
    converted,
    is_temporary,
    read,
)
from api.client.callbacks import Callbacks
from api.client.dead_letters import Letters
from api.client.queues import QueueCalls
from api.client.reads import Reads
from api.client.requests import DEFAULT_URL, PREFIX
from api.client.schedules import ScheduleVerbs
from api.client.stats import Stats
from api.client.streams import Following, OutOfTime, StreamEvent
from api.client.verbs import TaskId, Verbs, task_path
from tasks.records import Task, TaskPage
from tasks.states import FINAL

__all__ = [
    "DEFAULT_URL",
    "Accepted",
    "ApiError",
    "Client",
    "ClientError",
    "Document",
    "Hit",
    "KnowledgeBase",
    "Progress",
    "ServerUnreachable",
    "StillUnfinished",
    "StreamEvent",
    "UnexpectedAnswer",
    "is_temporary",
]

Pause = Callable[[float], object]

_LOOK_FIRST, _LOOK_LAST, _LOOK_GROWTH = 0.05, 0.5, 1.5
_OUTAGE_AT_MOST = 30.0
# A large document is checked and stored, and a first search loads the model, before there is an answer.
_PATIENT = 120.0


class Client(Callbacks, Letters, QueueCalls, Reads, ScheduleVerbs, Stats, Verbs):
    """A Callboard server at ``url``; see `api.client.requests.Requests` for what else it is made with."""

    # Tasks

    def submit(
        self, task_type: str, payload: Any = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> Task:
        """Submit a task; ``fields`` are those of the contract: ``priority``, ``delay``, ``depends_on``..."""
        body = {"task_type": task_type, **fields}
        if payload is not None:
            body["payload"] = payload
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return read(self._post("/tasks", body, headers=headers), Task)

    def submit_many(
        self, tasks: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Task]:
        """Submit many tasks (10,000 at most), all or nothing; each has a ``task_type`` and other fields."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        answer = self._post("/tasks/batch", {"tasks": list(tasks)}, headers=headers, patience=_PATIENT)
        return converted(read(answer, dict[str, Any]).get("tasks"), list[Task], answer.url)

    def task(self, task_id: TaskId) -> Task:
        """Return the whole task."""
        return read(self._get(task_path(task_id)), Task)

    def tasks(self, **filters: Any) -> TaskPage:
        """Return a page of tasks: ``status``, ``task_type``, ``kb_id``, ``limit``, ``cursor``..."""
        return read(self._get("/tasks", filters), TaskPage)

    def progress(self, task_id: TaskId) -> Progress:
        """Return how far the task is."""
        return read(self._get(task_path(task_id) + "/status"), Progress)

    def result(self, task_id: TaskId) -> Any:
        """Return what the task returned; an unfinished one is refused with 409."""
        return read(self._get(task_path(task_id) + "/result"), _Result).result

    def cancel(self, task_id: TaskId) -> Task:
        """Cancel the task and whatever belongs to its run, and return it."""
        self._post(task_path(task_id) + "/cancel")
        return self.task(task_id)

    def wait(self, task_id: TaskId, timeout: float | None = None, *, pause: Pause = time.sleep) -> Task:
        """Wait until the task is final and return it, whatever became of it.

        Raises:
          StillUnfinished: it is not final after ``timeout`` seconds (or a few more).
        """
        try:
            for _ in self._following(task_id, None, pause, timeout):
                pass
        except OutOfTime:
            raise StillUnfinished(
                f"task {task_id} is still unfinished after {timeout:g} s; it goes on: "
                f"wait longer, or watch it with `callboard tasks watch {task_id}`"
            ) from None
        return self.task(task_id)

    def follow(
        self, task_id: TaskId, after: int | None = None, *, pause: Pause = time.sleep
    ) -> Iterator[StreamEvent]:
        """Yield what happens to the task, beginning with a snapshot, until it is final.

        With ``after``, the id of an event, nothing that came after it is left out. A connection that is
        cut is taken up again where it was.
        """
        return iter(self._following(task_id, after, pause))

    def poll(self, task_id: TaskId, *, pause: Pause = time.sleep) -> Iterator[Progress]:
        """Yield the task's progress whenever it has changed, until it is final; `follow` shows all of it."""
        before = None
        for look in self._looks(task_id, pause):
            if look != before:
                yield look
            before = look

    # Knowledge bases

    def knowledge_bases(self) -> list[KnowledgeBase]:
        """Return all knowledge bases that the caller may see."""
        return list(self._all("/knowledge-bases", "knowledge_bases", KnowledgeBase))

    def knowledge_base(self, kb: str) -> KnowledgeBase:
        """Return one knowledge base by its ``kb_id``."""
        return read(self._get(_kb_path(kb)), KnowledgeBase)

    def create_knowledge_base(
        self, name: str, kb_id: str | None = None, embedder: str | None = None
    ) -> KnowledgeBase:
        """Create a knowledge base; what is left out (id; embedder: e5, fast, http) the server chooses."""
        given = {"name": name, "kb_id": kb_id, "embedder": embedder}
        body = {field: value for field, value in given.items() if value is not None}
        return read(self._post("/knowledge-bases", body), KnowledgeBase)

    def reembed(self, kb: str, embedder: str) -> UUID:
        """Have a knowledge base embedded anew (e5, fast, http), while it is searched; the id of the task."""
        return read(self._post(_kb_path(kb) + "/reembed", {"embedder": embedder}), _Reembedding).task_id

    def delete_knowledge_base(self, kb: str) -> None:
        """Delete a knowledge base with all its documents."""
        self._send("DELETE", _kb_path(kb))

    def documents(self, kb: str) -> list[Document]:
        """Return all documents of a knowledge base."""
        return list(self._all(_kb_path(kb) + "/documents", "documents", Document))

    def add_text(self, kb: str, name: str, text: str, **options: Any) -> Accepted:
        """Add a text as the document ``name``; ``options``: ``chunk_size``, ``metadata``..."""
        body = {"name": name, "text": text, **options}
        return read(self._post(_kb_path(kb) + "/documents", body, patience=_PATIENT), Accepted)

    def add_file(self, kb: str, file_path: str | Path, **options: Any) -> Accepted:
        """Add a file that the *server* can read; it must lie below one of its CALLBOARD_FILE_ROOTS."""
        body = {"file_path": str(file_path), **options}
        return read(self._post(_kb_path(kb) + "/documents", body), Accepted)

    def add_url(self, kb: str, url: str, **options: Any) -> Accepted:
        """Add what is at a URL, which the server fetches; ``options``: ``name``, ``chunk_size``..."""
        body = {"url": url, **options}
        return read(self._post(_kb_path(kb) + "/documents", body), Accepted)

    def upload(self, kb: str, path: str | Path, name: str | None = None, **options: Any) -> Accepted:
        """Send the file at ``path``, piece by piece, as the document ``name`` (default: the file's name)."""
        path = Path(path)
        fields = {"name": name or path.name, **options}
        if isinstance(fields.get("metadata"), dict):  # a form has texts only
            fields["metadata"] = msgspec.json.encode(fields["metadata"]).decode()
        with path.open("rb") as content:
            answer = self._send(
                "POST",
                _kb_path(kb) + "/documents",
                data=fields,
                files={"file": (path.name, content)},
                timeout=self._patient(_PATIENT),
            )
        return read(answer, Accepted)

    def search(
        self,
        kb: str,
        q: str,
        limit: int = 10,
        mode: str = "hybrid",
        explain: bool = False,
        *,
        documents: Sequence[str] = (),
        where: Mapping[str, str | Sequence[str]] | None = None,
        weight: float | None = None,
        highlight: bool = False,
    ) -> list[Hit]:
        """Return the pieces of documents that answer ``q``, the best first.

        ``documents`` and ``where`` (metadata: all keys, any of a key's values) narrow the search; ``weight``
        is the vectors' share of the score, 0 to 1; ``highlight`` asks where the words are in each hit.
        """
        query: dict[str, Any] = {"q": q, "limit": limit, "mode": mode, "explain": explain or None}
        query |= {"weight": weight, "highlight": highlight or None}
        query["document_id"] = ",".join(map(str, documents)) or None
        query |= {
            f"metadata.{key}": values if isinstance(values, str) else list(values)
            for key, values in (where or {}).items()
        }
        return read(self._get(_kb_path(kb) + "/search", query, patience=_PATIENT), _Hits).hits

    # The server

    def health(self) -> bool:
        """Whether the server is alive."""
        return self._send("GET", "/health", prefix="").is_success

    def ready(self) -> bool:
        """Whether the server can work: it reaches its database. False while it answers that it cannot."""
        try:
            return self._send("GET", "/ready", prefix="").is_success
        except ApiError as error:
            if error.status == 503:
                return False
            raise

    # How it is done

    def _following(
        self, task_id: TaskId, after: int | None, pause: Pause, seconds: float | None = None
    ) -> Following:
        return Following(self._http, f"{PREFIX}{task_path(task_id)}/stream", after, pause, seconds)

    def _looks(self, task_id: TaskId, pause: Pause) -> Iterator[Progress]:
        """Look at the task at growing intervals until it is final; a short outage does not end the watch."""
        interval, seen = _LOOK_FIRST, None
        while True:
            try:
                look = self.progress(task_id)
            except (ServerUnreachable, ApiError) as error:
                if seen is None or time.monotonic() - seen > _OUTAGE_AT_MOST or not is_temporary(error):
                    raise
                pause(getattr(error, "retry_after", None) or interval)
            else:
                seen = time.monotonic()
                yield look
                if look.status in FINAL:
                    return
                pause(interval)
            interval = min(interval * _LOOK_GROWTH, _LOOK_LAST)


class _Result(msgspec.Struct):
    result: Any = None


class _Reembedding(msgspec.Struct):
    task_id: UUID


class _Hits(msgspec.Struct):
    hits: list[Hit]


def _kb_path(kb: str) -> str:
    return f"/knowledge-bases/{quote(kb, safe='')}"
