"""Times that cost an actor next to nothing: kept in memory, and written to a file of its process later."""

import os
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

FLUSH_SECONDS = 0.1


class Stamps:
    """Numbers that the threads of a process note; ``read_all`` finds them in the folder of all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: list[float] = []
        self._lock = threading.Lock()
        self._is_written = False

    def note(self, number: float) -> None:
        """Note a number."""
        self._noted.append(number)
        if not self._is_written:  # asked here, because processes are forked after their modules are imported
            self._begin()

    def _begin(self) -> None:
        with self._lock:
            if not self._is_written:
                self._is_written = True
                threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        written = 0
        with (self._folder / f"{os.getpid()}.stamps").open("ab", buffering=0) as file:
            while True:
                time.sleep(FLUSH_SECONDS)
                until = len(self._noted)
                file.write(array("d", self._noted[written:until]).tobytes())
                written = until


def read_all(folder: Path) -> list[float]:
    """What all processes have written so far."""
    found = array("d")
    for file in sorted(folder.glob("*.stamps")):
        data = file.read_bytes()
        found.frombytes(data[: len(data) // found.itemsize * found.itemsize])
    return found.tolist()


def paced(rate: int, count: int, warm_up: int) -> Iterator[float]:
    """So many times at this rate: each one when it has come, and 0 while it warms up, which is not noted."""
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        yield time.time() if number >= warm_up else 0.0
