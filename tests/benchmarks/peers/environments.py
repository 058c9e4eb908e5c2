"""The environments of the peers: made once below ``.bench/peers`` from a pinned list, and used again."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

LISTS = Path(__file__).parent
_VERSION = "import sys, venv, ensurepip; print('.'.join(map(str, sys.version_info[:3])))"


class NotToBeHad(Exception):
    """An environment cannot be made here; the message says what it needs."""


def environment(name: str, oldest: tuple[int, int], folder: Path) -> Path:
    """The Python of the peer's environment, in which everything that its list pins is installed.

    Raises:
      NotToBeHad: there is no Python that is new enough, or the packages cannot be installed.
    """
    base, version = _interpreter(name, oldest)
    wanted = pinned(name)
    digest = hashlib.sha256(f"{version}\n{wanted}".encode()).hexdigest()
    home = folder.resolve() / "peers" / name
    python, complete = home / "bin" / "python", home / "complete"
    if complete.exists() and complete.read_text() == digest:
        return python
    print(f"Installing {name} into {home} …", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run(name, base, "-m", "venv", str(home))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    _run(name, str(python), "-m", "pip", "install", *quiet, "-r", str(LISTS / f"{name}.txt"))
    complete.write_text(digest)
    return python


def pinned(name: str) -> str:
    """The list of a peer's packages, with their versions."""
    return (LISTS / f"{name}.txt").read_text(encoding="utf-8")


def versions(requirements: str) -> Mapping[str, str]:
    """The version of each package in a pinned list."""
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return {
        name.strip(): version.strip() for name, _, version in (line.partition("==") for line in lines if line)
    }


def python_version(python: Path) -> str:
    """The version of an interpreter."""
    return _ask_version(str(python)) or "unknown"


def _interpreter(name: str, oldest: tuple[int, int]) -> tuple[str, str]:
    """The interpreter that an environment is made with, and its version: ours if it is new enough."""
    for candidate in _candidates():
        version = _ask_version(candidate)
        if version and tuple(map(int, version.split(".")[:2])) >= oldest:
            return candidate, version
    needs = ".".join(map(str, oldest))
    raise NotToBeHad(f"{name} needs Python {needs} or newer: install it, or say PEERS_PYTHON=/path/to/python")


def _candidates() -> Iterator[str]:
    yield sys.executable
    if given := os.environ.get("PEERS_PYTHON"):
        yield given
    for minor in range(15, 11, -1):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    found_there = pyenv.glob("versions/3.*/bin/python")
    yield from map(str, sorted(found_there, key=lambda path: _order(path.parts[-3]), reverse=True))


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def _ask_version(python: str) -> str | None:
    done = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotToBeHad(f"{name} could not be installed: {(done.stderr or done.stdout).strip()[-500:]}")
