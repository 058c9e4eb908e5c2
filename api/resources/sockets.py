"""Following many tasks on one connection: ``WS /ws``."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
from falcon import PayloadTypeError, WebSocketDisconnected
from falcon.asgi import Request, WebSocket

from actors.fields import spell
from api.caller import caller_of
from api.desk import Desk
from api.feed import Frame, Outbox
from api.schemas.tasks import SocketError, SocketMessage
from tasks.errors import Unavailable
from tasks.ids import parse_id

#: What the service is specified with.
MOST_SOCKETS: Final = 1_000
MOST_BYTES: Final = 512
#: So that one connection cannot have the whole record read for it.
MOST_SUBSCRIPTIONS: Final = 200
#: Somebody who sends so much that is not understood is not a client of ours.
MOST_MISTAKES: Final = 10

#: Close codes of RFC 6455 and its registry.
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
#: A code of our own (4000-4999 are for applications): the client reads too slowly.
TOO_SLOW: Final = 4008


class Sockets:
    """``/ws``: all sockets of this process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        """Send the events of the tasks that ``task_id`` names, and of those that are subscribed to later."""
        await ws.accept()
        if self._desk.draining.has_begun:
            await ws.close(SERVICE_RESTART, "this process is about to stop: connect again")
            return
        if self._desk.sockets >= MOST_SOCKETS:
            await ws.close(TRY_AGAIN_LATER, f"there are {MOST_SOCKETS} sockets here: connect again later")
            return
        self._desk.sockets += 1
        try:
            with self._desk.feed.outbox() as outbox:
                socket = _Socket(ws, self._desk, outbox, caller_of(req).owner)
                await socket.serve(req.get_param_as_list("task_id") or [])
        finally:
            self._desk.sockets -= 1


class _Socket:
    """One connection."""

    def __init__(self, ws: WebSocket, desk: Desk, outbox: Outbox, owner: str | None) -> None:
        self._ws = ws
        self._desk = desk
        self._outbox = outbox
        self._owner = owner
        self._mistakes = 0

    async def serve(self, ids: Sequence[str]) -> None:
        """Listen and talk until one of both ends, then close the connection."""
        await self._subscribe(ids, {})
        both = [asyncio.create_task(one) for one in (self._listen(), self._talk())]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            code, reason = next(iter(done)).result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        with suppress(WebSocketDisconnected):
            await self._ws.close(code, reason)

    async def _talk(self) -> tuple[int, str]:
        """Send what comes; the code and the reason to close with."""
        while not self._outbox.is_closed:
            for frame in await self._outbox.take():
                await self._ws.send_text(frame.for_socket)
        return SERVICE_RESTART, "this process is about to stop: connect again"

    async def _listen(self) -> tuple[int, str]:
        """Do what the client asks for; the code and the reason to close with."""
        while self._mistakes < MOST_MISTAKES:
            try:
                text = await self._ws.receive_text()
            except PayloadTypeError:
                self._blame("unparsable", "send text, not bytes")
                continue
            if len(text.encode()) > MOST_BYTES:
                return TOO_BIG, f"a message may have {MOST_BYTES} bytes"
            await self._obey(text)
            if self._outbox.is_overfull:
                return TOO_SLOW, "too slow: more was asked for than is read"
        return POLICY_VIOLATION, f"{MOST_MISTAKES} messages could not be understood"

    async def _obey(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text, type=SocketMessage)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            self._blame("unparsable", f'{error}: send {{"subscribe": [ids]}} or {{"unsubscribe": [ids]}}')
            return
        for text_id in message.unsubscribe:
            task_id = parse_id(text_id)
            if task_id is not None:
                self._desk.feed.unfollow(self._outbox, task_id)
        await self._subscribe(message.subscribe, message.after)

    async def _subscribe(self, ids: Sequence[str], after: Mapping[str, int]) -> None:
        positions = {one: after.get(text) for text in ids if (one := parse_id(text)) is not None}
        try:
            standings = await self._desk.feed.standings(list(positions), self._owner) if positions else {}
        except Unavailable as error:
            for text in ids:
                self._error(text, error.code, error.message)
            return
        for text in dict.fromkeys(ids):
            standing = standings.get(known) if (known := parse_id(text)) is not None else None
            if standing is None:
                self._error(text, "not_found", "There is no such task: see GET /api/v1/tasks.")
            elif not self._has_room_for(standing.task_id):
                self._error(
                    text,
                    "too_many_subscriptions",
                    f"A connection may follow {MOST_SUBSCRIPTIONS} tasks: unsubscribe some, or open another.",
                )
            else:
                self._desk.feed.follow(self._outbox, standing, positions[standing.task_id])

    def _has_room_for(self, task_id: UUID) -> bool:
        followed = self._outbox.followers
        return task_id in followed or len(followed) < MOST_SUBSCRIPTIONS

    def _blame(self, code: str, detail: str) -> None:
        self._mistakes += 1
        self._error(None, code, detail)

    def _error(self, task_id: str | None, code: str, detail: str) -> None:
        known = None if task_id is None else parse_id(task_id)
        if task_id is not None and known is None:
            detail = f"{spell(task_id)!r} is no task's id. {detail}"
        self._outbox.put(Frame(known, None, "error", SocketError(code, detail)))
