"""Telling from two counts whether a queue holds something that the record knows nothing of."""

import time

PATIENCE_SECONDS = 10.0
#: One that goes while another comes changes no count: so often a queue is looked into without a reason.
ANYWAY_SECONDS = 600.0


class Surplus:
    """What is known of one queue of dead letters since it was last walked through.

    RabbitMQ's count can be lower than the record's: a copy ends there after its time, and people purge
    queues. So what counts is the lowest difference that was seen: one above it tells that something came.
    """

    def __init__(self) -> None:
        self._lowest: int | None = None
        self._quiet_at = self._walked_at = time.monotonic()

    def is_there(self, counted: int, expected: int, *, is_quiet: bool) -> bool:
        """Whether the queue holds more than the record explains.

        Counts that were taken while copies came and went (not ``is_quiet``) say little; they are only used
        if it never becomes quiet.
        """
        now = time.monotonic()
        if is_quiet:
            self._quiet_at = now
        elif now - self._quiet_at < PATIENCE_SECONDS:
            return False
        difference = counted - expected
        if counted == 0:
            self.walked(difference)
        if self._lowest is None or now - self._walked_at > ANYWAY_SECONDS:
            return True
        if difference <= self._lowest:
            self._lowest = difference
            return False
        return True

    def walked(self, difference: int) -> None:
        """The whole queue was seen: the counts differ by so much when all is as it should be."""
        self._lowest = difference
        self._walked_at = time.monotonic()
