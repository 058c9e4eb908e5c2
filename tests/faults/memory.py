"""How much memory processes hold over time, by kind: the first quarter of a run against its last."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from statistics import median
from typing import NamedTuple

import msgspec
import psutil

SAMPLE_SECONDS = 2.0
MEGABYTE = 1 << 20


class Sample(NamedTuple):
    """One look at one process: the time since the first look, its age, and what it holds."""

    at: float
    age: float
    megabytes: float


class Growth(msgspec.Struct, frozen=True):
    """What processes of one kind held (medians, in MB); None where no process was old enough to tell."""

    kind: str
    first: float | None
    last: float | None
    most: float

    def __str__(self) -> str:
        def said(megabytes: float | None) -> str:
            return "-" if megabytes is None else f"{megabytes:.1f}"

        return f"{self.kind:<18} {said(self.first):>8} {said(self.last):>8} {said(self.most):>8}"

    def is_flat(self, tolerance: float) -> bool:
        """Whether the last quarter held no more than the first, but for this part of it."""
        return self.first is None or self.last is None or self.last <= self.first * (1 + tolerance)


class Memory:
    """Samples on a thread of its own; ``processes`` gives those that live now, with their kinds."""

    def __init__(self, processes: Callable[[], Iterable[tuple[str, psutil.Process]]]) -> None:
        self._processes = processes
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample_all, daemon=True)
        self._thread.start()

    def stop(self, warm_up: float) -> list[Growth]:
        """What was seen of processes that had been running for ``warm_up`` seconds."""
        self._stopping.set()
        self._thread.join()
        whole = time.monotonic() - self._began
        return [_growth(kind, samples, whole, warm_up) for kind, samples in sorted(self._samples.items())]

    def _sample_all(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            for kind, process in self._processes():
                with suppress(psutil.Error):
                    age = time.time() - process.create_time()
                    held = process.memory_info().rss / MEGABYTE
                    self._samples[kind].append(Sample(time.monotonic() - self._began, age, held))


def _growth(kind: str, samples: list[Sample], whole: float, warm_up: float) -> Growth:
    warm = [one for one in samples if one.age >= warm_up]
    quarter = (whole - warm_up) / 4
    first = [one.megabytes for one in warm if one.at < warm_up + quarter]
    last = [one.megabytes for one in warm if one.at > whole - quarter]
    most = max(one.megabytes for one in samples)
    return Growth(kind, median(first) if first else None, median(last) if last else None, most)
