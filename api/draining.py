"""Draining: the time between being told to stop and stopping."""

import asyncio


class Draining:
    """Whether the process is about to stop, and how many requests are still being answered.

    Used in one event loop, and entered (``with``) once for each request. Streams watch `wait` and end
    themselves.
    """

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_flight = 0

    @property
    def has_begun(self) -> bool:
        """Whether the process was told to stop."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Tell everybody that the process is about to stop."""
        self._begun.set()

    async def wait(self) -> None:
        """Wait until the process is told to stop."""
        await self._begun.wait()

    def __enter__(self) -> None:
        """Count a request from here on: it is being answered."""
        self._in_flight += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        """A request is answered."""
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    async def finished(self, seconds: float) -> bool:
        """Wait for the requests in flight, for so long at most; whether all of them were answered."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True
