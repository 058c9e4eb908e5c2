"""What ``callboard doctor`` looks at."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from dramatiq.errors import ConnectionClosed

from actors.errors import BrokerError
from actors.rabbitmq import topology
from pipelines.catalogue import collect
from pipelines.documents import embedders
from pipelines.documents.equipment import endpoint_of
from pipelines.documents.reembedding import reembedding
from pipelines.documents.stages import document_processing
from tasks.database import connect, session
from tasks.errors import CallboardError
from tasks.settings import Settings


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at, and what was found."""

    about: str
    fine: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that a process of Callboard needs."""
    return [
        _postgres(settings),
        _rabbitmq(settings),
        _actors(settings),
        *_roots(settings),
        *_embedders(settings),
        _address(settings),
    ]


def _postgres(settings: Settings) -> Finding:
    if settings.database_url is None:
        return Finding("Postgres", True, f"the embedded one, below {settings.data_dir}")
    database = connect(settings.database_url)
    try:
        with session(database):
            version = database.execute_sql("SHOW server_version").fetchone()[0]
            vector = database.execute_sql(
                "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
            ).fetchone()[0]
    except CallboardError as error:
        return Finding("Postgres", False, f"{error.message.strip()}; check CALLBOARD_DATABASE_URL")
    finally:
        database.close_all()
    if not vector:
        return Finding("Postgres", False, f"version {version} without pgvector: install it")
    return Finding("Postgres", True, f"version {version} with pgvector")


def _rabbitmq(settings: Settings) -> Finding:
    if not settings.broker_urls:
        return Finding("RabbitMQ", True, "none is set: workers fetch from Postgres")
    try:
        connection = topology.connect(topology.parameters(settings.broker_urls))
        connection.close()
    except (BrokerError, ConnectionClosed) as error:
        return Finding("RabbitMQ", False, f"cannot be reached ({error}); check CALLBOARD_BROKER_URL")
    return Finding("RabbitMQ", True, "answers")


def _actors(settings: Settings) -> Finding:
    try:
        catalogue = collect(settings.actors, own=[document_processing, reembedding])
    except CallboardError as error:
        return Finding("Actors", False, error.message)
    return Finding("Actors", True, ", ".join([*catalogue.actors.names, *sorted(catalogue.pipelines)]))


def _roots(settings: Settings) -> Iterator[Finding]:
    for root in settings.file_roots:
        if root == Path(root.anchor):
            yield Finding("File root", False, f"{root} is the whole file system: name a folder")
        else:
            yield Finding(
                "File root", root.is_dir(), str(root) if root.is_dir() else f"{root} is not a folder"
            )


def _embedders(settings: Settings) -> Iterator[Finding]:
    """The default one, and the endpoint if there is one: knowledge bases may use it all the same."""
    endpoint = endpoint_of(settings)
    for name in dict.fromkeys([settings.embedder, *(["http"] if endpoint else [])]):
        try:
            model = embedders.stored_name(name, endpoint)
            dim = embedders.load(model, endpoint).dim
        except CallboardError as error:
            yield Finding("Embedder", False, f"{name}: {error.message}")
        else:
            yield Finding("Embedder", True, f"{model}, {dim} dimensions")


def _address(settings: Settings) -> Finding:
    fine = settings.host in ("127.0.0.1", "::1", "localhost")
    return Finding(
        "Address",
        fine,
        f"{settings.host}:{settings.port}"
        + ("" if fine else " can be reached from elsewhere, and there is no auth: use 127.0.0.1"),
    )
