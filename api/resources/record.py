"""What the record knows about a task in detail, and about tasks in numbers."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
from falcon.asgi import Request, Response

from actors.requests import in_utc
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import render
from api.parameters import part, read_query
from api.resources.task import read_about, read_task
from api.schemas.common import Paged
from api.schemas.tasks import (
    SnapshotQuery,
    StatisticsQuery,
    TaskAttempts,
    TaskHistory,
    TaskLogs,
    TaskSnapshots,
)
from tasks.errors import InvalidField, NotFound
from tasks.records import MOST_A_PAGE, Task
from tasks.windows import Window

T = TypeVar("T")


class TaskRecord:
    """``/tasks/{task_id}/history``, ``attempts``, ``logs``, ``snapshots``, ``snapshot`` and ``graph``.

    Lists below a task are as long as lists may be, unless less is asked for.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get_history(self, req: Request, resp: Response, task_id: str) -> None:
        """The events of the task, oldest first."""
        asked = part(read_query(req, Paged), MOST_A_PAGE)
        history = self._desk.kit.queries.history
        events = await self._about(req, task_id, lambda task: history(task.task_id))
        shown = events[asked.offset : asked.offset + asked.limit]
        render(resp, TaskHistory(**asked.answer("history", shown, len(events))))

    async def on_get_attempts(self, req: Request, resp: Response, task_id: str) -> None:
        """The attempts of the task, oldest first."""
        asked = part(read_query(req, Paged), MOST_A_PAGE)
        attempts = partial(self._desk.kit.details.attempts, limit=asked.limit, offset=asked.offset)
        found, total = await self._about(req, task_id, lambda task: attempts(task.task_id))
        render(resp, TaskAttempts(**asked.answer("attempts", found, total)))

    async def on_get_logs(self, req: Request, resp: Response, task_id: str) -> None:
        """What the actor of the task logged, oldest first."""
        asked = part(read_query(req, Paged), MOST_A_PAGE)
        logs = partial(self._desk.kit.details.logs, limit=asked.limit, offset=asked.offset)
        found, total = await self._about(req, task_id, lambda task: logs(task.task_id))
        render(resp, TaskLogs(**asked.answer("logs", found, total)))

    async def on_get_snapshots(self, req: Request, resp: Response, task_id: str) -> None:
        """The snapshots that are kept of the task, oldest first."""
        asked = part(read_query(req, Paged), MOST_A_PAGE)
        snapshots = self._desk.kit.details.snapshots
        found = await self._about(req, task_id, lambda task: snapshots(task.task_id))
        shown = found[asked.offset : asked.offset + asked.limit]
        render(resp, TaskSnapshots(**asked.answer("snapshots", shown, len(found))))

    async def on_get_snapshot(self, req: Request, resp: Response, task_id: str) -> None:
        """One snapshot with its state."""
        asked = read_query(req, SnapshotQuery)
        version = None if asked.version == "latest" else asked.version
        snapshot = self._desk.kit.details.snapshot
        found = await self._about(req, task_id, lambda task: snapshot(task.task_id, version))
        if found is None:
            which = "no snapshot" if version is None else f"no snapshot {version}"
            raise NotFound(f"The task has {which}: see /api/v1/tasks/{task_id}/snapshots.")
        render(resp, found)

    async def on_get_graph(self, req: Request, resp: Response, task_id: str) -> None:
        """The tasks around the task, and its run by its stages."""
        caller = caller_of(req)
        task = await read_task(self._desk, task_id, caller)
        around = await self._desk.ask(self._desk.kit.details.graph, task.task_id, owner=caller.owner)
        run = await self._desk.ask(self._desk.kit.graphs.around, task)
        render(resp, msgspec.structs.replace(around, run=run))

    async def _about(self, req: Request, task_id: str, question: Callable[[Task], T]) -> T:
        return await read_about(self._desk, task_id, caller_of(req), question)


class TaskStatistics:
    """``/tasks/statistics``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response) -> None:
        """How many tasks there were, how they ended, and how long they took."""
        window = _window(read_query(req, StatisticsQuery), caller_of(req))
        render(resp, await self._desk.ask(self._desk.kit.queries.statistics, window))


def _window(asked: StatisticsQuery, caller: Caller) -> Window:
    since, until = in_utc(asked.start_time, "start_time"), in_utc(asked.end_time, "end_time")
    if since is not None and until is not None and until < since:
        raise InvalidField.of("end_time", "is before start_time: exchange them")
    if caller.owner is not None and asked.user_id not in (None, caller.owner):
        raise InvalidField.of("user_id", "is somebody else: leave it out to see your own statistics")
    return Window(
        since=since,
        until=until,
        user=caller.owner if caller.owner is not None else asked.user_id,
        task_type=asked.task_type,
        queue_name=asked.queue_name,
        stages=asked.stages,
    )
