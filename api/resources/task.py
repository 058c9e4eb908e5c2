"""A single task: reading and cancelling it."""

from falcon.asgi import Request, Response

from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import render
from api.schemas import TaskHistory, TaskResult, TaskStatus
from tasks.errors import Conflict, NotFound
from tasks.ids import parse_id
from tasks.records import Task
from tasks.states import FINAL

PATIENCE = 2.0


class OneTask:
    """``/tasks/{task_id}`` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response, task_id: str) -> None:
        """The task."""
        render(resp, await self._read(task_id, caller_of(req)))

    async def on_get_status(self, req: Request, resp: Response, task_id: str) -> None:
        """How far the task is; also its progress."""
        task = await self._read(task_id, caller_of(req))
        status = TaskStatus(
            task.task_id, task.status, task.phase, task.progress, task.message, task.details, task.updated_at
        )
        render(resp, status)

    async def on_get_result(self, req: Request, resp: Response, task_id: str) -> None:
        """What came of the task."""
        task = await self._read(task_id, caller_of(req))
        if task.status not in FINAL:
            raise Conflict(f"The task is {task.status}: ask for its result when it is over.")
        render(resp, TaskResult(task.task_id, task.status, task.result, task.error))

    async def on_get_history(self, req: Request, resp: Response, task_id: str) -> None:
        """Every event of the task, oldest first."""
        task = await self._read(task_id, caller_of(req))
        render(resp, TaskHistory(await self._desk.ask(self._desk.kit.queries.history, task.task_id)))

    async def on_post_cancel(self, req: Request, resp: Response, task_id: str) -> None:
        """Cancel the task; cancelling it again changes nothing."""
        caller = caller_of(req)
        task = await self._read(task_id, caller)
        outcome = await self._desk.committed(self._desk.kit.ledger.cancel(task.task_id, patience=PATIENCE))
        if outcome == "missing":
            raise no_task(task_id)
        if outcome == "finished":
            raise Conflict("The task is over and cannot be cancelled any more.")
        render(resp, await self._read(task_id, caller), 202)

    async def _read(self, task_id: str, caller: Caller) -> Task:
        known = parse_id(task_id)
        if known is None:
            raise no_task(task_id)
        task = await self._desk.ask(self._desk.kit.queries.task, known, owner=caller.owner)
        if task is None:
            raise no_task(task_id)
        return task


def no_task(task_id: str) -> NotFound:
    """What is answered for a task that does not exist, or is another user's."""
    return NotFound(f"There is no task {task_id[:100]}: see GET /api/v1/tasks for those there are.")
