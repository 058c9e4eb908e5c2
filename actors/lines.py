"""The lines that an attempt logs, as far as they are not too many."""

import time
from collections.abc import Callable
from typing import Final

from actors.kept import storable

#: Lines of a task that are taken within a second; of more only their number is told.
MOST_A_SECOND: Final = 200
MOST_TEXT: Final = 4_000
MOST_NAME: Final = 200


class Lines:
    """The lines of one attempt, on their way to the record."""

    def __init__(self, tell: Callable[[str, str, str], bool], *, clock: Callable[[], float] = time.monotonic):
        self._tell = tell
        self._clock = clock
        self._second = 0.0
        self._taken = 0
        self._left_out = 0

    def take(self, level: str, logger: str, text: str) -> None:
        """Pass a line on, unless there were too many within the last second."""
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._taken = now, 0
            self.tell_of_the_rest()
        if self._taken < MOST_A_SECOND and self._tell(
            level, storable(logger[:MOST_NAME]), storable(text[:MOST_TEXT])
        ):
            self._taken += 1
        else:
            self._left_out += 1

    def tell_of_the_rest(self) -> None:
        """Say how many lines were left out since the last time that this was said."""
        if self._left_out and self._tell("warning", "callboard", f"… {self._left_out} lines left out"):
            self._left_out = 0
