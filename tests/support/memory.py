"""How much memory processes and what they started hold together, at the most."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

MEBIBYTE = 1 << 20
SAMPLE_SECONDS = 0.05


class Memory:
    """The resident bytes when the watch began, and the most since then."""

    def __init__(self, held: int) -> None:
        self.base = held
        self.most = held

    @property
    def growth(self) -> int:
        """By how many bytes the most exceeds the base."""
        return self.most - self.base


@contextmanager
def watching(processes: Callable[[], Sequence[psutil.Process]]) -> Iterator[Memory]:
    """Watch processes with their descendants, looking every 50 ms, for as long as the block lasts."""
    memory = Memory(_held(processes()))
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            memory.most = max(memory.most, _held(processes()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        is_over.set()
        watcher.join()


def _held(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
    return total
