"""How often something happened during the last moment."""

import time

#: The moment, in seconds.
MOMENT = 0.05


class Frequency:
    """Counts what happens, and forgets it after a moment. Not locked: a count may be off by one or two."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._now = self._before = 0

    def count(self) -> None:
        """It happened."""
        self._turn()
        self._now += 1

    @property
    def lately(self) -> int:
        """How often it happened during the last moment, or the one before."""
        self._turn()
        return max(self._now, self._before)

    def _turn(self) -> None:
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed >= MOMENT:
            self._before = self._now if elapsed < 2 * MOMENT else 0
            self._now = 0
            self._since = now  # not a sum: of two threads that turn at once both are right
