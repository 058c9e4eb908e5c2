"""What the API's tests run on: a library that only remembers, a pipeline, and the real server."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import falcon.testing
import msgspec

from actors.definitions import actor
from api.app import create_app
from api.desk import Desk
from pipelines.bootstrap import Kit
from pipelines.catalogue import Catalogue, collect
from pipelines.composition import Pipeline, stage
from pipelines.documents.values import Source
from tasks.errors import Conflict, NotFound
from tasks.ids import new_id
from tasks.settings import Settings

REPOSITORY = Path(__file__).parents[2]


class KnowledgeBase(msgspec.Struct):
    kb_id: str
    name: str
    embedder: str = "none"
    dim: int = 3
    documents: int = 0
    chunks: int = 0
    created_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


class Added(msgspec.Struct):
    document_id: UUID
    task_id: UUID
    name: str
    content: bytes
    source: Source


@dataclass
class Shelf:
    """A library that remembers what it was given."""

    bases: dict[str, KnowledgeBase] = field(default_factory=dict)
    added: list[Added] = field(default_factory=list)

    def create_knowledge_base(
        self, *, owner: str, kb_id: str | None, name: str, embedder: str | None
    ) -> KnowledgeBase:
        made = KnowledgeBase(kb_id or f"kb_{new_id().hex}", name, embedder or "none")
        if made.kb_id in self.bases:
            raise Conflict(f"There is a knowledge base {kb_id}: choose another kb_id.")
        self.bases[made.kb_id] = made
        return made

    def knowledge_bases(
        self, *, owner: str | None, limit: int, offset: int
    ) -> tuple[Sequence[KnowledgeBase], int]:
        return list(self.bases.values())[offset : offset + limit], len(self.bases)

    def knowledge_base(self, kb_id: str, *, owner: str | None) -> KnowledgeBase:
        if kb_id not in self.bases:
            raise NotFound(f"There is no knowledge base {kb_id}.")
        return self.bases[kb_id]

    def delete_knowledge_base(self, kb_id: str, *, owner: str | None) -> None:
        self.knowledge_base(kb_id, owner=owner)
        del self.bases[kb_id]

    def add_text(self, kb_id: str, text: str, source: Source, **_: Any) -> Added:
        return self._add(kb_id, text.encode(), source)

    def add_upload(self, kb_id: str, path: Path, source: Source, **_: Any) -> Added:
        return self._add(kb_id, path.read_bytes(), source)

    def add(self, kb_id: str, source: Source, **_: Any) -> Added:
        return self._add(kb_id, b"", source)

    def documents(
        self, kb_id: str, *, owner: str | None, limit: int, offset: int
    ) -> tuple[Sequence[Added], int]:
        return self.added[offset : offset + limit], len(self.added)

    def document(self, kb_id: str, document_id: UUID, *, owner: str | None) -> Added:
        for one in self.added:
            if one.document_id == document_id:
                return one
        raise NotFound("There is no such document.")

    def delete_document(self, kb_id: str, document_id: UUID, *, owner: str | None) -> None:
        self.added.remove(self.document(kb_id, document_id, owner=owner))

    def search(self, kb_id: str, *, owner: str | None, q: str, **asked: Any) -> Sequence[dict[str, Any]]:
        return [{"text": q, **asked}]

    def _add(self, kb_id: str, content: bytes, source: Source) -> Added:
        self.knowledge_base(kb_id, owner=None)
        added = Added(new_id(), new_id(), source.name or "", content, source)
        self.added.append(added)
        return added


@dataclass
class ShelfKit:
    """A kit for what concerns documents alone: no database, and a shelf for a library."""

    settings: Settings
    library: Shelf = field(default_factory=Shelf)
    catalogue: Catalogue = field(default_factory=lambda: collect(()))
    queries: Any = None
    schedules: Any = None


@stage
def gather_words(payload: Any) -> list[str]:
    return list(payload["words"])


@stage
def shout(word: str) -> str:
    return word.upper()


SHOUTING = Pipeline("shouting", gather_words | shout.map())


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A payload that takes nothing but its own field."""

    number: int


@actor
def strict(payload: Strict) -> int:
    return payload.number


@contextmanager
def api_on(kit: Kit | ShelfKit) -> Iterator[falcon.testing.TestClient]:
    """The API on a kit, called without a server."""
    desk = Desk(kit)
    try:
        yield falcon.testing.TestClient(create_app(desk))
    finally:
        desk.close()


@contextmanager
def served(settings: Settings, preamble: str = "") -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The API on its real server, in a process of its own: its address and the process.

    ``preamble`` is code that it executes before, to shorten its patience for example.
    """
    code = preamble + (
        "import sys, msgspec\n"
        "from api.serving import serve\n"
        "from pipelines.bootstrap import open_kit\n"
        "from tasks.settings import Settings\n"
        "serve(msgspec.json.decode(sys.argv[1], type=Settings, dec_hook=lambda t, v: t(v)), open_kit)"
    )
    argument = msgspec.json.encode(settings, enc_hook=str).decode()
    process = subprocess.Popen(
        [sys.executable, "-c", code, argument],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
