"""An append-only file in which processes note what they did: what it says is beyond every broker's doubt."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One line: who did what, when (on the clock of all processes of this machine)."""

    word: str
    key: int
    pid: int
    at: float


class Sink:
    """Lines are written at once, with O_APPEND: they never mix, and a killed writer leaves whole ones."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._path = path

    def write(self, word: str, key: int) -> None:
        os.write(self._file, f"{word} {key} {os.getpid()} {time.monotonic()}\n".encode())

    def commit(self, word: str, key: int) -> None:
        """Write a line that is on the disk afterwards, as a row of a database is after its commit."""
        self.write(word, key)
        os.fsync(self._file)

    def entries(self, *words: str) -> list[Entry]:
        """The entries with one of these words, in order."""
        lines = [line.split() for line in self._path.read_text().splitlines()]
        return [Entry(word, int(key), int(pid), float(at)) for word, key, pid, at in lines if word in words]

    def keys(self, word: str) -> set[int]:
        return {entry.key for entry in self.entries(word)}
