"""Bodies that nobody reads to their end: requests that are refused early.

Closing a connection on bytes that are still arriving resets it, and the reset can overtake the answer: the
client then sees a broken pipe instead of "413, too large". So what is left is taken in for a moment after
the answer. The other way round, a client that asks first (``Expect: 100-continue``) is not told to go on
before a resource wants its body.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 << 20


class Body:
    """The body of one request; stands in for the ``receive`` of its server."""

    def __init__(self, scope: Message, receive: Receive) -> None:
        self._receive = receive
        # Falcon takes the first piece before it looks at anything else.
        self._hold_back = any(name == b"expect" for name, _ in scope["headers"])
        self._is_arriving = False

    async def __call__(self) -> Message:
        """The next message of the server."""
        if self._hold_back:
            self._hold_back = False
            return {"type": "http.request", "body": b"", "more_body": True}
        message = await self._receive()
        self._is_arriving = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def discard_rest(self) -> None:
        """Take in what is still arriving, for a moment."""
        if self._is_arriving:
            try:
                await asyncio.wait_for(self._discard(), LINGER_SECONDS)
            except TimeoutError:
                return

    async def _discard(self) -> None:
        size = 0
        while self._is_arriving and size < LINGER_BYTES:
            size += len((await self()).get("body", b""))
