"""The servers that benchmarks of the API send requests to, in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import httpx
import pika
import psycopg

from actors.rabbitmq.topology import declarations
from tests.benchmarks import per_request
from tests.support.databases import fresh_database
from tests.support.servers import free_port, postgres_server, rabbitmq_server

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 30.0
END_SECONDS = 20.0
#: The per-request application has its best time with the threads of one process a core.
PER_REQUEST_WORKERS, PER_REQUEST_THREADS = 2, 32


class Place:
    """A database, a broker, and a queue of our own on it."""

    def __init__(self, database_url: str, broker_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.broker_url = broker_url
        self.folder = folder
        self.queue = f"bench-{uuid4().hex[:12]}"
        self._reader = psycopg.connect(database_url, autocommit=True)

    def count(self, sql: str, *values: object) -> int:
        """The one number that a query gives."""
        row = self._reader.execute(sql, values).fetchone()
        return 0 if row is None else int(row[0])

    def message_count(self, queue: str) -> int:
        """How many messages are ready in a queue, as RabbitMQ counts."""
        connection = pika.BlockingConnection(pika.URLParameters(self.broker_url))
        try:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)
        finally:
            connection.close()

    def versions(self) -> dict[str, str]:
        """The versions of the servers, and of what serves HTTP."""
        postgres = self._reader.info.server_version
        connection = pika.BlockingConnection(pika.URLParameters(self.broker_url))
        properties = connection._impl.server_properties
        connection.close()
        return {
            "postgres": f"{postgres // 10_000}.{postgres % 10_000}",
            "rabbitmq": str(properties["version"]),
        } | {name: version(name) for name in ("gunicorn", "falcon", "pika")}

    def close(self) -> None:
        """Leave nothing but the database."""
        self.forget(self.queue)
        self._reader.close()

    def forget(self, queue: str) -> None:
        """Delete a queue and that of its dead letters."""
        connection = pika.BlockingConnection(pika.URLParameters(self.broker_url))
        try:
            for name, _ in declarations(queue, "classic"):
                connection.channel().queue_delete(name)
        finally:
            connection.close()


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """A new database and a new queue on real, durable servers; both are gone afterwards."""
    with postgres_server() as server, rabbitmq_server() as node, fresh_database(server) as url:
        made = Place(url, node.url, folder)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def callboard(at: Place, module: str, *arguments: str, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of Callboard; ``environ`` is without its prefix."""
    ours = {
        "CALLBOARD_DATABASE_URL": at.database_url,
        "CALLBOARD_BROKER_URL": at.broker_url,
        "CALLBOARD_DATA_DIR": str(at.folder),
        "CALLBOARD_LOG_LEVEL": "warning",
    }
    given = {f"CALLBOARD_{name}": value for name, value in environ.items()}
    with _running([sys.executable, "-m", module, *arguments], ours | given) as process:
        yield process


@contextmanager
def callboard_api(at: Place) -> Iterator[str]:
    """The API as ``callboard api`` runs it: its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with callboard(at, "api.process", HOST="127.0.0.1", PORT=str(port)):
        wait_until(lambda: _answers(f"{address}/ready"), "the API")
        yield address


@contextmanager
def per_request_app(at: Place) -> Iterator[str]:
    """The application that does everything in each request, on gunicorn with threads: its address."""
    port = free_port()
    queue = f"{at.queue}-per-request"
    environ = {
        per_request.DATABASE_VARIABLE: at.database_url,
        per_request.BROKER_VARIABLE: at.broker_url,
        per_request.QUEUE_VARIABLE: queue,
    }
    with psycopg.connect(at.database_url, autocommit=True) as connection:
        connection.execute(per_request.TABLE)
    command = [sys.executable, "-m", "gunicorn", "tests.benchmarks.per_request:application()"]
    options = {
        "--bind": f"127.0.0.1:{port}",
        "--worker-class": "gthread",
        "--workers": str(PER_REQUEST_WORKERS),
        "--threads": str(PER_REQUEST_THREADS),
        "--keep-alive": "75",
        "--log-level": "warning",
    }
    words = [*command, "--no-control-socket", *(word for pair in options.items() for word in pair)]
    try:
        with _running(words, environ):
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/", 404), "the per-request application")
            yield f"http://127.0.0.1:{port}"
    finally:
        at.forget(queue)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a server to be ready."""
    until = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} was not ready within {START_SECONDS:g} s")
        time.sleep(0.05)


def _answers(url: str, status: int = 200) -> bool:
    try:
        return httpx.get(url).status_code == status
    except httpx.TransportError:
        return False


@contextmanager
def _running(command: Sequence[str], environ: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env={**ours, "PYTHONPATH": str(REPOSITORY), **environ}
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(END_SECONDS)
