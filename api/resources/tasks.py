"""The tasks as a whole: submitting and listing them."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from falcon.asgi import Request, Response

from actors import fields
from actors.requests import prefixed
from actors.submission import Order
from api import idempotency
from api.caller import caller_of
from api.desk import Desk
from api.media import read_object, render
from api.orders import prepare, read_order
from api.parameters import read_query, task_filter, task_page
from api.schemas.tasks import BatchRequest, TaskListing
from api.submitting import submit
from tasks.errors import DependencyMissing
from tasks.records import Task
from tasks.values import NewTask

PREFIX = "/api/v1"


def address(task_id: object) -> str:
    """Where a task is found."""
    return f"{PREFIX}/tasks/{task_id}"


class Tasks:
    """``/tasks`` and ``/tasks/batch``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response) -> None:
        """List tasks, newest first."""
        asked = read_query(req, TaskListing)
        wanted = task_filter(asked, caller_of(req))
        render(resp, await self._desk.ask(self._desk.kit.queries.tasks, wanted, task_page(asked)))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Submit a task."""
        body = await read_object(req, self._desk)
        order = read_order(body, caller_of(req))
        (task,) = await self._submit(req, resp, body, [order], [""])
        resp.location = address(task.task_id)
        render(resp, task, 202)

    async def on_post_batch(self, req: Request, resp: Response) -> None:
        """Submit many tasks, all or nothing."""
        caller = caller_of(req)
        body = await read_object(req, self._desk)
        batch = fields.read(BatchRequest, body)
        prefixes = [f"tasks[{at}]." for at in range(len(batch.tasks))]
        orders = await self._desk.work(
            lambda: [
                read_order(item, caller, prefix=prefix)
                for item, prefix in zip(batch.tasks, prefixes, strict=True)
            ]
        )
        render(resp, {"tasks": await self._submit(req, resp, body, orders, prefixes)}, 202)

    async def _submit(
        self, req: Request, resp: Response, body: Mapping[str, Any], orders: list[Order], prefixes: list[str]
    ) -> list[Task]:
        """Record orders, or find what an earlier request with the same Idempotency-Key recorded."""
        once = idempotency.read(req, caller_of(req), body)
        submission = self._desk.kit.submission
        prepared = (
            prepare(submission, orders, prefixes=prefixes)
            if self._is_quick(orders)
            else await self._desk.ask(prepare, submission, orders, prefixes=prefixes)
        )
        try:
            return await submit(self._desk, resp, prepared, once)
        except DependencyMissing as error:
            raise prefixed(error, _prefix_of(error.task_id, prepared, prefixes)) from None

    def _is_quick(self, orders: list[Order]) -> bool:
        """Whether preparing takes less than the way to a thread and back: our own actors need no look-up."""
        actors = self._desk.kit.catalogue.actors
        return len(orders) == 1 and orders[0].task_type in actors


def _prefix_of(task_id: UUID, prepared: Sequence[Sequence[NewTask]], prefixes: Sequence[str]) -> str:
    """The prefix of the order that a task belongs to."""
    pairs = zip(prepared, prefixes, strict=True)
    return next(prefix for tasks, prefix in pairs if any(task.id == task_id for task in tasks))
