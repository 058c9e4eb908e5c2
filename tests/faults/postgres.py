"""A Postgres of our own, with durable settings, that a test may kill and start again on its port and data."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from tasks.embedded import DATABASE, ROLE, SETTINGS, postgres_at
from tasks.embedded_programs import account_for, programs, reachable
from tests.faults.children import run_child
from tests.support.servers import free_port
from tests.support.waiting import eventually

START_SECONDS = 60
RESTART_SECONDS = 0.5


class Postgres:
    """A private server whose cluster lies in ``folder``. `heal` starts it if a test has left it dead."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._data = folder / "postgres" / "data"
        self._log = folder / "postgres.log"
        self._port = free_port()
        self._settings = {**SETTINGS, "listen_addresses": "127.0.0.1", "max_connections": "200", **settings}
        with postgres_at(folder / "postgres", self._settings, port=self._port) as home:
            user = f"{ROLE}:{quote(home.password)}"
        self.url = f"postgresql://{user}@127.0.0.1:{self._port}/{DATABASE}"
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server, with the data it had, and wait until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while not self._starts():
            assert time.monotonic() < deadline, f"Postgres does not start:\n{self._last_words()}"
            time.sleep(RESTART_SECONDS)

    def _starts(self) -> bool:
        account = account_for(self._data)
        options = {**self._settings, "port": str(self._port), "unix_socket_directories": "."}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with reachable(self._data, account) as (data, keep):
            self._server = run_child(
                [str(programs(account) / "postgres"), "-D", data, *words],
                {"PATH": os.defpath, "LC_ALL": "C"},
                self._log,
                cwd="/",
                pass_fds=keep,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
            eventually(lambda: self.process.poll() is not None or self.answers(), START_SECONDS)
        return self.process.poll() is None

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The postmaster."""
        assert self._server is not None
        return self._server

    def answers(self) -> bool:
        """Whether a client can connect."""
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False

    def kill(self) -> None:
        """End the postmaster and all of its processes without a last word (SIGKILL), if they live."""
        if self.process.poll() is not None:
            return
        # It must not fork another backend while we list them: that one would hold on to the shared memory.
        postmaster = psutil.Process(self.process.pid)
        postmaster.suspend()
        eventually(lambda: postmaster.status() == psutil.STATUS_STOPPED)
        family = postmaster.children(recursive=True)
        self.process.kill()
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()
        psutil.wait_procs(family, START_SECONDS)
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # it names a process that is gone

    def freeze(self) -> None:
        """Let all of its processes stand still (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all of its processes go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            for one in [self.process, *psutil.Process(self.process.pid).children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    os.kill(one.pid, number)

    def heal(self) -> None:
        """Leave a server that runs and answers."""
        self.thaw()
        if self.process.poll() is None:
            eventually(self.answers, START_SECONDS)
        else:
            self.start()

    def end(self) -> None:
        """End the server."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(START_SECONDS)


@contextmanager
def private_postgres() -> Iterator[Postgres]:
    """A durable Postgres in a folder that is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="callboard-faults-") as folder,
        postgres_in(Path(folder)) as server,
    ):
        yield server


@contextmanager
def postgres_in(folder: Path) -> Iterator[Postgres]:
    """A durable Postgres in a folder that somebody else removes."""
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.end()
