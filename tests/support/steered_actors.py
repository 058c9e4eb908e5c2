"""A module for ``CALLBOARD_ACTORS``: actors that keep their own account of when they began and ended."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from actors.definitions import actor

FILE, FLAG = "account", "go"


class Shift(msgspec.Struct):
    """A key for the account, and how long to work; with ``until_flag`` until the flag is up."""

    key: str
    seconds: float = 0.0
    until_flag: bool = False


class Entry(NamedTuple):
    """One line of the account; ``at`` is on the monotonic clock, which all processes here share."""

    word: str
    key: str
    pid: int
    at: float


@actor
def shift(payload: Shift) -> None:
    """Work, and write down when."""
    _write("start", payload.key)
    if payload.until_flag:
        while not (_folder() / FLAG).exists():
            time.sleep(0.01)
    time.sleep(payload.seconds)
    _write("end", payload.key)


def read_account(folder: Path, key: str) -> list[Entry]:
    """What actors did under a key, in the order in which they wrote it."""
    file = folder / FILE
    lines = file.read_text().splitlines() if file.exists() else []
    entries = [Entry(word, of, int(pid), float(at)) for word, of, pid, at in map(str.split, lines)]
    return [one for one in entries if one.key == key]


def most_at_once(account: list[Entry]) -> int:
    """How many worked at the same time at most."""
    now = most = 0
    for one in account:
        now += 1 if one.word == "start" else -1
        most = max(most, now)
    return most


def _folder() -> Path:
    return Path(os.environ["EFFECTS"])


def _write(word: str, key: str) -> None:
    """Append a line; O_APPEND keeps the lines of several processes apart, and in order."""
    file = os.open(_folder() / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{word} {key} {os.getpid()} {time.monotonic()}\n".encode())
    finally:
        os.close(file)
