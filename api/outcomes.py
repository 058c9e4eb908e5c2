"""The way of outcomes from the thread that commits to the event loop.

The verbs of many requests are committed together. To wake the loop for each of them costs more than to
answer the request, so whatever has arrived is brought over at once.
"""

import asyncio
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Outcomes:
    """Futures of a loop for futures of other threads; belongs to one loop."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._is_loop_told = False

    def of(self, verb: Future[T]) -> asyncio.Future[T]:
        """A future of the running loop that gets what becomes of ``verb``; to cancel it leaves that alone."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        verb.add_done_callback(partial(self._arrive, loop, answer))
        return answer

    def _arrive(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], verb: Future[T]) -> None:
        """On the thread that commits. The loop forgets that it was told before it looks: none is missed."""
        self._arrived.append((answer, verb))
        if not self._is_loop_told and not loop.is_closed():
            self._is_loop_told = True
            loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._is_loop_told = False
        while self._arrived:
            answer, verb = self._arrived.popleft()
            if answer.done():  # nobody waits any more
                continue
            if verb.cancelled():
                answer.cancel()
            elif (error := verb.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(verb.result())
