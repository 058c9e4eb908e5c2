"""Draining: the time between being told to stop and stopping."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Draining:
    """Whether the process is about to stop, and how many requests are still being answered.

    Used in one event loop. Streams watch `wait` and end themselves.
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

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it is answered."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
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
