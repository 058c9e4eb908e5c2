"""Versions of a document: the new one is written beside the old one and becomes visible in one step."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from peewee import IntegrityError
from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.checks import storable
from pipelines.documents.store.errors import VectorsMissing
from pipelines.documents.store.knowledge_bases import LOCK_SHARED
from pipelines.documents.store.lexemes import document_lexemes
from pipelines.documents.store.records import Content, NewChunk
from pipelines.documents.store.vectors import FORGET_ORPHANS
from tasks.database import session
from tasks.errors import Conflict, NotFound

BATCH = 1000  # chunks a statement: bounds memory on both sides

# What is begun is no duplicate of another document any more.
_BEGIN = """
UPDATE documents SET last_version = last_version + 1, updated_at = now(),
       sha256 = CASE version WHEN 0 THEN '' ELSE sha256 END
WHERE id = %s
RETURNING last_version"""

_BEGUN = "SELECT version FROM begun_versions WHERE run_id = %s AND document_id = %s"

_NOTE = "INSERT INTO begun_versions (run_id, document_id, version) VALUES (%s, %s, %s)"

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"

# The lock keeps a delete away until the end of the transaction, and nothing else.
_STATE = "SELECT version, last_version FROM documents WHERE id = %s FOR KEY SHARE"

_CLEAR = "DELETE FROM chunks WHERE document_id = %s AND version = %s"

_KNOWLEDGE_BASE = "SELECT kb FROM documents WHERE id = %s"

_INSERT = """
INSERT INTO chunks (document_id, version, ordinal, kb, generation, text, heading_path, start_offset,
                    end_offset, text_hash, tokens, dim, embedding, tsv)
SELECT d.id, %(version)s, new.ordinal, d.kb, k.generation, new.text, new.heading_path, new.start_offset,
       new.end_offset, new.text_hash, new.tokens, k.dim, v.embedding, to_tsvector('english', new.lexemes)
FROM json_to_recordset(%(chunks)s::json) AS new (ordinal int, text text, heading_path text[],
         start_offset int, end_offset int, text_hash bytea, tokens int, lexemes text)
JOIN vectors v ON v.model = %(model)s AND v.text_hash = new.text_hash
JOIN documents d ON d.id = %(document_id)s
JOIN knowledge_bases k ON k.key = d.kb AND k.embedder = v.model AND k.dim = vector_dims(v.embedding)"""

# A newer version may have become visible in the meantime: then this one never does.
_FLIP = """
UPDATE documents SET version = %(version)s, chunks = %(count)s, media_type = %(media_type)s,
       size_bytes = %(size_bytes)s, sha256 = %(sha256)s, cut = %(cut)s::jsonb,
       metadata = coalesce(%(metadata)s::jsonb, metadata), updated_at = now()
