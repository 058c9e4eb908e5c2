"""The window of a queue: how many of its tasks may wait on RabbitMQ while more wait in Postgres."""

from typing import Final

FIRST: Final = 64
SMALLEST: Final = 16
#: A message may name one task for so many in the window, and so many at most.
SHARE: Final = 64
MOST_TOGETHER: Final = 16
LARGEST: Final = 4_096
#: After so long more than half full it is larger than it has to be.
LAZY_SECONDS: Final = 1.0


class Window:
    """As small as keeps workers busy until the next refill: what is on the wire is beyond Postgres' order.

    It doubles when the workers had half emptied it, and is halved when it stays more than half full.
    """

    def __init__(self, size: int = FIRST) -> None:
        self.size = size
        self._was_filled = False
        self._half_full_since: float | None = None

    @property
    def together(self) -> int:
        """How many tasks one message may name: several only where a window has grown, as tasks are short."""
        return min(MOST_TOGETHER, max(1, self.size // SHARE))

    def refilled(self, sent: int) -> None:
        """After a refill so many tasks wait on RabbitMQ."""
        self._was_filled = sent * 2 > self.size

    def seen(self, sent: int, now: float) -> None:
        """Before a refill so many tasks wait on RabbitMQ; ``now`` is in seconds on any clock."""
        if sent * 2 > self.size:
            if self._half_full_since is None:
                self._half_full_since = now
            elif now - self._half_full_since >= LAZY_SECONDS:
                self.size = max(SMALLEST, self.size // 2)
                self._half_full_since = now
            return
        self._half_full_since = None
        if self._was_filled:
            self.size = min(LARGEST, self.size * 2)
            self._was_filled = False
