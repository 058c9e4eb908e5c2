"""Documents: register, find, list and delete them."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from peewee import SQL, IntegrityError
from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.checks import LONGEST_DOCUMENT_NAME, checked_name
from pipelines.documents.store.models import DocumentRow
from pipelines.documents.store.records import Document, KnowledgeBase, Page
from pipelines.documents.store.vectors import FORGET_ORPHANS
from tasks.database import session
from tasks.errors import NotFound
from tasks.ids import new_id

_DESCRIBE = """
UPDATE documents SET metadata = %s::jsonb, updated_at = now() WHERE id = %s AND metadata <> %s::jsonb"""

_LOCK = "SELECT id FROM documents WHERE kb = %s AND id = %s FOR UPDATE"

_HASHES = "SELECT coalesce(array_agg(DISTINCT text_hash), '{}') FROM chunks WHERE document_id = %s"

_DELETE = "DELETE FROM documents WHERE id = %s"


class Documents:
    """The documents of knowledge bases; what is sent under the same name again is a new version of one."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def register(self, kb: KnowledgeBase, name: str, task_id: UUID | None = None) -> Document:
        """The document ``name`` of ``kb``, made if need be; ``task_id`` is what will process it now.

        Raises `InvalidField` for the name, and `NotFound` when the knowledge base is gone.
        """
        upsert = (
            DocumentRow.insert(id=new_id(), kb=kb.key, name=_name(name), task_id=task_id)
            .on_conflict(
                conflict_target=[DocumentRow.kb, DocumentRow.name],
                update={
                    DocumentRow.task_id: SQL("coalesce(EXCLUDED.task_id, documents.task_id)"),
                    DocumentRow.updated_at: SQL("now()"),
                },
            )
            .returning(DocumentRow)
        )
        with session(self._database):
            try:
                row = next(iter(upsert.dicts().execute(self._database)))
            except IntegrityError as error:
                raise NotFound(f"The knowledge base {kb.kb_id!r} is gone: create it again first.") from error
        return Document(**row)

    def get(self, kb: KnowledgeBase, document_id: UUID) -> Document:
        """The document ``document_id`` of ``kb``. Raises `NotFound`."""
        document = self._first(_inside(kb).where(DocumentRow.id == document_id))
        if document is None:
            raise _not_found(document_id)
        return document

    def list(self, kb: KnowledgeBase, *, limit: int = 20, offset: int = 0) -> Page[Document]:
        """The documents of ``kb``, newest first."""
        page = _inside(kb).order_by(DocumentRow.id.desc()).limit(limit).offset(offset)
        with session(self._database), self._database.atomic():
            total = _inside(kb).count(self._database)
            return Page([Document(**row) for row in page.execute(self._database)], total)

    def find_unchanged(self, kb: KnowledgeBase, name: str, sha256: str) -> Document | None:
        """The document ``name`` when its searchable version was made from the very bytes of ``sha256``."""
        same = _searchable(kb).where(DocumentRow.name == _name(name), DocumentRow.sha256 == sha256)
        return self._first(same)

    def find_duplicate(
        self,
        kb: KnowledgeBase,
        name: str,
        sha256: str,
        cut: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
    ) -> Document | None:
        """The oldest searchable document to which a new one, ``name``, would add nothing but its name.

        It has the same bytes, is cut alike, and what is said of the new one (None: nothing) is said of it
        too. None if ``name`` itself is searchable: then these bytes are its new version.
        """
        said = None if metadata is None else json.dumps(dict(metadata))
        own = _searchable(kb).where(DocumentRow.name == _name(name))
        others = _searchable(kb).where(DocumentRow.sha256 == sha256)
        others = others.where(SQL("cut = %s::jsonb", [json.dumps(dict(cut))]))
        if said is not None:
            others = others.where(SQL("metadata = %s::jsonb", [said]))
        return None if self._first(own) else self._first(others.order_by(DocumentRow.id))

    def mark_duplicate(self, document_id: UUID, sha256: str) -> None:
        """Remember the bytes of a document that was not stored, since another one of them is searchable."""
        unstored = (DocumentRow.id == document_id) & (DocumentRow.version == 0)
        with session(self._database):
            DocumentRow.update(sha256=sha256).where(unstored).execute(self._database)

    def describe(self, document_id: UUID, metadata: Mapping[str, Any]) -> bool:
        """Replace what users say about a document; whether that was anything new."""
        value = json.dumps(dict(metadata))
        with session(self._database):
            return bool(self._database.execute_sql(_DESCRIBE, (value, document_id, value)).rowcount)

    def delete(self, kb: KnowledgeBase, document_id: UUID) -> None:
        """Remove the document with all versions and chunks, and the vectors that no other one has.

        A run that counted on one of those embeds that text again. Raises `NotFound`.
        """
        with session(self._database), self._database.atomic():
            if self._database.execute_sql(_LOCK, (kb.key, document_id)).fetchone() is None:
                raise _not_found(document_id)
            (hashes,) = self._database.execute_sql(_HASHES, (document_id,)).fetchone()
            self._database.execute_sql(_DELETE, (document_id,))
            self._database.execute_sql(FORGET_ORPHANS, (kb.embedder, hashes))

    def exists(self, document_id: UUID) -> bool:
        """Whether there is a document."""
        with session(self._database):
            query = DocumentRow.select().where(DocumentRow.id == document_id)
            return bool(query.exists(self._database))

    def hashes(self) -> set[str]:
        """The SHA-256 of all documents, of whatever knowledge base."""
        with session(self._database):
            query = DocumentRow.select(DocumentRow.sha256).distinct()
            return {row.sha256 for row in query.execute(self._database)}

    def _first(self, query: Any) -> Document | None:
        with session(self._database):
            rows = list(query.limit(1).execute(self._database))
        return Document(**rows[0]) if rows else None


def _name(name: str) -> str:
    return checked_name(name, longest=LONGEST_DOCUMENT_NAME)


def _inside(kb: KnowledgeBase) -> Any:
    """A query for the documents; what one is a duplicate of is found for the rows of the page only."""
    other = DocumentRow.alias()
    same = (other.kb == kb.key) & (other.sha256 == DocumentRow.sha256) & (other.version > 0)
    unstored = (DocumentRow.version == 0) & (DocumentRow.sha256 != "")
    twin = other.select(other.id).where(same & unstored).order_by(other.id).limit(1)
    return DocumentRow.select(DocumentRow, twin.alias("duplicate_of")).where(DocumentRow.kb == kb.key).dicts()


def _searchable(kb: KnowledgeBase) -> Any:
    return _inside(kb).where(DocumentRow.version > 0)


def _not_found(document_id: UUID) -> NotFound:
    return NotFound(f"There is no document {document_id} here: list the documents of the knowledge base.")
