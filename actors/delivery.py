"""A delivery: a message whose task this process has claimed, on its way through a Dramatiq worker."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from tasks.values import Claimed


class Delivery(MessageProxy):
    """What our consumers yield. Its actor is called with the delivery itself."""

    def __init__(self, message: "Message[Any]", claim: Claimed) -> None:
        super().__init__(message)
        self.claim = claim
        self.recorded: Future[Any] | None = None
        self._is_over = False

    @property
    def args(self) -> tuple["Delivery"]:  # type: ignore[override]
        """The argument of the recorded call."""
        return (self,)

    @property
    def kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """None."""
        return {}

    def over(self, slots: "Slots", release: Callable[[Claimed], "Future[bool]"]) -> None:
        """Its call is over, or will not be: free its slot, once, and give back a claim that has no outcome.

        A call leaves none if its thread was interrupted in our own code.
        """
        if self.recorded is None:
            self.recorded = release(self.claim)
        if not self._is_over:
            self._is_over = True
            slots.give()

    def when_recorded(self, act: Callable[[], None]) -> None:
        """Act once the outcome is committed: what is not recorded is never acknowledged."""
        if self.recorded is not None:
            self.recorded.add_done_callback(lambda future: act() if future.exception() is None else None)


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
    """How many claims a process may hold: one for each worker thread."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        """How many can be taken now."""
        return self._free

    @property
    def held(self) -> int:
        """How many are taken now."""
        return self._count - self._free

    def take(self, most: int, timeout: float) -> int:
        """Take up to ``most`` free slots, waiting for the first one up to ``timeout`` seconds."""
        with self._changed:
            if not self._free:
                self._changed.wait(timeout)
            taken = min(self._free, most)
            self._free -= taken
            return taken

    def give(self, count: int = 1) -> None:
        """Give slots back."""
        with self._changed:
            self._free += count
            self._changed.notify_all()
