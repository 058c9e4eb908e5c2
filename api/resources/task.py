"""A single task: reading, cancelling and deleting it."""

from collections.abc import Callable
from typing import TypeVar

from falcon.asgi import Request, Response

from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_nothing, render
from api.schemas.tasks import TaskResult, TaskStatus
from tasks.errors import Conflict, NotFound
from tasks.ids import parse_id
from tasks.ledger.removals import MISSING, STAGE, UNFINISHED
from tasks.records import Task
from tasks.states import FINAL

PATIENCE = 2.0
T = TypeVar("T")


class OneTask:
    """``/tasks/{task_id}`` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response, task_id: str) -> None:
        """The task."""
        render(resp, await read_task(self._desk, task_id, caller_of(req)))

    async def on_get_status(self, req: Request, resp: Response, task_id: str) -> None:
        """How far the task is; also its progress."""
        task = await read_task(self._desk, task_id, caller_of(req))
        status = TaskStatus(
            task.task_id, task.status, task.phase, task.progress, task.message, task.details, task.updated_at
        )
        render(resp, status)

    async def on_get_result(self, req: Request, resp: Response, task_id: str) -> None:
        """What came of the task."""
        task = await read_task(self._desk, task_id, caller_of(req))
        if task.status not in FINAL:
            raise Conflict(f"The task is {task.status}: ask for its result when it is over.")
        render(resp, TaskResult(task.task_id, task.status, task.result, task.error))

    async def on_post_cancel(self, req: Request, resp: Response, task_id: str) -> None:
        """Cancel the task; cancelling it again changes nothing."""
        await read_nothing(req, self._desk)
        caller = caller_of(req)
        task = await read_task(self._desk, task_id, caller)
        outcome = await self._desk.committed(self._desk.kit.ledger.cancel(task.task_id, patience=PATIENCE))
        if outcome == "missing":
            raise no_task(task_id)
        if outcome == "finished":
            raise Conflict("The task is over and cannot be cancelled any more.")
        render(resp, await read_task(self._desk, task_id, caller), 202)

    async def on_delete(self, req: Request, resp: Response, task_id: str) -> None:
        """Cancel a task that is not over (202), remove one that is (204)."""
        caller = caller_of(req)
        task = await read_task(self._desk, task_id, caller)
        ledger = self._desk.kit.ledger
        outcome = await self._desk.committed(ledger.delete(task.task_id, patience=PATIENCE))
        if outcome == UNFINISHED:
            cancelled = await self._desk.committed(ledger.cancel(task.task_id, patience=PATIENCE))
            if cancelled == "cancelled":
                render(resp, await read_task(self._desk, task_id, caller), 202)
                return
            # It ended while it was looked at.
            outcome = await self._desk.committed(ledger.delete(task.task_id, patience=PATIENCE))
        if outcome == MISSING:
            raise no_task(task_id)
        if outcome == STAGE:
            raise Conflict(f"This is a stage: delete its run {task.run_id}.")
        if outcome == UNFINISHED:
            raise Conflict("The task has just begun anew: look at it and ask again.")
        resp.status = 204


async def read_task(desk: Desk, task_id: str, caller: Caller) -> Task:
    """The task, as far as the caller may see it.

    Raises:
      NotFound: there is none, or it is another user's.
    """
    return await read_about(desk, task_id, caller, lambda task: task)


async def read_about(desk: Desk, task_id: str, caller: Caller, question: Callable[[Task], T]) -> T:
    """What ``question`` answers about a task, if the caller may see that.

    It is asked in the thread that looked: to change to a thread and back can take longer than the question.

    Raises:
      NotFound: there is no such task, or it is another user's.
    """
    known = parse_id(task_id)
    if known is None:
        raise no_task(task_id)

    def answer() -> T:
        task = desk.kit.queries.task(known, owner=caller.owner)
        if task is None:
            raise no_task(task_id)
        return question(task)

    return await desk.ask(answer)


def no_task(task_id: str) -> NotFound:
    """What is answered for a task that does not exist, or is another user's."""
    return NotFound(f"There is no task {task_id[:100]}: see GET /api/v1/tasks for those there are.")
