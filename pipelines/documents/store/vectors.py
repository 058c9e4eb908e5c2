"""The cache of embeddings: a text is embedded once a model, however many documents hold it."""

import struct
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from playhouse.pool import PooledPostgresqlDatabase
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from pipelines.documents.store.checks import checked_dim
from tasks.database import session
from tasks.errors import InvalidField

_MISSING = """
SELECT DISTINCT wanted.text_hash FROM unnest(%s::bytea[]) AS wanted (text_hash)
WHERE NOT EXISTS (SELECT FROM vectors v WHERE v.model = %s AND v.text_hash = wanted.text_hash)"""

_SAVE = """
INSERT INTO vectors (model, run_id, text_hash, embedding)
SELECT %s, %s, text_hash, embedding FROM unnest(%s::bytea[], %s::halfvec[]) AS new (text_hash, embedding)
ORDER BY text_hash  -- one order for all writers, so that two of them cannot deadlock
ON CONFLICT DO NOTHING"""

_MADE_BY = "SELECT count(*) FROM vectors WHERE model = %s AND text_hash = ANY(%s) AND run_id = %s"

_FORGET = """
DELETE FROM vectors v
WHERE created_at < %s AND NOT EXISTS (SELECT FROM chunks c WHERE c.text_hash = v.text_hash)"""

#: Of a model's vectors for some hashes, removes those whose text is in no chunk. In one order and waiting for
#: nobody: two that remove chunks with the same texts cannot deadlock.
FORGET_ORPHANS = """
DELETE FROM vectors WHERE (model, text_hash) IN (
    SELECT v.model, v.text_hash FROM vectors v
    WHERE v.model = %s AND v.text_hash = ANY(%s)
      AND NOT EXISTS (SELECT FROM chunks c WHERE c.text_hash = v.text_hash)
    ORDER BY v.text_hash FOR UPDATE SKIP LOCKED)"""


class Vectors:
    """Embeddings by (model, hash of the text)."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def missing(self, model: str, hashes: Collection[bytes]) -> set[bytes]:
        """Those of ``hashes`` whose text ``model`` has not embedded yet."""
        with session(self._database):
            rows = self._database.execute_sql(_MISSING, (list(hashes), model)).fetchall()
        return {bytes(text_hash) for (text_hash,) in rows}

    def save(
        self,
        model: str,
        hashes: Sequence[bytes],
        vectors: npt.NDArray[np.float32],
        run_id: UUID | None = None,
    ) -> None:
        """Keep ``vectors`` (shape ``(len(hashes), dim)``); what is there already stays as it is.

        ``run_id`` is whose work they are (see `made_by`). Raises `InvalidField` when the shape does not
        fit or a value is not finite.
        """
        if not hashes:
            return
        _check(hashes, vectors)
        with session(self._database):
            (oid,) = self._database.execute_sql("SELECT 'halfvec'::regtype::oid::bigint").fetchone()
            self._database.connection().adapters.register_dumper(_HalfvecArray, _HalfvecArrayDumper)
            array = _HalfvecArray(_binary_array(vectors, oid))
            self._database.execute_sql(_SAVE, (model, run_id, list(hashes), array))

    def made_by(self, run_id: UUID | None, model: str, hashes: Collection[bytes]) -> int:
        """How many of ``hashes`` a run has embedded, also before it was killed and ran again."""
        with session(self._database):
            values = (model, list(hashes), run_id)
            return int(self._database.execute_sql(_MADE_BY, values).fetchone()[0])

    def forget_unused(self, before: datetime) -> int:
        """Remove embeddings that are older than ``before`` and in no document any more; how many."""
        with session(self._database):
            return int(self._database.execute_sql(_FORGET, (before,)).rowcount)


def _check(hashes: Sequence[bytes], vectors: npt.NDArray[np.float32]) -> None:
    if vectors.ndim != 2 or len(vectors) != len(hashes):
        raise InvalidField.of(
            "vectors", f"must have the shape ({len(hashes)}, dim), one row for each hash, not {vectors.shape}"
        )
    checked_dim(vectors.shape[1])
    if not np.isfinite(vectors.astype(np.float16)).all():
        raise InvalidField.of("vectors", "must be finite numbers within ±65504; check the embedder's output")


class _HalfvecArray:
    """A ``halfvec[]`` in Postgres' binary format."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class _HalfvecArrayDumper(Dumper):
    """Sends it as it is; the cast in the statement gives the type."""

    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        return bytes(obj.data)


def _binary_array(vectors: npt.NDArray[np.float32], element_oid: int) -> bytes:
    """``vectors`` as Postgres' array_recv reads them: as text the same takes fifty times as long."""
    count, dim = vectors.shape
    element = np.dtype([("size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("values", ">f2", (dim,))])
    elements = np.zeros(count, dtype=element)
    elements["size"] = element.itemsize - 4
    elements["dim"] = dim
    elements["values"] = vectors
    dimensions, has_nulls, first_index = 1, 0, 1
    return struct.pack(">iiIii", dimensions, has_nulls, element_oid, count, first_index) + elements.tobytes()
