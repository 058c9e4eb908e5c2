"""A delivery: a message whose task this process has claimed, on its way through a Dramatiq worker."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from tasks.frequency import Frequency
from tasks.values import Claimed

#: More than so many claims are never held ahead of the threads: they are lost together.
MOST_AHEAD = 128
_REPLACING = threading.Lock()
#: The outcome of a delivery once it is recorded. The future that told so keeps whom it has called, the
#: delivery too: if that kept the future, only the garbage collector could free the two.
_RECORDED: "Future[Any]" = Future()
_RECORDED.set_result(True)


class Delivery(MessageProxy):
    """What our consumers yield. Its actor is called with the delivery itself."""

    def __init__(self, message: "Message[Any]", claim: Claimed) -> None:
        super().__init__(message)
        self.claim = claim
        self.recorded: Future[Any] | None = None
        self._instead: Callable[[BaseException], Future[Any] | None] | None = None
        self._is_over = False
        #: When it was claimed, on the monotonic clock.
        self.since = time.monotonic()

    @property
    def args(self) -> tuple["Delivery"]:  # type: ignore[override]
        """The argument of the recorded call."""
        return (self,)

    @property
    def kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """None."""
        return {}

    def over(self, slots: "Slots", release: Callable[[Claimed], "Future[bool]"]) -> bool:
        """Its call is over, or will not be: free its slot, and give back a claim that has no outcome.

        A call leaves none if its thread was interrupted in our own code, or if it was never begun. False:
        this was said before.
        """
        has_ended = self.recorded is not None
        if self.recorded is None:
            self.recorded = release(self.claim)
        if self._is_over:
            return False
        self._is_over = True
        if has_ended:
            slots.finish()
        else:  # what was given back says nothing about how long tasks take
            slots.give()
        return True

    def or_instead(self, instead: "Callable[[BaseException], Future[Any] | None]") -> None:
        """If the outcome cannot be recorded, what ``instead`` makes of the error is recorded in its place."""
        self._instead = instead
        if self.recorded is not None:
            self.recorded.add_done_callback(self._replace)

    def _replace(self, done: "Future[Any]") -> None:
        error = done.exception()
        if error is None:
            self.recorded, self._instead = _RECORDED, None
            return
        with _REPLACING:  # it is called by whoever sees the error, and one of them sees it first
            if self.recorded is done and self._instead is not None:
                instead, self._instead = self._instead, None
                self.recorded = instead(error) or done

    def when_recorded(self, act: Callable[[], None]) -> None:
        """Act once the outcome is committed: what is not recorded is never acknowledged."""

        def look(done: "Future[Any]") -> None:
            if done.exception() is None:
                act()
            else:
                self._replace(done)
                if self.recorded is not done:
                    self.when_recorded(act)

        if self.recorded is not None:
            self.recorded.add_done_callback(look)


def message_for(claim: Claimed) -> "Message[Any]":
    """A message for a task that was claimed without one."""
    return Message(
        queue_name=claim.queue,
        actor_name=claim.task_type,
        args=(str(claim.id),),
        kwargs={},
        options={},
        message_id=str(claim.id),
    )


class Slots:
    """How many claims a process may hold: one for each thread, and some more ahead while tasks are short.

    Ahead of its threads it may claim as many tasks as it finished during the last moment (`tasks.frequency`):
    they will be begun within about as long. Where tasks take longer than that, none.
    """

    def __init__(self, threads: int, most_ahead: int = MOST_AHEAD) -> None:
        self._threads = threads
        self._most_ahead = most_ahead
        self._held = 0
        self._finished = Frequency()
        self._changed = threading.Condition()

    @property
    def ahead(self) -> int:
        """How many claims may wait for a thread now; none unless each thread finished four lately.

        What is claimed is beyond all order: with tasks of 20 ms a critical one would wait for what is not.
        """
        lately = self._finished.lately
        return min(lately, self._most_ahead) if lately >= 4 * self._threads else 0

    @property
    def free(self) -> int:
        """How many can be taken now."""
        return max(0, self._threads + self.ahead - self._held)

    @property
    def held(self) -> int:
        """How many are taken now."""
        return self._held

    def take(self, most: int, timeout: float) -> int:
        """Take up to ``most`` free slots, waiting for enough of them up to ``timeout`` seconds.

        One is enough; but while half of what was claimed ahead is still to be begun, nothing is gained by
        claiming a few.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.free >= max(1, self.ahead // 2), timeout)
            taken = min(self.free, most)
            self._held += taken
            return taken

    def give(self, count: int = 1) -> None:
        """Give slots back that were of no use."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    def finish(self) -> None:
        """Give back the slot of a task that is over."""
        self._finished.count()
        self.give()
