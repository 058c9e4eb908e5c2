"""What the client reads about a task in detail, and about tasks in numbers."""

from typing import Any, TypeVar

from api.client.answers import read
from api.client.requests import Requests
from api.client.verbs import TaskId, task_path
from tasks.records import Attempt, Event, Graph, LogLine, Snapshot, SnapshotState, Statistics

T = TypeVar("T")
_PAGE = 1_000


class Reads(Requests):
    """What can be read."""

    def history(self, task_id: TaskId) -> list[Event]:
        """Return the task's events, the oldest first."""
        return list(self._all(_path(task_id, "history"), "history", Event))

    def attempts(self, task_id: TaskId) -> list[Attempt]:
        """Return the task's attempts, the oldest first, with errors and tracebacks."""
        return list(self._all(_path(task_id, "attempts"), "attempts", Attempt))

    def logs(self, task_id: TaskId) -> list[LogLine]:
        """Return what the task's actor logged, the oldest line first."""
        return list(self._all(_path(task_id, "logs"), "logs", LogLine))

    def snapshots(self, task_id: TaskId) -> list[Snapshot]:
        """Return the snapshots that are kept of the task, the oldest first."""
        return list(self._all(_path(task_id, "snapshots"), "snapshots", Snapshot))

    def snapshot(self, task_id: TaskId, version: int | None = None) -> SnapshotState:
        """Return a snapshot with its state; without ``version`` the latest."""
        return read(self._get(_path(task_id, "snapshot"), {"version": version}), SnapshotState)

    def graph(self, task_id: TaskId) -> Graph:
        """Return the tasks around the task: its run and stages, dependencies, parent and derivatives."""
        return read(self._get(_path(task_id, "graph")), Graph)

    def statistics(self, **window: Any) -> Statistics:
        """Return the figures of a window: ``start_time``, ``end_time``, ``task_type``, ``queue_name``..."""
        return read(self._get("/tasks/statistics", window), Statistics)


def _path(task_id: TaskId, what: str) -> str:
    return f"{task_path(task_id)}/{what}"
