"""Whether the process lives, and whether it should be sent requests."""

import asyncio
import logging

from falcon.asgi import Request, Response

from api.desk import Desk
from api.media import render
from tasks.errors import Unavailable

log = logging.getLogger("callboard.api")

PING_SECONDS = 3.0


class Health:
    """``/health`` and ``/ready``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response) -> None:
        """The process lives; nothing else is asked."""
        render(resp, {"status": "ok"})

    async def on_get_ready(self, req: Request, resp: Response) -> None:
        """The process takes requests, and Postgres answers it."""
        if self._desk.draining.has_begun:
            raise Unavailable("This process is about to stop: ask another one.")
        try:
            await asyncio.wait_for(self._desk.ask(self._desk.kit.queries.ping), PING_SECONDS)
        except Exception as error:
            # Whatever it is that keeps Postgres from answering, we cannot serve.
            log.warning("not ready: %r", error)
            raise Unavailable("Postgres does not answer: try again in a moment.") from error
        render(resp, {"status": "ready"})
