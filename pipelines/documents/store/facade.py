"""One object that holds the verbs of the store, by what they are about."""

from collections.abc import Iterator
from contextlib import contextmanager

from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.documents import Documents
from pipelines.documents.store.indexes import ensure_vector_index
from pipelines.documents.store.knowledge_bases import KnowledgeBases
from pipelines.documents.store.records import KnowledgeBase
from pipelines.documents.store.reembeddings import Reembeddings
from pipelines.documents.store.search import Search
from pipelines.documents.store.vectors import Vectors
from pipelines.documents.store.versions import Versions
from tasks.database import session

MIGRATIONS = "pipelines.documents.store.migrations"

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))"


class DocumentStore:
    """The document store on ``database`` (see `tasks.database.connect`), which `MIGRATIONS` has prepared.

    Threads may share it: each verb borrows a connection for as long as it runs.
    """

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database
        self.knowledge_bases = KnowledgeBases(database)
        self.documents = Documents(database)
        self.versions = Versions(database)
        self.vectors = Vectors(database)
        self.reembeddings = Reembeddings(database)
        self.search = Search(database)

    @contextmanager
    def alone(self, kb: KnowledgeBase, sha256: str) -> Iterator[None]:
        """One transaction, in which nobody else who asks for the same stores these bytes in ``kb``."""
        with session(self._database), self._database.atomic():
            self._database.execute_sql(_LOCK, (f"{kb.key}/{sha256}",))
            yield

    def ensure_vector_index(self, dim: int) -> bool:
        """Build the index for vectors of ``dim`` dimensions if there are enough; whether it is there."""
        return ensure_vector_index(self._database, dim)
