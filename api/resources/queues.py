"""The named queues: their settings, and how much there is in them."""

from typing import TypeVar

import msgspec
from falcon.asgi import Request, Response

from actors import fields
from api.caller import admin_of
from api.desk import Desk
from api.media import read_nothing, read_object, render
from api.parameters import part, read_query
from api.resources.task import PATIENCE
from api.resources.tasks import PREFIX
from api.schemas.common import Paged
from api.schemas.queues import QueueChange, QueueRequest, RateLimitRequest
from tasks.errors import NotFound
from tasks.ledger.queues import Change, Define
from tasks.names import check_queue
from tasks.records import Queue, RateLimit

T = TypeVar("T")


class Queues:
    """``/queues`` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the queues, by name."""
        wanted = part(read_query(req, Paged))
        found, total = await self._desk.ask(
            self._desk.kit.queues.queues, limit=wanted.limit, offset=wanted.offset
        )
        render(resp, wanted.answer("queues", found, total))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make a queue (201), or change the settings of an existing one (200)."""
        admin_of(req)
        asked = fields.read(QueueRequest, await read_object(req, self._desk))
        settings = Define(
            check_queue(asked.name, field="name"), asked.concurrency, _rate(asked.rate_limit), asked.max_size
        )
        verb = self._desk.kit.ledger.define_queue(settings, patience=PATIENCE)
        defined = await self._desk.committed(verb)
        resp.location = f"{PREFIX}/queues/{defined.queue.name}"
        render(resp, defined.queue, 201 if defined.is_new else 200)

    async def on_get_one(self, req: Request, resp: Response, name: str) -> None:
        """A queue."""
        render(resp, await self._found(name))

    async def on_patch_one(self, req: Request, resp: Response, name: str) -> None:
        """Change the settings that are named; null takes a limit away."""
        admin_of(req)
        body = await read_object(req, self._desk)
        asked = fields.read(QueueChange, body)
        values = msgspec.structs.asdict(asked) | {"rate_limit": _rate(asked.rate_limit)}
        change = Change(name, **{field: value for field, value in values.items() if field in body})
        await self._found(name)
        verb = self._desk.kit.ledger.change_queue(change, patience=PATIENCE)
        render(resp, _found(await self._desk.committed(verb), name))

    async def on_delete_one(self, req: Request, resp: Response, name: str) -> None:
        """Delete a queue in which nothing is unfinished and nothing is dead."""
        admin_of(req)
        await self._found(name)
        verb = self._desk.kit.ledger.delete_queue(name, patience=PATIENCE)
        if not await self._desk.committed(verb):
            raise _missing(name)
        resp.status = 204

    async def on_post_pause(self, req: Request, resp: Response, name: str) -> None:
        """Let no more tasks of a queue start: after the answer none does. Those that run finish."""
        admin_of(req)
        await read_nothing(req, self._desk)
        await self._found(name)
        verb = self._desk.kit.ledger.pause_queue(name, patience=PATIENCE)
        paused = _found(await self._desk.committed(verb), name)
        await self._desk.ask(self._desk.kit.queues.wait_for_claims)
        render(resp, paused)

    async def on_post_resume(self, req: Request, resp: Response, name: str) -> None:
        """Let the tasks of a paused queue start again."""
        admin_of(req)
        await read_nothing(req, self._desk)
        await self._found(name)
        verb = self._desk.kit.ledger.resume_queue(name, patience=PATIENCE)
        render(resp, _found(await self._desk.committed(verb), name))

    async def on_get_stats(self, req: Request, resp: Response, name: str) -> None:
        """How much there is in a queue, and what became of its newest tasks."""
        render(resp, _found(await self._desk.ask(self._desk.kit.queues.stats, name), name))

    async def _found(self, name: str) -> Queue:
        return _found(await self._desk.ask(self._desk.kit.queues.queue, name), name)


def _rate(asked: RateLimitRequest | None) -> RateLimit | None:
    return None if asked is None else RateLimit(asked.limit, asked.per_seconds, asked.burst or asked.limit)


def _found(answer: T | None, name: str) -> T:
    if answer is None:
        raise _missing(name)
    return answer


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no queue {name[:100]}: see GET {PREFIX}/queues for those there are.")
