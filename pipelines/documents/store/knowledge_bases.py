"""Knowledge bases: make, find, list and delete them."""

import secrets
from typing import Any

from peewee import IntegrityError, fn
from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.checks import checked_dim, checked_kb_id, checked_name
from pipelines.documents.store.models import DocumentRow, KnowledgeBaseRow
from pipelines.documents.store.records import KnowledgeBase, Page
from tasks.database import session
from tasks.errors import Conflict, NotFound

# While a knowledge base changes its embedder no document is stored in it. The lock is a fair one: many that
# store documents do not keep out for long who waits to be alone.
LOCK_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtextextended('knowledge base', %s))"
LOCK_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('knowledge base', %s))"


class KnowledgeBases:
    """Every verb takes the owner; ``None`` stands for all owners, '' for nobody in particular."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def create(self, owner: str, kb_id: str | None, name: str, embedder: str, dim: int) -> KnowledgeBase:
        """A new knowledge base for vectors of ``embedder`` with ``dim`` dimensions.

        Without ``kb_id`` one is made up. Raises `InvalidField`, and `Conflict` when the owner has a
        knowledge base of this ``kb_id`` already.
        """
        kb_id = f"kb_{secrets.token_hex(8)}" if kb_id is None else checked_kb_id(kb_id)
        insert = KnowledgeBaseRow.insert(
            owner=owner,
            kb_id=kb_id,
            name=checked_name(name),
            embedder=embedder,
            dim=checked_dim(dim),
            generation=0,
        )
        with session(self._database):
            try:
                insert.execute(self._database)
            except IntegrityError as error:
                raise Conflict(
                    f"There is a knowledge base {kb_id!r} already: use it, or choose another kb_id."
                ) from error
            return self.get(kb_id, owner)

    def get(self, kb_id: str, owner: str | None = None) -> KnowledgeBase:
        """The knowledge base ``kb_id`` of ``owner``.

        Raises `NotFound`, and `Conflict` when no owner is named and several have one of this name.
        """
        with session(self._database):
            found = list(
                _select(owner).where(KnowledgeBaseRow.kb_id == kb_id).limit(2).execute(self._database)
            )
        if not found:
            raise _not_found(kb_id)
        if len(found) > 1:
            raise Conflict(f"Several owners have a knowledge base {kb_id!r}: say whose is meant.")
        return KnowledgeBase(**found[0])

    def list(self, owner: str | None = None, *, limit: int = 20, offset: int = 0) -> Page[KnowledgeBase]:
        """The knowledge bases of ``owner``, newest first."""
        newest = _select(owner).order_by(KnowledgeBaseRow.key.desc()).limit(limit).offset(offset)
        with session(self._database), self._database.atomic():
            total = KnowledgeBaseRow.select().where(_of(owner)).count(self._database)
            return Page([KnowledgeBase(**row) for row in newest.execute(self._database)], total)

    def is_current(self, kb: KnowledgeBase) -> bool:
        """Whether it is there and has the embedder that it had when ``kb`` was read."""
        same = (KnowledgeBaseRow.key == kb.key) & (KnowledgeBaseRow.generation == kb.generation)
        with session(self._database):
            return bool(KnowledgeBaseRow.select().where(same).exists(self._database))

    def delete(self, kb_id: str, owner: str | None = None) -> None:
        """Remove it with all its documents and chunks. Raises as `get` does."""
        with session(self._database):
            key = self.get(kb_id, owner).key
            gone = KnowledgeBaseRow.delete().where(KnowledgeBaseRow.key == key).execute(self._database)
        if not gone:
            raise _not_found(kb_id)


def _of(owner: str | None) -> Any:
    """The condition that a row is ``owner``'s."""
    return True if owner is None else KnowledgeBaseRow.owner == owner


def _select(owner: str | None) -> Any:
    """A query for the fields of `KnowledgeBase`; the counts are made for the rows of the page only."""
    documents = DocumentRow.alias()
    inside = documents.kb == KnowledgeBaseRow.key
    return (
        KnowledgeBaseRow.select(
            KnowledgeBaseRow,
            documents.select(fn.COUNT(documents.id)).where(inside).alias("documents"),
            documents.select(fn.COALESCE(fn.SUM(documents.chunks), 0)).where(inside).alias("chunks"),
        )
        .where(_of(owner))
        .dicts()
    )


def _not_found(kb_id: str) -> NotFound:
    return NotFound(f"There is no knowledge base {kb_id!r}: create it first, or check its kb_id.")
