"""The library: what people do with knowledge bases and documents."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from uuid import UUID

import msgspec

from actors.submission import Order, Submission
from pipelines.documents.embedders.port import Embedder
from pipelines.documents.embedding import Models, check_dimension
from pipelines.documents.errors import EmbeddingRefused
from pipelines.documents.sources import Sources
from pipelines.documents.store.facade import DocumentStore
from pipelines.documents.store.filters import Filter
from pipelines.documents.store.records import Document as KeptDocument
from pipelines.documents.store.records import Hit as FoundHit
from pipelines.documents.store.records import KnowledgeBase as KeptKnowledgeBase
from pipelines.documents.store.search import EVERYTHING
from pipelines.documents.values import (
    AddedDocument,
    Document,
    Explanation,
    Hit,
    KnowledgeBase,
    Source,
)
from tasks.errors import InvalidField, SettingsError, Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATIENCE_SECONDS = 5.0
Mode = Literal["hybrid", "text", "vector"]


class Library:
    """Knowledge bases by their id and owner; ``owner`` None sees all. Every method blocks."""

    def __init__(
        self,
        store: DocumentStore,
        sources: Sources,
        submission: Submission,
        embedder: Callable[[str], Embedder],
        default_embedder: str,
        models: Models,
    ) -> None:
        self._store = store
        self._sources = sources
        self._submission = submission
        self._embedder = embedder
        self._default_embedder = default_embedder
        self._models = models

    def create_knowledge_base(
        self, *, owner: str, kb_id: str | None, name: str, embedder: str | None = None
    ) -> KnowledgeBase:
        """Make an empty knowledge base; ``embedder`` is e5, fast or http, by default that of the settings.

        Raises:
          Conflict: its owner has one of this id.
          InvalidField: the id, the name or the embedder cannot be used.
          Unavailable: the embedding endpoint, which is asked for its dimension, does not answer.
        """
        model = self._models.named(embedder or self._default_embedder)
        kb = self._store.knowledge_bases.create(owner, kb_id, name, model, self._models.dim(model))
        return _knowledge_base(kb)

    def knowledge_bases(
        self, *, owner: str | None, limit: int, offset: int
    ) -> tuple[list[KnowledgeBase], int]:
        """A page of knowledge bases, and how many there are."""
        page = self._store.knowledge_bases.list(owner, limit=limit, offset=offset)
        return [_knowledge_base(kb) for kb in page.items], page.total

    def knowledge_base(self, kb_id: str, *, owner: str | None) -> KnowledgeBase:
        """A knowledge base. Raises `NotFound`."""
        return _knowledge_base(self._kb(kb_id, owner))

    def delete_knowledge_base(self, kb_id: str, *, owner: str | None) -> None:
        """Remove a knowledge base with all its documents. Raises `NotFound`."""
        self._store.knowledge_bases.delete(kb_id, owner)

    def add(self, kb_id: str, source: Source, *, owner: str | None, created_by: str) -> AddedDocument:
        """Submit a file below an allowed root, or what is at a URL, which a worker fetches.

        Raises `NotFound`, `InvalidField`.
        """
        if source.name is not None:
            _check_name(source.name)
        return self._submit(self._kb(kb_id, owner), source, created_by)

    def add_upload(
        self, kb_id: str, path: Path, source: Source, *, owner: str | None, created_by: str
    ) -> AddedDocument:
        """Submit a local file, which is copied; ``source`` says all but where it is. Raises as `add`."""
        kb = self._kb(kb_id, owner)
        _check_name(source.name or "")
        kept = self._sources.keep(path)
        return self._submit(kb, msgspec.structs.replace(source, blob=kept.key), created_by)

    def add_text(
        self, kb_id: str, text: str, source: Source, *, owner: str | None, created_by: str
    ) -> AddedDocument:
        """Submit a text; ``source`` says all but what it is. Raises as `add`."""
        with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
            path = Path(folder) / "text"
            path.write_text(text, encoding="utf-8")
            return self.add_upload(kb_id, path, source, owner=owner, created_by=created_by)

    def documents(
        self, kb_id: str, *, owner: str | None, limit: int, offset: int
    ) -> tuple[list[Document], int]:
        """A page of the documents of a knowledge base, and how many there are. Raises `NotFound`."""
        page = self._store.documents.list(self._kb(kb_id, owner), limit=limit, offset=offset)
        return [_document(one) for one in page.items], page.total

    def document(self, kb_id: str, document_id: UUID, *, owner: str | None) -> Document:
        """A document. Raises `NotFound`."""
        return _document(self._store.documents.get(self._kb(kb_id, owner), document_id))

    def delete_document(self, kb_id: str, document_id: UUID, *, owner: str | None) -> None:
        """Remove a document with its versions, chunks, texts, and vectors of its own. Raises `NotFound`."""
        self._store.documents.delete(self._kb(kb_id, owner), document_id)
        self._sources.forget_texts(document_id)

    def search(
        self,
        kb_id: str,
        *,
        owner: str | None,
        q: str,
        limit: int,
        mode: str,
        explain: bool,
        filter: Filter = EVERYTHING,
        weight: float = 0.5,
        highlight: bool = False,
    ) -> list[Hit]:
        """The chunks that answer ``q`` best, of the documents that ``filter`` leaves.

        Raises `NotFound`, `InvalidField`, and `Unavailable` when the embedder cannot be used now.
        """
        kb = self._kb(kb_id, owner)
        wanted: Mode | None = next((one for one in get_args(Mode) if one == mode), None)
        if wanted is None:
            raise InvalidField.of("mode", f"must be one of {', '.join(get_args(Mode))}")
        if not q.strip():
            raise InvalidField.of("q", "is required: what to search for")
        while True:
            vector = None if wanted == "text" else self._question(kb, q)
            hits = self._store.search(
                kb,
                q,
                vector,
                limit=limit,
                mode=wanted,
                explain=explain,
                weight=weight,
                filter=filter,
                highlight=highlight,
            )
            if self._store.knowledge_bases.is_current(kb):
                return [_hit(one) for one in hits]
            # It has another embedder by now, and the vectors that were looked for may be gone.
            kb = self._kb(kb_id, owner)

    def _question(self, kb: KeptKnowledgeBase, q: str) -> "NDArray[np.float32]":
        """The vector of a question. Raises `Unavailable`, and `InvalidField` if it is refused."""
        try:
            vector = self._embedder(kb.embedder).query(q)
        except EmbeddingRefused as error:
            raise InvalidField.of("q", error.message) from error
        except SettingsError as error:
            raise Unavailable(
                f"The embedder of this knowledge base cannot be used: {error.message}"
            ) from error
        try:
            check_dimension(kb.embedder, len(vector), kb.dim)
        except EmbeddingRefused as error:
            raise Unavailable(error.message, code=error.code) from error
        return vector

    def _kb(self, kb_id: str, owner: str | None) -> KeptKnowledgeBase:
        return self._store.knowledge_bases.get(kb_id, owner)

    def _submit(self, kb: KeptKnowledgeBase, source: Source, created_by: str) -> AddedDocument:
        order = Order(
            task_type="document_processing",
            payload=msgspec.to_builtins(source),
            kb_id=kb.kb_id,
            user_id=kb.owner,
            created_by=created_by,
        )
        try:
            tasks = self._submission.prepare(order)
        except InvalidField as refused:
            # Here the fields of the payload are those of the body.
            errors = [(field.removeprefix("payload."), message) for field, message in refused.errors]
            raise InvalidField(errors, code=refused.code) from None
        # In this order, since a full queue may refuse it; the task makes its document if we cannot any more.
        self._submission.record([tasks], patience=PATIENCE_SECONDS).result()
        document = self._store.documents.register(kb, tasks[0].payload["name"], order.id)
        return AddedDocument(document_id=document.id, task_id=order.id)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > 500 or "\0" in name:
        raise InvalidField.of("name", "must be 1 to 500 characters without NUL")


def _knowledge_base(kb: KeptKnowledgeBase) -> KnowledgeBase:
    return KnowledgeBase(
        kb_id=kb.kb_id,
        name=kb.name,
        embedder=kb.embedder,
        dim=kb.dim,
        documents=kb.documents,
        chunks=kb.chunks,
        created_at=kb.created_at,
    )


def _document(one: KeptDocument) -> Document:
    return Document(
        document_id=one.id,
        name=one.name,
        media_type=one.media_type,
        size_bytes=one.size_bytes,
        sha256=one.sha256,
        version=one.version,
        chunks=one.chunks,
        chunk_size=one.cut.get("chunk_size"),
        chunk_overlap=one.cut.get("chunk_overlap"),
        chunk_unit=one.cut.get("chunk_unit", "characters") if one.cut else None,
        task_id=one.task_id,
        duplicate_of=one.duplicate_of,
        metadata=dict(one.metadata),
        created_at=one.created_at,
        updated_at=one.updated_at,
    )


def _hit(one: FoundHit) -> Hit:
    return Hit(
        text=one.text,
        score=one.score,
        document_id=one.document_id,
        name=one.name,
        heading_path=list(one.heading_path),
        start=one.start,
        end=one.end,
        tokens=one.tokens,
        highlights=None if one.highlights is None else list(one.highlights),
        explanation=None
        if one.explanation is None
        else msgspec.convert(one.explanation, Explanation, from_attributes=True),
    )
