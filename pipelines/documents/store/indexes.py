"""The HNSW indexes: one for each dimension of vectors, built when exact search would become slow."""

from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.checks import checked_dim
from tasks.database import session

# Up to here an exact search takes as long as one by HNSW (about 15 ms), and storing a chunk
# without the index takes a tenth of the time.
EXACT_UP_TO = 10_000

_IS_VALID = """
SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass(%s)"""

_HAS_MORE_THAN = "SELECT EXISTS (SELECT FROM chunks WHERE dim = %s OFFSET %s)"


def ensure_vector_index(database: PooledPostgresqlDatabase, dim: int, *, above: int = EXACT_UP_TO) -> bool:
    """Build the index for vectors of ``dim`` dimensions once there are more than ``above`` of them.

    Reads and writes go on meanwhile. Whether the index is there now; when another connection is
    just building it, it is not, and searches are exact until it is. Not inside a transaction.
    """
    name = f"chunks_embedding_{checked_dim(dim)}"
    with session(database):
        if _is_valid(database, name):
            return True
        if not database.execute_sql(_HAS_MORE_THAN, (dim, above)).fetchone()[0]:
            return False
        # To wait for the lock would hold a snapshot, and the builder waits for all snapshots.
        if not database.execute_sql("SELECT pg_try_advisory_lock(hashtext(%s))", (name,)).fetchone()[0]:
            return False
        try:
            _build(database, name, dim)
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(hashtext(%s))", (name,))
        return True


def _build(database: PooledPostgresqlDatabase, name: str, dim: int) -> None:
    if _is_valid(database, name) is False:  # what a builder that was killed left behind
        database.execute_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    database.execute_sql(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON chunks "
        f"USING hnsw ((embedding::halfvec({dim})) halfvec_cosine_ops) WHERE dim = {dim}"
    )


def _is_valid(database: PooledPostgresqlDatabase, name: str) -> bool | None:
    """Whether the index can be used; None when there is none."""
    row = database.execute_sql(_IS_VALID, (name,)).fetchone()
    return None if row is None else bool(row[0])
