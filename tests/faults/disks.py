"""A Postgres whose disk gets full: a small file system of its own where one can be mounted.

Where none can be mounted (no root, or a container without the right to), its tables refuse every new row with
the error that a full disk gives. That shows what we make of the error; only the file system shows the rest.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.faults.postgres import Postgres, postgres_in

SIZE = "220m"
CHUNK = 1 << 16

_REFUSE = """
CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON task_state EXECUTE FUNCTION no_space();
CREATE TRIGGER no_space BEFORE INSERT ON tasks EXECUTE FUNCTION no_space()"""


class Disk(NamedTuple):
    """A Postgres and its disk; ``fill`` and ``free`` are told the database's URL."""

    postgres: Postgres
    fill: Callable[[str], None]
    free: Callable[[str], None]


@contextmanager
def small_disk() -> Iterator[Disk]:
    """A Postgres on a disk that can be filled."""
    with tempfile.TemporaryDirectory(prefix="callboard-faults-") as folder:
        mounted = _mount(folder)
        try:
            with postgres_in(Path(folder)) as postgres:
                ballast = Path(folder) / "ballast"
                if mounted:
                    yield Disk(postgres, lambda _: _fill(ballast), lambda _: ballast.unlink())
                else:
                    yield Disk(postgres, _refuse, _allow)
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True)


def _mount(folder: str) -> bool:
    if shutil.which("mount") is None:
        return False
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "callboard-faults", folder]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _fill(ballast: Path) -> None:
    """Write until nothing fits any more."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(CHUNK))


def _refuse(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_REFUSE)


def _allow(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP FUNCTION no_space CASCADE")
