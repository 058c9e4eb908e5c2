"""The window of a queue: how many of its messages may wait on RabbitMQ while more wait in Postgres."""

from typing import Final

FIRST: Final = 64
SMALLEST: Final = 16
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

    def refilled(self, sent: int) -> None:
        """After a refill so many messages wait on RabbitMQ."""
        self._was_filled = sent * 2 > self.size

    def seen(self, sent: int, now: float) -> None:
        """Before a refill so many messages wait on RabbitMQ; ``now`` is in seconds on any clock."""
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
