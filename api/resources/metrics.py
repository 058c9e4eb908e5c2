"""What Prometheus scrapes: ``/metrics``."""

import asyncio
import time
from typing import Final

from falcon.asgi import Request, Response

from api.caller import admin_of
from api.desk import Desk
from api.metrics import CONTENT_TYPE, exposition

#: So long everybody who asks gets the same answer, and longer if it was dear: Postgres has other work.
FRESH_SECONDS: Final = 1.0
SHARE: Final = 10
STALE_SECONDS: Final = 10.0


class Metrics:
    """``/metrics``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._one_at_a_time = asyncio.Lock()
        self._told = b""
        self._fresh_until = 0.0

    async def on_get(self, req: Request, resp: Response) -> None:
        """The figures of the whole deployment in Prometheus' text format; any API process gives the same."""
        admin_of(req)
        async with self._one_at_a_time:
            if time.monotonic() >= self._fresh_until:
                began = time.monotonic()
                self._told = await self._desk.ask(self._read)
                cost = time.monotonic() - began
                pause = min(max(FRESH_SECONDS, SHARE * cost), STALE_SECONDS)
                self._fresh_until = time.monotonic() + pause
        resp.content_type = CONTENT_TYPE
        resp.data = self._told

    def _read(self) -> bytes:
        read_at = time.time()
        return exposition(self._desk.kit.figures.read(), read_at)