WHERE id = %(document_id)s AND version < %(version)s"""

_OLD_HASHES = """
SELECT k.embedder, coalesce(array_agg(DISTINCT c.text_hash), '{}')
FROM chunks c JOIN documents d ON d.id = c.document_id AND c.version < d.version
JOIN knowledge_bases k ON k.key = d.kb WHERE d.id = %s GROUP BY k.embedder"""

_REMOVE_OLD = """
DELETE FROM chunks c USING documents d
WHERE d.id = %s AND c.document_id = d.id AND c.version < d.version"""

_FORGET = """
DELETE FROM begun_versions b USING documents d
WHERE d.id = %s AND b.document_id = d.id AND b.version <= d.version"""


class Versions:
    """The life of a version: `begin`, `store`, `remove_old`. Each may be repeated after a crash."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def begin(self, document_id: UUID, run_id: UUID | None = None) -> int:
        """The number of a new version: nobody else gets it, and a run always the same. Raises `NotFound`."""
        with session(self._database), self._database.atomic():
            # A run that begins twice at once (its task was delivered again) waits here for itself.
            self._database.execute_sql(_LOCK, (f"{document_id}/{run_id}",))
            row = self._database.execute_sql(_BEGUN, (run_id, document_id)).fetchone()
            if row is None:
                row = self._database.execute_sql(_BEGIN, (document_id,)).fetchone()
                if row is None:
                    raise _gone(document_id)
                if run_id is not None:
                    self._database.execute_sql(_NOTE, (run_id, document_id, row[0]))
        return int(row[0])

    def store(
        self, document_id: UUID, version: int, chunks: Sequence[NewChunk], *, model: str, content: Content
    ) -> bool:
        """Write the chunks of ``version`` with the vectors of ``model`` and make it the searchable one.

        One transaction: searches see the old version or the new one whole. Whether the version became
        searchable now; False when it or a newer one was already. Raises `VectorsMissing`, also when the
        knowledge base has another model by now, `NotFound` when the document is gone, `Conflict` for a
        version that was never begun.
        """
        with session(self._database), self._database.atomic():
            # The same version may be stored twice at once (a task that was delivered again).
            self._database.execute_sql(_LOCK, (f"{document_id}/{version}",))
            self._keep_embedder(document_id)
            if self._is_passed(document_id, version):
                return False
            self._database.execute_sql(_CLEAR, (document_id, version))
            try:
                for first in range(0, len(chunks), BATCH):
                    self._insert(document_id, version, chunks[first : first + BATCH], model)
            except IntegrityError as error:
                raise Conflict(
                    f"Two chunks of document {document_id} have the same ordinal: number them apart."
                ) from error
            return self._flip(document_id, version, len(chunks), content)

    def remove_old(self, document_id: UUID) -> int:
        """Remove the chunks of versions before the searchable one and vectors only they had; how many chunks.

        The run that made that one may begin another one from now on.
        """
        with session(self._database), self._database.atomic():
            self._database.execute_sql(_FORGET, (document_id,))
            old = self._database.execute_sql(_OLD_HASHES, (document_id,)).fetchone()
            removed = int(self._database.execute_sql(_REMOVE_OLD, (document_id,)).rowcount)
            if old is not None:
                self._database.execute_sql(FORGET_ORPHANS, old)
            return removed

    def _keep_embedder(self, document_id: UUID) -> None:
        """Until the end of the transaction its knowledge base keeps the model that it has."""
        row = self._database.execute_sql(_KNOWLEDGE_BASE, (document_id,)).fetchone()
        if row is None:
            raise _gone(document_id)
        self._database.execute_sql(LOCK_SHARED, (row[0],))

    def _is_passed(self, document_id: UUID, version: int) -> bool:
        row = self._database.execute_sql(_STATE, (document_id,)).fetchone()
        if row is None:
            raise _gone(document_id)
        searchable, last = row
        if not 1 <= version <= last:
            raise Conflict(f"Version {version} of document {document_id} was never begun: begin one first.")
        return bool(searchable >= version)

    def _insert(self, document_id: UUID, version: int, chunks: Sequence[NewChunk], model: str) -> None:
        rows = json.dumps([_row(chunk) for chunk in chunks], ensure_ascii=False)
        values = {"document_id": document_id, "version": version, "model": model, "chunks": rows}
        stored = self._database.execute_sql(_INSERT, values).rowcount
        if stored < len(chunks):
            raise VectorsMissing(
                f"{len(chunks) - stored} of {len(chunks)} chunks have no vector of {model!r} with the "
                "dimensions of the knowledge base: embed them with its embedder, then store again."
            )

    def _flip(self, document_id: UUID, version: int, count: int, content: Content) -> bool:
        values = {
            "document_id": document_id,
            "version": version,
            "count": count,
            "media_type": content.media_type,
            "size_bytes": content.size_bytes,
            "sha256": content.sha256,
            "cut": json.dumps(dict(content.cut)),
            "metadata": None if content.metadata is None else json.dumps(dict(content.metadata)),
        }
        return bool(self._database.execute_sql(_FLIP, values).rowcount)


def _row(chunk: NewChunk) -> Mapping[str, Any]:
    text = storable(chunk.text)
    return {
        "ordinal": chunk.ordinal,
        "text": text,
        "heading_path": [storable(heading) for heading in chunk.heading_path],
        "start_offset": chunk.start,
        "end_offset": chunk.end,
        "text_hash": f"\\x{chunk.text_hash.hex()}",
        "tokens": chunk.tokens,
        "lexemes": document_lexemes(text),
    }


def _gone(document_id: UUID) -> NotFound:
    return NotFound(f"The document {document_id} is gone: send it again to have it processed.")
