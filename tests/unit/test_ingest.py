"""Documents are sent, followed to their end and counted."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import ApiError, Client, Progress, ServerUnreachable
from api.ingest import DocumentReport, Outcome, Report, ensure_knowledge_base, ingest
from api.selection import Source
from tests.support.answers import DOCUMENT_ID, Documents, Script, problem


class Notes:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def started(self, source: Source) -> None:
        self._note("started", source)

    def progressed(self, source: Source, progress: Progress) -> None:
        self._note(progress.phase or progress.status, source)

    def finished(self, source: Source, report: DocumentReport) -> None:
        self._note(f"finished {report.outcome}", source)

    def _note(self, what: str, source: Source) -> None:
        with self._lock:
            self.told.append((what, source.name))


def client(handler: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://callboard.test", transport=httpx.MockTransport(handler))


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of {name}")


def sent(folder: Path, server: Documents, *names: str, **options: Any) -> Report:
    files(folder, *names)
    return ingest(client(server), "kb", [Source(folder / name, name) for name in names], **options)


# What becomes of it


def test_each_outcome_is_told_apart_and_counted(tmp_path: Path) -> None:
    # Given a server on which each document ends in another way
    server = Documents(
        {
            "new": {"version": 1, "chunks": 3, "embedded": 3},
            "changed": {"version": 2, "chunks": 4, "embedded": 1, "reused": 3},
            "same": {"version": 1, "chunks": 5, "unchanged": True},
            "twin": {"version": 1, "chunks": 5, "duplicate_of": "another"},
            "broken": {"code": "unreadable_document", "message": "It is broken."},
        }
    )

    # When they are ingested
    report = sent(tmp_path, server, "new", "changed", "same", "twin", "broken")

    # Then the report has them in the order they were given, with the counts of chunks
    assert [one.outcome for one in report.documents] == [
        Outcome.NEW,
        Outcome.CHANGED,
        Outcome.UNCHANGED,
        Outcome.DUPLICATE,
        Outcome.FAILED,
    ]
    assert (report.embedded, report.reused) == (4, 3)
    assert report.counts[Outcome.SENT] == 0
    assert report.failed[0].error is not None
    assert report.failed[0].error.code == "unreadable_document"


def there(name: str, text: str, **fields: Any) -> dict[str, Any]:
    """A document as the API lists it, with this content."""
    content = text.encode()
    whole = {"document_id": DOCUMENT_ID, "name": name, "version": 3, "chunks": 5, "size_bytes": len(content)}
    whole |= {"sha256": hashlib.sha256(content).hexdigest(), "duplicate_of": None, "metadata": {}}
    return whole | {"chunk_size": 1_000, "chunk_overlap": 200, "chunk_unit": "characters"} | fields


def test_a_file_that_is_there_as_it_is_costs_a_hash_and_is_not_sent(tmp_path: Path) -> None:
    # Given a knowledge base with documents: one as the file is, others with other bytes, cuts or no version
    names = ("same", "other", "cut", "unstored")
    known = [
        there("same", "the content of same"),
        there("other", "the content of thae"),
        there("cut", "the content of cut", chunk_size=500),
        there("unstored", "the content of unstored", version=0),
    ]
    server = Documents({name: {"version": 4} for name in names[1:]}, there=known)

    # When the files are ingested
    report = sent(tmp_path, server, *names)

    # Then the first is unchanged, and only the others were sent
    assert [one.outcome for one in report.documents] == [Outcome.UNCHANGED, *[Outcome.CHANGED] * 3]
    assert (report.documents[0].version, report.documents[0].chunks) == (3, 5)
    assert server.asked.count("POST") == 3

    # And with other options it is sent
    server = Documents({"same": {"version": 4}}, there=known)
    assert sent(tmp_path, server, "same", options={"chunk_size": 500}).documents[0].version == 4


def test_the_watcher_is_told_the_stages_of_every_document(tmp_path: Path) -> None:
    notes = Notes()
    sent(tmp_path, Documents({"a": {"version": 1}}), "a", watcher=notes)
    assert notes.told == [
        ("started", "a"),
        ("embed", "a"),
        ("completed", "a"),
        ("finished new", "a"),
    ]


def test_what_is_at_a_url_is_fetched_by_the_server_and_followed_like_any_other(tmp_path: Path) -> None:
    # Given a file, and a URL with a secret in it
    files(tmp_path, "a.md")
    web = Source("https://example.com/b.md?key=secret", "b.md")
    notes, ends = Notes(), {"a.md": {"version": 1}, "b.md": {"version": 1, "unchanged": True}}
    # When both are ingested
    sources = [Source(tmp_path / "a.md", "a.md"), web]
    report = ingest(client(Documents(ends)), "kb", sources, watcher=notes)
    # Then both are followed and counted, and the report keeps the secret to itself
    assert [one.outcome for one in report.documents] == [Outcome.NEW, Outcome.UNCHANGED]
    assert [what for what, name in notes.told if name == "b.md"][-1] == "finished unchanged"
    assert report.documents[1].path == "https://example.com/b.md"


def test_without_waiting_a_document_is_sent_and_not_followed(tmp_path: Path) -> None:
    server = Documents({"a": {"version": 1}})
    report = sent(tmp_path, server, "a", wait=False)
    assert report.documents[0].outcome is Outcome.SENT
    assert server.asked == ["POST"]


def test_no_more_documents_are_under_way_than_allowed(tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(12)]
    server = Documents({name: {"version": 1} for name in names})
    sent(tmp_path, server, *names, at_once=3)
    assert 1 <= server.most_at_once <= 3


def test_a_document_that_the_server_refuses_fails_and_the_others_go_on(tmp_path: Path) -> None:
    server = Documents({"a": {"version": 1}, "big": problem(413, "too_large", "It is too large.")})
    report = sent(tmp_path, server, "big", "a")
    assert [one.outcome for one in report.documents] == [Outcome.FAILED, Outcome.NEW]
    assert report.failed[0].error is not None
    assert report.failed[0].error.message == "It is too large (413)"


def test_a_file_that_went_away_fails_and_the_others_go_on(tmp_path: Path) -> None:
    files(tmp_path, "a")
    sources = [Source(tmp_path / "gone", "gone"), Source(tmp_path / "a", "a")]
    report = ingest(client(Documents({"a": {"version": 1}})), "kb", sources)
    assert [one.outcome for one in report.documents] == [Outcome.FAILED, Outcome.NEW]


def test_a_busy_server_is_asked_again_when_it_wants_to_be(tmp_path: Path) -> None:
    busy = problem(429, "queue_full", "Full", headers={"Retry-After": "0"})
    server = Documents({"a": {"version": 1}}, refuse_first=busy)
    assert sent(tmp_path, server, "a").documents[0].outcome is Outcome.NEW
    assert server.asked.count("POST") == 2


def test_an_error_that_would_meet_every_document_stops_all(tmp_path: Path) -> None:
    # Given many documents, and a server that lets nobody write
    names = [f"d{number}" for number in range(50)]
    forbidden = problem(403, "forbidden", "No right to write.")
    server = Documents(dict.fromkeys(names, forbidden))

    # When they are ingested, then the refusal is raised and most documents were never sent
    with pytest.raises(ApiError, match="No right to write"):
        sent(tmp_path, server, *names)
    assert len(server.asked) < len(names)


# The knowledge base


def test_a_knowledge_base_that_is_missing_is_created_with_its_name_as_id() -> None:
    server = Script(
        problem(404, "not_found", "There is none."),
        httpx.Response(201, json={"kb_id": "handbook", "name": "handbook"}),
    )
    assert ensure_knowledge_base(client(server), "handbook") is True
    assert server.requests[1].read() == b'{"name":"handbook","kb_id":"handbook"}'


def test_a_knowledge_base_that_is_missing_is_created_with_the_embedder_asked_for() -> None:
    server = Script(
        problem(404, "not_found", "There is none."),
        httpx.Response(201, json={"kb_id": "handbook", "name": "handbook"}),
    )
    assert ensure_knowledge_base(client(server), "handbook", "fast") is True
    assert server.requests[1].read() == b'{"name":"handbook","kb_id":"handbook","embedder":"fast"}'


def test_a_knowledge_base_that_is_there_is_left_alone() -> None:
    server = Script(httpx.Response(200, json={"kb_id": "handbook", "name": "Handbook"}))
    assert ensure_knowledge_base(client(server), "handbook") is False


def test_a_knowledge_base_that_somebody_else_creates_meanwhile_is_used() -> None:
    server = Script(problem(404, "not_found", "There is none."), problem(409, "conflict", "There is one."))
    assert ensure_knowledge_base(client(server), "handbook") is False


def test_no_server_is_no_missing_knowledge_base() -> None:
    with pytest.raises(ServerUnreachable):
        ensure_knowledge_base(client(Script(httpx.ConnectError("refused"))), "handbook")
