"""Times that cost an actor next to nothing: kept in memory, and written to a file of its process later."""

import os
import threading
import time
from array import array
from pathlib import Path

FLUSH_SECONDS = 0.1


class Stamps:
    """Numbers that threads note; ``read_all`` finds them in the folder of all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: list[float] = []
        self.note = self._noted.append
        self._started = False

    def start(self) -> None:
        """Begin to write what is noted, in this process."""
        if not self._started:
            self._started = True
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
