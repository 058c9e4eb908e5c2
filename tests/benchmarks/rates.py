"""Rates from the times of completions, and what several rounds of them say."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

#: The share of the tasks that are the warm-up: their completions start the clock.
WARM_UP = 0.2


def rate(times: Sequence[float], warm_up: float = WARM_UP) -> float:
    """Completions a second, from the last one of the warm-up to the last one of all."""
    ordered = sorted(times)
    first = int(len(ordered) * warm_up)
    seconds = ordered[-1] - ordered[first]
    return sum(one > ordered[first] for one in ordered) / seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, and the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """What these rounds say."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.low:,.0f}–{self.high:,.0f})"
