"""The verbs of operators for a single task: retry it, recover it, derive from it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from actors import fields
from actors.requests import SYNONYMS
from actors.submission import Order
from api import idempotency
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_nothing, read_object, render
from api.orders import read_order
from api.resources.task import PATIENCE, no_task, read_task
from api.resources.tasks import address
from api.submitting import submit
from pipelines import derivatives
from pipelines.recovery import Recovery
from tasks.errors import Conflict, InvalidField
from tasks.ledger.restarts import CHANGED, NO_VERSION
from tasks.ledger.rounds import MISSING, NOT_FAILED, RUN_IS_OVER
from tasks.records import Task
from tasks.states import CANCELLED, COMPLETED

#: What a derivative has of its parent unless the request says otherwise.
INHERITED = ("task_type", "priority", "kb_id", "project_id", "user_id", "tags")


class Moves:
    """What is below ``/tasks/{task_id}`` and opens a new round, or makes a new task."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_post_retry(self, req: Request, resp: Response, task_id: str) -> None:
        """Run a failed task again, with a new budget of attempts; of several requests at once one does it."""
        await read_nothing(req, self._desk)
        caller = caller_of(req)
        task = await read_task(self._desk, task_id, caller)
        outcome = await self._desk.committed(self._desk.kit.ledger.retry(task.task_id, patience=PATIENCE))
        if outcome == NOT_FAILED:
            raise _not_failed(await read_task(self._desk, task_id, caller))
        await self._answer(resp, task_id, caller, outcome)

    async def on_post_recover(self, req: Request, resp: Response, task_id: str) -> None:
        """Run a task that is over again: from a checkpoint, from a stage, or from the beginning."""
        caller = caller_of(req)
        body = await read_object(req, self._desk, or_nothing=True)
        asked = fields.read(Recovery, body)
        task = await read_task(self._desk, task_id, caller)
        kit = self._desk.kit
        decision = await self._desk.ask(kit.recoverer.decide, task.task_id, asked)
        outcome = await self._desk.committed(kit.ledger.recover(decision, patience=PATIENCE))
        await self._answer(resp, task_id, caller, outcome)

    async def on_post_derivative(self, req: Request, resp: Response, task_id: str) -> None:
        """Submit a new task that differs from this one in what the body says."""
        caller = caller_of(req)
        body = await read_object(req, self._desk, or_nothing=True)
        parent = await read_task(self._desk, task_id, caller)
        if parent.run_id is not None:
            raise Conflict(f"This is a stage: derive from its run {parent.run_id}.")
        kit = self._desk.kit
        is_run = await self._desk.ask(kit.queries.is_run, parent.task_id)
        order = _order(parent, body, caller, is_run=is_run)
        prepared = await self._desk.ask(derivatives.prepare, kit.submission, order, parent)
        once = idempotency.read(req, caller, body)
        (task,) = await submit(self._desk, resp, [prepared], once)
        resp.location = address(task.task_id)
        render(resp, task, 202)

    async def _answer(self, resp: Response, task_id: str, caller: Caller, outcome: str) -> None:
        """The task in its new round, or why there is none."""
        if outcome == MISSING:
            raise no_task(task_id)
        task = await read_task(self._desk, task_id, caller)
        if outcome == RUN_IS_OVER:
            raise Conflict(f"The run of this stage is over: recover the run {task.run_id}.")
        if outcome == CHANGED:
            raise Conflict(f"The task has changed meanwhile, it is {task.status} now: look, and ask again.")
        if outcome == NO_VERSION:
            raise InvalidField.of("version", "is no checkpoint of this task: see GET …/snapshots")
        render(resp, task, 202)


def _not_failed(task: Task) -> Conflict:
    if task.status == CANCELLED:
        return Conflict("The task was cancelled: recover it (POST …/recover), a retry is for failed ones.")
    if task.status == COMPLETED:
        return Conflict("The task has completed: recover it with mode=all, or derive a new one from it.")
    return Conflict(f"The task is {task.status}: it is not over, and a retry is for failed ones.")


def _order(parent: Task, body: Mapping[str, Any], caller: Caller, *, is_run: bool) -> Order:
    """The order of a derivative: the request's fields, and for all others those of the parent."""
    given = {SYNONYMS.get(name, name): value for name, value in body.items()}
    whole = {name: getattr(parent, name) for name in INHERITED if given.get(name) is None}
    payload = derivatives.payload_from(parent, given.get("payload", {}))
    rest = {name: value for name, value in body.items() if SYNONYMS.get(name, name) not in whole}
    order = read_order({**whole, **rest, _name_of("payload", body): payload}, caller)
    if order.task_type != parent.task_type:  # what fits the one type says nothing about the other
        return order
    queue = order.queue_name or parent.queue_name
    if is_run:  # the figures of a run are no wish for its stages
        return msgspec.structs.replace(order, queue_name=queue)
    return msgspec.structs.replace(
        order,
        queue_name=queue,
        max_retries=parent.max_retries if order.max_retries is None else order.max_retries,
        timeout=parent.timeout if order.timeout is None else order.timeout,
    )


def _name_of(field: str, body: Mapping[str, Any]) -> str:
    """How the request spells a field."""
    return next((name for name in body if SYNONYMS.get(name, name) == field), field)
