"""Embedding a knowledge base anew: the new vectors are written beside those that searches see.

Every chunk is copied into the next *generation*, with the vector of another model; then the knowledge base
says that this generation is the one that is seen. Documents are stored meanwhile as ever.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.checks import checked_dim
from pipelines.documents.store.errors import Superseded
from pipelines.documents.store.knowledge_bases import LOCK_ALONE
from pipelines.documents.store.records import KnowledgeBase, Reembedding, Span
from tasks.database import session
from tasks.errors import NotFound

SPAN = 64  # chunks
_REMOVED_AT_ONCE = 5_000

_DECIDE = "SELECT pg_advisory_xact_lock(hashtextextended('reembedding', %s))"

_FIND = "SELECT run_id, embedder, dim, generation, former, is_done FROM reembeddings WHERE kb = %s"

# The generation is one that nobody has written yet, unless this run claims it for the second time.
_CLAIM = """
INSERT INTO reembeddings AS r (kb, run_id, embedder, dim, generation, former)
SELECT key, %(run_id)s, %(embedder)s, %(dim)s, generation + 1, embedder
FROM knowledge_bases WHERE key = %(kb)s
ON CONFLICT (kb) DO UPDATE SET run_id = EXCLUDED.run_id, embedder = EXCLUDED.embedder, dim = EXCLUDED.dim,
    generation = greatest(EXCLUDED.generation, r.generation + 1), former = EXCLUDED.former, is_done = false
WHERE r.run_id <> EXCLUDED.run_id OR r.is_done"""

_SEARCHABLE = "FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version"

_LEFT = """
WHERE c.kb = %(kb)s AND c.generation = (SELECT generation FROM knowledge_bases WHERE key = %(kb)s)
AND NOT EXISTS (SELECT FROM chunks n WHERE n.document_id = c.document_id AND n.version = c.version
                AND n.generation = %(generation)s AND n.ordinal = c.ordinal)"""

_SPANS = f"""
SELECT c.document_id, c.version, min(c.ordinal), max(c.ordinal) + 1, count(*) {_SEARCHABLE} {_LEFT}
GROUP BY c.document_id, c.version, c.ordinal / {SPAN} ORDER BY c.document_id, c.version, min(c.ordinal)"""

_IS_ANY_LEFT = f"SELECT EXISTS (SELECT {_SEARCHABLE} {_LEFT})"

_PIECES = f"""
SELECT c.document_id, c.version, c.ordinal, c.text, c.text_hash {_SEARCHABLE}
JOIN unnest(%(documents)s::uuid[], %(versions)s::int[], %(firsts)s::int[], %(ends)s::int[])
     AS s (document_id, version, first, beyond) ON s.document_id = c.document_id
     AND s.version = c.version AND c.ordinal >= s.first AND c.ordinal < s.beyond {_LEFT}"""

# What was removed or replaced meanwhile is not there to be copied; what has no vector is copied later.
_COPY = """
INSERT INTO chunks (document_id, version, ordinal, generation, kb, text, heading_path, start_offset,
                    end_offset, text_hash, tokens, dim, embedding, tsv)
SELECT c.document_id, c.version, c.ordinal, %(generation)s, c.kb, c.text, c.heading_path, c.start_offset,
       c.end_offset, c.text_hash, new.tokens, %(dim)s, v.embedding, c.tsv
FROM unnest(%(documents)s::uuid[], %(versions)s::int[], %(ordinals)s::int[], %(tokens)s::int[])
     AS new (document_id, version, ordinal, tokens)
JOIN knowledge_bases k ON k.key = %(kb)s
JOIN chunks c ON c.document_id = new.document_id AND c.version = new.version
     AND c.generation = k.generation AND c.ordinal = new.ordinal
