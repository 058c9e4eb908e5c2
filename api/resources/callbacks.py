"""Webhooks, and what is delivered about a task."""

import secrets
from typing import Any
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from actors import fields
from actors.submission import check_callable
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_nothing, read_object, render
from api.parameters import part, read_query
from api.resources.task import PATIENCE, read_task
from api.resources.tasks import PREFIX
from api.schemas.callbacks import NewlyMadeWebhook, WebhookRequest
from api.schemas.common import Paged
from tasks.callbacks import Delivery, NewWebhook, Webhook, WebhookFilter
from tasks.errors import InvalidField, NotFound
from tasks.ids import new_id, parse_id
from tasks.ledger.callbacks import MISSING

#: The bytes of randomness in a secret that is made here.
SECRET_BYTES = 32


class Webhooks:
    """``/webhooks`` and what is below it. Users have their own; those of administrators hear of all tasks."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the webhooks, oldest first, without their secrets."""
        wanted = part(read_query(req, Paged))
        found, total = await self._desk.ask(
            self._desk.kit.callbacks.webhooks,
            owner=caller_of(req).owner,
            limit=wanted.limit,
            offset=wanted.offset,
        )
        render(resp, wanted.answer("webhooks", found, total))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Have a URL told when tasks end. The answer shows the secret that signs it, this once.

        At most 100 webhooks of one owner may exist (409).
        """
        asked = fields.read(WebhookRequest, await read_object(req, self._desk))
        check_callable(asked.url, self._desk.kit.callback_gate, field="url")
        made = _made(asked, caller_of(req))
        await self._desk.committed(self._desk.kit.ledger.add_webhook(made, patience=PATIENCE))
        shown = await self._read(str(made.id), None)
        resp.location = f"{PREFIX}/webhooks/{made.id}"
        render(resp, NewlyMadeWebhook(**msgspec.structs.asdict(shown), secret=made.secret), 201)

    async def on_get_one(self, req: Request, resp: Response, webhook_id: str) -> None:
        """A webhook, without its secret."""
        render(resp, await self._read(webhook_id, caller_of(req).owner))

    async def on_delete_one(self, req: Request, resp: Response, webhook_id: str) -> None:
        """Tell a webhook no more, not even what is still to be delivered."""
        found = await self._read(webhook_id, caller_of(req).owner)
        verb = self._desk.kit.ledger.remove_webhook(found.webhook_id, patience=PATIENCE)
        if not await self._desk.committed(verb):
            raise _no_webhook(webhook_id)
        resp.status = 204

    async def _read(self, webhook_id: str, owner: str | None) -> Webhook:
        known = parse_id(webhook_id)
        if known is None:
            raise _no_webhook(webhook_id)
        found = await self._desk.ask(self._desk.kit.callbacks.webhook, known, owner=owner)
        if found is None:
            raise _no_webhook(webhook_id)
        return found


class TaskCallbacks:
    """``/tasks/{task_id}/callbacks`` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response, task_id: str) -> None:
        """What is delivered about the task, to its callback_url and to webhooks, with each attempt."""
        wanted = part(read_query(req, Paged))
        caller = caller_of(req)
        task = await read_task(self._desk, task_id, caller)
        found, total = await self._desk.ask(
            self._desk.kit.callbacks.deliveries,
            task.task_id,
            owner=caller.owner,
            limit=wanted.limit,
            offset=wanted.offset,
        )
        render(resp, wanted.answer("callbacks", found, total))

    async def on_post_redeliver(self, req: Request, resp: Response, task_id: str, delivery_id: str) -> None:
        """Send a delivery again, under the same id; one that is being sent now is left to that."""
        await read_nothing(req, self._desk)
        caller = caller_of(req)
        task = await read_task(self._desk, task_id, caller)
        found = await self._read(task.task_id, delivery_id, caller)
        verb = self._desk.kit.ledger.redeliver(found.delivery_id, patience=PATIENCE)
        if await self._desk.committed(verb) == MISSING:
            raise _no_delivery(delivery_id)
        render(resp, await self._read(task.task_id, delivery_id, caller), 202)

    async def _read(self, task_id: UUID, delivery_id: str, caller: Caller) -> Delivery:
        known = parse_id(delivery_id)
        if known is None:
            raise _no_delivery(delivery_id)
        found = await self._desk.ask(self._desk.kit.callbacks.delivery, task_id, known, owner=caller.owner)
        if found is None:
            raise _no_delivery(delivery_id)
        return found


def _made(asked: WebhookRequest, caller: Caller) -> NewWebhook:
    if caller.owner is not None and asked.filter.user_id not in (None, caller.owner):
        raise InvalidField.of("filter.user_id", "is somebody else: leave it out to hear of your own tasks")
    wanted: dict[str, Any] = msgspec.structs.asdict(asked.filter)
    wanted = {name: value or None for name, value in wanted.items()} | {"stages": asked.filter.stages}
    return NewWebhook(
        id=new_id(),
        owner=caller.owner,
        url=asked.url,
        secret=asked.secret or secrets.token_urlsafe(SECRET_BYTES),
        events=tuple(dict.fromkeys(asked.events)),
        filter=WebhookFilter(**wanted),
        created_by=caller.created_by,
    )


def _no_webhook(webhook_id: str) -> NotFound:
    return NotFound(f"There is no webhook {webhook_id[:100]}: see GET {PREFIX}/webhooks for those there are.")


def _no_delivery(delivery_id: str) -> NotFound:
    return NotFound(f"There is no delivery {delivery_id[:100]} about the task: see its callbacks.")
