"""The named queues: their settings, and how much there is in them."""

from typing import TypeVar

from falcon.asgi import Request, Response

from actors import fields
from api.desk import Desk
from api.media import read_object, render
from api.parameters import part, read_query
from api.resources.task import PATIENCE
from api.resources.tasks import PREFIX
from api.schemas.common import Paged
from api.schemas.queues import QueueRequest, RateLimitRequest
from tasks.errors import NotFound
from tasks.ledger.queues import Define
from tasks.names import check_queue
from tasks.records import RateLimit

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
        render(resp, _found(await self._desk.ask(self._desk.kit.queues.queue, name), name))

    async def on_get_stats(self, req: Request, resp: Response, name: str) -> None:
        """How much there is in a queue, and what became of its newest tasks."""
        render(resp, _found(await self._desk.ask(self._desk.kit.queues.stats, name), name))


def _rate(asked: RateLimitRequest | None) -> RateLimit | None:
    return None if asked is None else RateLimit(asked.limit, asked.per_seconds, asked.burst or asked.limit)


def _found(answer: T | None, name: str) -> T:
    if answer is None:
        raise NotFound(f"There is no queue {name[:100]}: see GET {PREFIX}/queues for those there are.")
    return answer
