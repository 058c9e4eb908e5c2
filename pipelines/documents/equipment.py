"""What the document pipeline needs of a process, put together by its composition root."""

import threading
from collections.abc import Callable

from actors.web.connecting import Gate
from pipelines.documents import embedders
from pipelines.documents.blobs import Blobs
from pipelines.documents.embedders.port import Embedder, Endpoint
from pipelines.documents.fetching import Fetcher
from pipelines.documents.sources import Sources
from pipelines.documents.stages import Workshop
from pipelines.documents.store.facade import DocumentStore
from tasks.database import Database
from tasks.settings import Settings


def equip(settings: Settings, database: Database) -> Workshop:
    """The store, the blobs, the allowed sources and the embedders of one process; none is loaded yet."""
    store = DocumentStore(database)
    blobs = Blobs(settings.blobs)
    fetcher = Fetcher(settings.upload_limit, Gate(allow_private=settings.fetch_allow_private))
    sources = Sources(store, blobs, settings.file_roots, fetcher)
    return Workshop(store, blobs, sources, shared_embedders(endpoint_of(settings)), settings.upload_limit)


def endpoint_of(settings: Settings) -> Endpoint | None:
    """The embedding endpoint that the settings name, or None."""
    if settings.embedding_url is None or settings.embedding_model is None:
        return None
    return Endpoint(
        settings.embedding_url, settings.embedding_model, settings.embedding_key, settings.embedding_rate
    )


def shared_embedders(endpoint: Endpoint | None = None) -> Callable[[str], Embedder]:
    """Embedders by name, each made once: they are large, and safe to share between threads."""
    made: dict[str, Embedder] = {}
    lock = threading.Lock()

    def get(name: str) -> Embedder:
        with lock:
            if name not in made:
                made[name] = embedders.load(name, endpoint)
            return made[name]

    return get
