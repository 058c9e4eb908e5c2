"""Locks on names, across all processes: ``with lock("kb:7", timeout=10) as held:``."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.board import entered
from actors.context import CurrentTask, running_here
from actors.errors import LockLost, LockNotAvailable
from actors.interrupts import INTERRUPTIONS
from actors.kept import storable
from actors.usage import current_board
from tasks.errors import InvalidField
from tasks.ports import Hold, Locks

MOST_NAME = 200
FIRST_LOOK, LAST_LOOK, GROWTH = 0.01, 0.25, 1.5


class Held:
    """A lock that is held. ``fence`` is higher than that of every earlier holder of the name.

    No lock can stop a holder that does not know yet that it lost it. Let effects carry the fence, and the
    store refuse one that is lower than what it has seen.
    """

    def __init__(self, name: str, locks: Locks, current: CurrentTask | None) -> None:
        self.name = name
        self.fence = 0
        self._locks = locks
        self._current = current
        self._hold: Hold | None = None

    def check(self) -> None:
        """Ask whether the lock is still held.

        Raises:
          LockLost: the connection broke; others may hold it by now.
        """
        hold = self._hold
        if hold is None or not self._shielded(hold.is_held):
            raise LockLost(f"The lock {self.name!r} was lost with its connection: stop, and try again.")

    def wait(self, timeout: float | None) -> None:
        """Take the lock as soon as it is free; between the looks an interrupt may come through."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = FIRST_LOOK
        while not self._shielded(self._take):
            left = min(pause, deadline - time.monotonic())
            if left <= 0:
                raise LockNotAvailable(
                    f"The lock {self.name!r} was held by others for {timeout:g} s: try again later."
                )
            time.sleep(left)
            pause = min(pause * GROWTH, LAST_LOOK)

    def release(self) -> None:
        """Give it back, also while the task is interrupted: one interrupt at most comes to an attempt."""
        try:
            self._give_back()
        except INTERRUPTIONS:
            self._give_back()
            raise

    def _take(self) -> bool:
        """What was taken is kept before an interrupt can come through: nothing is left locked."""
        self._hold = self._locks.try_hold(self.name)
        self.fence = self._hold.fence if self._hold is not None else 0
        return self._hold is not None

    def _give_back(self) -> None:
        if self._hold is None:
            return
        if self._current is None:
            self._hold.release()
        else:
            with self._current.guard:
                self._hold.release()
        self._hold = None

    def _shielded(self, call: Callable[[], bool]) -> bool:
        return call() if self._current is None else self._current.shielded(call)


@contextmanager
def lock(name: str, timeout: float | None = None) -> Iterator[Held]:
    """Hold the lock of a name, which one holder has at a time, in whatever process; it is not reentrant.

    ``timeout`` is in seconds; without one it waits for as long as the task may run. Where the process dies
    Postgres frees the lock at once, and where it stands still, or cannot be reached, after 15 s. Names stay
    on record: take those of things that last.

    Raises:
      LockNotAvailable: others held it for all of the time; the task is tried again.
      InvalidField: the name or the timeout cannot be used.
      Unavailable: Postgres cannot be reached.
      ActorsError: there is no database here.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or storable(name) != name:
        raise InvalidField.of("name", f"must be a text of 1 to {MOST_NAME} characters that can be stored")
    if timeout is not None and not timeout >= 0:
        raise InvalidField.of("timeout", "must be a number of seconds, or None")
    current = running_here()
    held = Held(name, _locks(current), current)
    try:
        held.wait(timeout)
        yield held
    finally:
        held.release()


def _locks(current: CurrentTask | None) -> Locks:
    """Those of the board; in a process that runs tasks alone, which has none, those that it provides."""
    if current is None or entered:
        return current_board().locks
    return current.use(Locks)  # type: ignore[type-abstract]
