"""What belongs to a single task: its attempts, its log, its checkpoints, its relations."""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from falcon.asgi import Request, Response

from api.caller import caller_of
from api.desk import Desk
from api.media import render
from api.parameters import part, read_query
from api.resources.task import read_task
from api.schemas import Paged, SnapshotQuery, TaskAttempts, TaskSnapshots
from tasks.errors import NotFound
from tasks.records import Task

T = TypeVar("T")


class TaskDetails:
    """What is below ``/tasks/{task_id}`` and tells more than its state."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._details = desk.kit.details

    async def on_get_attempts(self, req: Request, resp: Response, task_id: str) -> None:
        """Every attempt of the task, oldest first, with its error and traceback."""
        render(resp, TaskAttempts(await self._of(req, task_id, self._details.attempts)))

    async def on_get_logs(self, req: Request, resp: Response, task_id: str) -> None:
        """What the task has logged, oldest first."""
        asked = part(read_query(req, Paged))
        task = await self._read(req, task_id)
        found, total = await self._desk.ask(
            self._details.logs, task.task_id, limit=asked.limit, offset=asked.offset
        )
        render(resp, asked.answer("logs", found, total))

    async def on_get_snapshots(self, req: Request, resp: Response, task_id: str) -> None:
        """The checkpoints of the task that are kept, oldest first, without their states."""
        render(resp, TaskSnapshots(await self._of(req, task_id, self._details.snapshots)))

    async def on_get_snapshot(self, req: Request, resp: Response, task_id: str) -> None:
        """A checkpoint of the task, the latest one by default."""
        asked = read_query(req, SnapshotQuery)
        version = None if asked.version == "latest" else int(asked.version)
        task = await self._read(req, task_id)
        found = await self._desk.ask(self._details.snapshot, task.task_id, version)
        if found is None:
            raise NotFound("The task has no such checkpoint: see GET …/snapshots for those there are.")
        render(resp, found)

    async def on_get_graph(self, req: Request, resp: Response, task_id: str) -> None:
        """The task with its stages, what it depends on, what waits for it, its parent and its derivatives."""
        task = await self._read(req, task_id)
        owner = caller_of(req).owner
        render(resp, await self._desk.ask(self._details.graph, task.task_id, owner=owner))

    async def _of(self, req: Request, task_id: str, question: Callable[[UUID], T]) -> T:
        task = await self._read(req, task_id)
        return await self._desk.ask(question, task.task_id)

    async def _read(self, req: Request, task_id: str) -> Task:
        return await read_task(self._desk, task_id, caller_of(req))
