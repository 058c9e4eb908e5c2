"""When a running task may be done: by its progress, or else by how long tasks of its type take."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks import statistics
from tasks.states import RUNNING

KEPT_SECONDS = 10.0
#: From so many percent on progress tells something about the rest.
MOVED = 0.1


class Estimates:
    """The median durations of the types, read again after some seconds."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._read_at: float | None = None

    def medians(self, running: Sequence[Any], execute: Any) -> dict[str, float]:
        """The medians by type in milliseconds, if one of these rows needs them."""
        if all(row.state.progress >= MOVED for row in running):
            return {}
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > KEPT_SECONDS:
            self._read_at = now
            self._known = statistics.medians(execute)
        return self._known


def completion(state: Any, median_ms: float | None) -> datetime | None:
    """When a task may be done, never before now; None if it does not run, or nothing is known.

    ``state`` is a row of `tasks.models.StateRow`, ``median_ms`` the median duration of the task's type.
    """
    if state.status != RUNNING or state.started_at is None:
        return None
    if state.progress >= MOVED:
        took = (state.updated_at - state.started_at) * (100 / state.progress)
    elif median_ms is not None:
        took = timedelta(milliseconds=median_ms)
    else:
        return None
    done: datetime = state.started_at + took
    return max(done, datetime.now(UTC))
