"""What operators watch: all processes, and all queues."""

from falcon.asgi import Request, Response

from api.caller import admin_of
from api.desk import Desk
from api.media import render
from api.parameters import part, read_query
from api.schemas.common import Paged


class Stats:
    """``/stats/workers`` and ``/stats/queues``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get_workers(self, req: Request, resp: Response) -> None:
        """All living processes (workers, APIs and clocks), by kind, host and pid.

        What a process says of itself is as old as its heartbeat; which tasks it runs is exact.
        """
        admin_of(req)
        wanted = part(read_query(req, Paged))
        figures = self._desk.kit.figures
        found, total = await self._desk.ask(figures.processes, limit=wanted.limit, offset=wanted.offset)
        render(resp, wanted.answer("workers", found, total))

    async def on_get_queues(self, req: Request, resp: Response) -> None:
        """All queues by name, with the figures of each, and what is in all of them together."""
        admin_of(req)
        wanted = part(read_query(req, Paged))
        figures = self._desk.kit.figures
        found, totals, total = await self._desk.ask(figures.queues, limit=wanted.limit, offset=wanted.offset)
        render(resp, {**wanted.answer("queues", found, total), "totals": totals})
