"""One measurement of a peer: a database of its own, tasks that are submitted, workers that are started."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
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
    """A peer did not do its work; the message has the end of its log."""


class Trial:
    """What a measurement plays with."""

    def __init__(self, peer: Peer, python: Path, folder: Path, database_url: str, broker_url: str) -> None:
        self.peer = peer
        self.folder = folder
        self.database_url = database_url
        self._python = python
        self._environ = {
            **os.environ,
            **peer.settings,
            "PYTHONPATH": str(REPOSITORY),
            "PEER_DATABASE_URL": database_url,
            "PEER_BROKER_URL": broker_url,
            "PEER_FOLDER": str(folder),
        }

    def ask(self, *words: str) -> None:
        """Run the peer's app with these words until it ends.

        Raises:
          PeerFailed: it failed, or did not end in time.
        """
        command = [str(self._python), "-m", self.peer.app, *words]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._environ,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"{self.peer.name}: {words} did not end within {SECONDS} s") from None
        if done.returncode:
            raise PeerFailed(f"{self.peer.name}: {words} failed:\n{done.stderr[-2_000:]}")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Its workers run, each one with what it starts in a process group of its own."""
        running: list[subprocess.Popen[bytes]] = []
        try:
            with (self.folder / "log").open("wb") as log:
                for command in self.peer.workers:
                    running.append(
                        subprocess.Popen(
                            [str(self._python), *command.split()],
                            cwd=self.folder,
                            env=self._environ,
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

    def wait(self, count: Callable[[], int], wanted: int) -> None:
        """Wait until so many are counted.

        Raises:
          PeerFailed: they are not within the time.
        """
        until = time.monotonic() + SECONDS
        while (done := count()) < wanted:
            if time.monotonic() > until:
                log = (self.folder / "log").read_text(errors="replace")[-2_000:]
                raise PeerFailed(f"{self.peer.name} did {done} of {wanted} tasks in {SECONDS} s:\n{log}")
            time.sleep(POLL_SECONDS)


@contextmanager
def trial(peer: Peer, python: Path, postgres_url: str, broker_url: str) -> Iterator[Trial]:
    """A trial on a database of its own, with no queue of the peer before and after it."""
    _delete_queues(peer, broker_url)
    try:
        with tempfile.TemporaryDirectory() as folder, fresh_database(postgres_url) as database_url:
            yield Trial(peer, python, Path(folder), database_url, broker_url)
    finally:
        _delete_queues(peer, broker_url)


def completions(peer: Peer, python: Path, postgres_url: str, broker_url: str) -> list[float]:
    """Let the peer work on its tasks; when each of them was completed, in seconds.

    Raises:
      PeerFailed: it did not complete them in time.
    """
    with trial(peer, python, postgres_url, broker_url) as made:
        made.ask("enqueue", str(peer.tasks))
        settle(made.database_url)
        with made.at_work():
            made.wait(lambda: _count(made), peer.tasks)
        return _times(made)


def _count(made: Trial) -> int:
    if made.peer.completed is None:
        return len(read_all(made.folder))
    with psycopg.connect(made.database_url) as connection:
        row = connection.execute(f"SELECT count(*) FROM ({made.peer.completed}) AS completed").fetchone()
    assert row is not None
    return int(row[0])


def _times(made: Trial) -> list[float]:
    if made.peer.completed is None:
        return read_all(made.folder)
    sql = f"SELECT extract(epoch FROM at)::float8 FROM ({made.peer.completed}) AS completed"
    with psycopg.connect(made.database_url) as connection:
        return [float(at) for (at,) in connection.execute(sql).fetchall()]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the workers to end, and insist."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _delete_queues(peer: Peer, broker_url: str) -> None:
    with channel_to(broker_url) as channel:
        for queue in peer.queues:
            channel.queue_delete(queue)
        for exchange in peer.exchanges:
            channel.exchange_delete(exchange)
