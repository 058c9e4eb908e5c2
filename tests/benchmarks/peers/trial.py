"""One measurement of a peer: its tasks are submitted, its workers started, and their completions read."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.benchmarks.databases import settle
from tests.benchmarks.peers.catalogue import Peer
from tests.benchmarks.peers.stamps import read_all
from tests.support.databases import fresh_database
from tests.support.processes import REPOSITORY, channel_to

SECONDS = 120
END_SECONDS = 10
POLL_SECONDS = 0.25  # a look at the record counts its rows, so it is not to be had often


class PeerFailed(Exception):
    """A peer did not complete its tasks; the message has the end of its log."""


def completions(peer: Peer, python: Path, postgres_url: str, broker_url: str) -> list[float]:
    """Let the peer work on its tasks; when each of them was completed, in seconds.

    Raises:
      PeerFailed: it did not complete them in time.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        fresh_database(postgres_url) as database_url,
        _no_queues_left(peer, broker_url),
    ):
        folder = Path(name)
        environ = {
            **os.environ,
            **peer.settings,
            "PYTHONPATH": str(REPOSITORY),
            "PEER_DATABASE_URL": database_url,
            "PEER_BROKER_URL": broker_url,
            "PEER_FOLDER": name,
        }
        submit = [str(python), "-m", peer.app, "enqueue", str(peer.tasks)]
        subprocess.run(submit, cwd=folder, env=environ, check=True, timeout=SECONDS)
        settle(database_url)
        with _at_work(peer, python, folder, environ):
            _wait(peer, database_url, folder)
        return _times(peer, database_url, folder)


@contextmanager
def _at_work(peer: Peer, python: Path, folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """Its workers, each one with what it starts in a process group of its own."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "log").open("wb") as log:
            for words in peer.workers:
                running.append(
                    subprocess.Popen(
                        [str(python), *words],
                        cwd=folder,
                        env=environ,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        yield
    finally:
        for process in running:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the workers to end, and insist."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(peer: Peer, database_url: str, folder: Path) -> None:
    """Wait until all tasks are completed."""
    until = time.monotonic() + SECONDS
    while (done := _count(peer, database_url, folder)) < peer.tasks:
        if time.monotonic() > until:
            log = (folder / "log").read_text(errors="replace")[-2_000:]
            raise PeerFailed(f"{peer.name} completed {done} of {peer.tasks} tasks in {SECONDS} s:\n{log}")
        time.sleep(POLL_SECONDS)


def _count(peer: Peer, database_url: str, folder: Path) -> int:
    if peer.completed is None:
        return len(read_all(folder))
    with psycopg.connect(database_url) as connection:
        row = connection.execute(f"SELECT count(*) FROM ({peer.completed}) AS completed").fetchone()
    assert row is not None
    return int(row[0])


def _times(peer: Peer, database_url: str, folder: Path) -> list[float]:
    if peer.completed is None:
        return read_all(folder)
    sql = f"SELECT extract(epoch FROM at)::float8 FROM ({peer.completed}) AS completed"
    with psycopg.connect(database_url) as connection:
        return [float(at) for (at,) in connection.execute(sql).fetchall()]


@contextmanager
def _no_queues_left(peer: Peer, broker_url: str) -> Iterator[None]:
    """The peer's queues are empty at the beginning and gone at the end."""
    _delete(peer, broker_url)
    try:
        yield
    finally:
        _delete(peer, broker_url)


def _delete(peer: Peer, broker_url: str) -> None:
    with channel_to(broker_url) as channel:
        for queue in peer.queues:
            channel.queue_delete(queue)
        for exchange in peer.exchanges:
            channel.exchange_delete(exchange)
