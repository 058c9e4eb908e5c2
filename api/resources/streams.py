"""Following a task: its events as they happen, over SSE."""

from collections.abc import AsyncIterator
from typing import Final

from falcon.asgi import Request, Response

from actors import fields
from api.caller import caller_of
from api.desk import Desk
from api.parameters import read_query
from api.resources.task import no_task
from api.schemas.tasks import StreamQuery
from tasks.errors import Unavailable
from tasks.feed import Standing
from tasks.ids import parse_id

#: Proxies close what is silent for long; many of them after 30 s or 60 s.
HEARTBEAT_SECONDS: Final = 15.0
HEARTBEAT: Final = b": still here\n\n"
#: How long a browser waits before it comes again.
RETRY: Final = b"retry: 1000\n\n"
HEADER: Final = "Last-Event-ID"


class Streams:
    """``/tasks/{task_id}/stream``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response, task_id: str) -> None:
        """A snapshot of the task, then its events until the final one."""
        after = _last_event_id(req)
        known = parse_id(task_id)
        standings = await self._desk.feed.standings([known] if known else [], caller_of(req).owner)
        if known not in standings:
            raise no_task(task_id)
        standing = standings[known]
        if after is not None and standing.is_over and after >= standing.event_id:
            resp.status = 204  # an EventSource comes no more after that
            return
        if self._desk.draining.has_begun:
            raise Unavailable("This process is about to stop: ask another one.")
        resp.content_type = "text/event-stream"
        resp.cache_control = ["no-cache"]
        resp.set_header("X-Accel-Buffering", "no")
        resp.stream = self._events(standing, after)

    async def _events(self, standing: Standing, after: int | None) -> AsyncIterator[bytes]:
        feed = self._desk.feed
        with feed.outbox() as outbox:
            feed.follow(outbox, standing, after)
            yield RETRY
            while not outbox.is_done:
                frames = await outbox.take(HEARTBEAT_SECONDS)
                told = [frame.for_stream for frame in frames if frame.number is not None]
                yield b"".join(told) or HEARTBEAT


def _last_event_id(req: Request) -> int | None:
    """After which event the reader wants to go on.

    Raises:
      InvalidField: it is not a number.
    """
    asked = read_query(req, StreamQuery).last_event_id
    header = req.get_header(HEADER)
    if header:
        return fields.read(StreamQuery, {"last_event_id": header}, from_text=True).last_event_id
    return asked