JOIN documents d ON d.id = c.document_id AND d.version = c.version
JOIN vectors v ON v.model = %(model)s AND v.text_hash = c.text_hash AND vector_dims(v.embedding) = %(dim)s
ORDER BY c.document_id, c.version, c.ordinal  -- one order for all writers: no deadlock
FOR KEY SHARE OF d
ON CONFLICT DO NOTHING"""

_SWITCH = """
UPDATE knowledge_bases k SET embedder = r.embedder, dim = r.dim, generation = r.generation
FROM reembeddings r WHERE k.key = %s AND r.kb = k.key"""

_DONE = "UPDATE reembeddings SET is_done = true WHERE kb = %s"

# Also copies of a version that was replaced while they were made. What somebody else removes is left to him.
_REMOVE_FORMER = """
DELETE FROM chunks WHERE ctid = ANY(ARRAY(
    SELECT c.ctid FROM chunks c
    JOIN knowledge_bases k ON k.key = c.kb JOIN documents d ON d.id = c.document_id
    WHERE c.kb = %s AND (c.generation < k.generation OR c.version < d.version)
    LIMIT %s FOR UPDATE OF c SKIP LOCKED))"""

_FORGET_FORMER = """
DELETE FROM vectors v USING (
    SELECT text_hash FROM chunks WHERE kb = %(kb)s
    EXCEPT
    SELECT c.text_hash FROM chunks c
    JOIN knowledge_bases k ON k.key = c.kb AND k.generation = c.generation AND k.embedder = %(model)s
) unused WHERE v.model = %(model)s AND v.text_hash = unused.text_hash"""


class Piece(NamedTuple):
    """A chunk that is to be copied."""

    document_id: UUID
    version: int
    ordinal: int
    text: str
    text_hash: bytes


class Reembeddings:
    """The verbs of embedding anew; each may be repeated after a crash."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    @contextmanager
    def deciding(self, kb: KnowledgeBase) -> Iterator[Reembedding | None]:
        """The last one of ``kb``, and nobody else claims one until the end of this block.

        What is claimed in the block stands only if the block does not fail.
        """
        with session(self._database), self._database.atomic():
            self._database.execute_sql(_DECIDE, (kb.key,))
            yield self._find(kb)

    def claim(self, kb: KnowledgeBase, run_id: UUID, embedder: str, dim: int) -> Reembedding:
        """Let ``run_id`` be the run that embeds ``kb`` anew; any other one is superseded by it.

        Raises `NotFound` when the knowledge base is gone.
        """
        values = {"kb": kb.key, "run_id": run_id, "embedder": embedder, "dim": checked_dim(dim)}
        with self.deciding(kb):
            self._database.execute_sql(_CLAIM, values)
            found = self._find(kb)
        if found is None:
            raise NotFound(f"The knowledge base {kb.kb_id!r} is gone: there is nothing to embed anew.")
        return found

    def of_run(self, kb: KnowledgeBase, run_id: UUID | None) -> Reembedding:
        """That of a run. Raises `Superseded` when another run has claimed ``kb`` since."""
        with session(self._database):
            found = self._find(kb)
        if found is None or found.run_id != run_id:
            raise Superseded(
                f"Another run embeds the knowledge base {kb.kb_id!r} anew: leave it to that one."
            )
        return found

    def spans(self, kb: KnowledgeBase, of: Reembedding) -> list[tuple[Span, int]]:
        """Where in ``kb`` there are searchable chunks that are not copied yet, and how many in each span."""
        with session(self._database):
            rows = self._database.execute_sql(_SPANS, _about(kb, of)).fetchall()
        return [(Span(*row[:4]), row[4]) for row in rows]

    def pieces(self, kb: KnowledgeBase, of: Reembedding, spans: Sequence[Span]) -> list[Piece]:
        """The chunks of these spans that are not copied yet."""
        columns = {
            "documents": [span.document_id for span in spans],
            "versions": [span.version for span in spans],
            "firsts": [span.first for span in spans],
            "ends": [span.end for span in spans],
        }
        with session(self._database):
            rows = self._database.execute_sql(_PIECES, _about(kb, of) | columns).fetchall()
        return [Piece._make([*row[:4], bytes(row[4])]) for row in rows]

    def copy(self, kb: KnowledgeBase, of: Reembedding, tokens: Mapping[Piece, int]) -> None:
        """Write these chunks, with their numbers of tokens, into the new generation.

        What has no vector yet of the new model is left out.
        """
        columns = {
            "documents": [piece.document_id for piece in tokens],
            "versions": [piece.version for piece in tokens],
            "ordinals": [piece.ordinal for piece in tokens],
            "tokens": list(tokens.values()),
        }
        values = _about(kb, of) | columns | {"model": of.embedder, "dim": of.dim}
        with session(self._database):
            self._database.execute_sql(_COPY, values)

    def switch(self, kb: KnowledgeBase, of: Reembedding) -> bool:
        """Let searches see the new generation, unless a searchable chunk is not copied yet; whether they do.

        Until the end of the transaction no document is stored. Raises `Superseded`.
        """
        with session(self._database), self._database.atomic():
            self._database.execute_sql(LOCK_ALONE, (kb.key,))
            if self.of_run(kb, of.run_id).is_done:
                return True
            if self._database.execute_sql(_IS_ANY_LEFT, _about(kb, of)).fetchone()[0]:
                return False
            self._database.execute_sql(_SWITCH, (kb.key,))
            self._database.execute_sql(_DONE, (kb.key,))
            return True

    def remove_former(self, kb: KnowledgeBase, of: Reembedding) -> int:
        """Remove the chunks of former generations, and what nobody uses of the former model; how many chunks.

        Before this, `switch` must have succeeded.
        """
        removed = 0
        with session(self._database):
            while count := self._database.execute_sql(_REMOVE_FORMER, (kb.key, _REMOVED_AT_ONCE)).rowcount:
                removed += count
            if of.former != of.embedder:
                self._database.execute_sql(_FORGET_FORMER, {"kb": kb.key, "model": of.former})
        return removed

    def _find(self, kb: KnowledgeBase) -> Reembedding | None:
        row = self._database.execute_sql(_FIND, (kb.key,)).fetchone()
        return None if row is None else Reembedding(*row)


def _about(kb: KnowledgeBase, of: Reembedding) -> dict[str, Any]:
    return {"kb": kb.key, "generation": of.generation}
