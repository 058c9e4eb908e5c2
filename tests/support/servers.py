"""Real servers for the tests: a Postgres and a RabbitMQ, private, on free ports, gone when the tests end.

Each one is kept by a *guard*, a child process that ends its server as soon as its standard input closes.
So nothing is left when the tests are killed, and the terminal's Ctrl-C reaches no server.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tasks.embedded import DATABASE, ROLE, SETTINGS, postgres_at
from tests.support import rabbitmq

REPOSITORY = Path(__file__).parents[2]
END_SECONDS = 60


class ServerMissing(Exception):
    """A server that the tests need is not there; the message says what to install."""


@dataclass(frozen=True)
class RabbitNode:
    """A RabbitMQ that the tests may use as they like."""

    url: str


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """The URL of a superuser on a real Postgres with pgvector.

    It is the one of ``CALLBOARD_TEST_DATABASE_URL``, else a private one on TCP, which does not outlive us.
    The private one saves itself the waiting for disks, unless it is to be ``durable`` as in production.

    Raises:
      ServerMissing: it cannot be started; the message says why.
    """
    given = os.environ.get("CALLBOARD_TEST_DATABASE_URL")
    if given:
        yield given
    else:
        with _guarded("durable postgres" if durable else "postgres") as url:
            yield url


@contextmanager
def rabbitmq_server() -> Iterator[RabbitNode]:
    """A real RabbitMQ.

    It is the one of ``CALLBOARD_TEST_BROKER_URL``, else a private node that does not outlive us: of an
    installed ``rabbitmq-server``, else by Docker, else of one that root installs by ``apt-get``.

    Raises:
      ServerMissing: there is none and none can be had; the message says what to install.
    """
    given = os.environ.get("CALLBOARD_TEST_BROKER_URL")
    if given:
        yield RabbitNode(given)
    else:
        with _guarded("rabbitmq") as url:
            yield RabbitNode(url)


@contextmanager
def _guarded(server: str) -> Iterator[str]:
    guard = subprocess.Popen(
        [sys.executable, "-m", __name__, server],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        answer = json.loads(guard.stdout.readline() or '{"error": "its guard ended, see above"}')
        if "error" in answer:
            raise ServerMissing(f"No {server} for the tests: {answer['error']}")
        yield answer["url"]
    finally:
        guard.stdin.close()
        try:
            guard.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            guard.terminate()
            guard.wait(END_SECONDS)
        guard.stdout.close()


@contextmanager
def _private_postgres(settings: Mapping[str, str]) -> Iterator[str]:
    port = free_port()
    settings = {**SETTINGS, "listen_addresses": "127.0.0.1", **settings}
    with (
        tempfile.TemporaryDirectory(prefix="callboard-test-") as folder,
        postgres_at(Path(folder) / "postgres", settings, port=port) as home,
    ):
        yield f"postgresql://{ROLE}:{quote(home.password)}@127.0.0.1:{port}/{DATABASE}"


@contextmanager
def _private_rabbitmq() -> Iterator[str]:
    program = rabbitmq.installed()
    if program is None and rabbitmq.docker_answers():
        with rabbitmq.in_docker() as url:
            yield url
        return
    if program is None and rabbitmq.can_be_installed():
        rabbitmq.install()
        program = rabbitmq.installed()
    if program is None:
        raise ServerMissing(rabbitmq.WHAT_TO_INSTALL)
    with rabbitmq.private_node(program, (free_port(), free_port(), free_port())) as url:
        yield url


def free_port() -> int:
    """A free TCP port on 127.0.0.1, below those that the system hands to outgoing connections."""
    while True:
        port = random.randint(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


SERVERS: Mapping[str, Callable[[], AbstractContextManager[str]]] = {
    "postgres": partial(_private_postgres, {"fsync": "off", "full_page_writes": "off"}),
    "durable postgres": partial(_private_postgres, {}),
    "rabbitmq": _private_rabbitmq,
}


def guard(server: str) -> None:
    """Run ``server``, say its URL in one line of JSON, and end it when the standard input closes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with SERVERS[server]() as url:
            print(json.dumps({"url": url}), flush=True)
            sys.stdin.read()
    except Exception as error:
        with suppress(BrokenPipeError):
            print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    guard(sys.argv[1])
