"""gunicorn's WebSockets, with what they lack: pings, and an end of patience with clients that do not read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gunicorn.asgi import websocket

from api.resources.sockets import TOO_SLOW

#: What the service is specified with, in seconds: a ping every so often, and an answer within so long.
PING_SECONDS: Final = 54.0
PONG_SECONDS: Final = 60.0
WRITE_SECONDS: Final = 10.0
#: A client that does not answer to the end of a connection either is cut off.
LINGER_SECONDS: Final = 10.0


class PatientSocket(websocket.WebSocketProtocol):  # type: ignore[misc]
    """One connection of gunicorn that is pinged, and closed if nothing is heard or read."""

    ping_seconds = PING_SECONDS
    pong_seconds = PONG_SECONDS
    write_seconds = WRITE_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heard_at = 0.0
        self._until_written: Callable[[], Awaitable[None]] | None = self._drain  # type: ignore[has-type]
        self._drain = self._until_read

    async def run(self) -> None:
        """Serve the connection, and ping it meanwhile."""
        pings = asyncio.create_task(self._ping())
        try:
            await super().run()
        finally:
            pings.cancel()

    def feed_data(self, data: bytes) -> None:
        """Take what was received; whatever it is, the client is there."""
        self._heard_at = asyncio.get_running_loop().time()
        super().feed_data(data)

    async def _until_read(self) -> None:
        """Wait until the client has read enough for more to be sent, but not for ever."""
        if self._until_written is None or not self.transport.get_write_buffer_size():
            return
        try:
            await asyncio.wait_for(self._until_written(), self.write_seconds)
        except TimeoutError:
            await self._cut_off("too slow: nothing was read for too long")
            raise websocket.WebSocketDisconnected("the client does not read") from None

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.closed:
            await asyncio.sleep(self.ping_seconds)
            if self.accepted and not self.closed:
                pinged_at = loop.time()
                await self._send_frame(websocket.OPCODE_PING, b"")
                loop.call_later(self.pong_seconds, self._expect_since, pinged_at)

    def _expect_since(self, moment: float) -> None:
        if self._heard_at < moment and not self.closed:
            self.transport.abort()

    async def _cut_off(self, reason: str) -> None:
        """Close with a code of its own, behind what the client has not read yet; then hang up."""
        await self._send_close(TOO_SLOW, reason)
        self.closed = True
        self.transport.close()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)


def install() -> None:
    """Have gunicorn use it in this process."""
    websocket.WebSocketProtocol = PatientSocket
