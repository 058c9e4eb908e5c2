"""The copies of dead letters: sent queue by queue, and slower where RabbitMQ does not take them."""

import time

import msgspec

from actors.rabbitmq.publisher import Publisher, new_dispatch
from tasks.ledger import Ledger
from tasks.queries import Queries

MOST_AT_ONCE = 500
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class _Pace(msgspec.Struct):
    """How it went with a queue: its last batch, and until when to leave it alone."""

    dispatch: int | None = None
    pause: float = 0.0
    due: float = 0.0


class Copies:
    """Has the copies published that are owed."""

    def __init__(self, ledger: Ledger, queries: Queries, publisher: Publisher) -> None:
        self._ledger = ledger
        self._queries = queries
        self._publisher = publisher
        self._paces: dict[str, _Pace] = {}

    def step(self) -> None:
        """Publish what is owed to every queue that is due."""
        now = time.monotonic()
        self._paces = {queue: self._pace(queue, now) for queue in self._queries.owed_queues()}
        for queue, pace in self._paces.items():
            if pace.due <= now:
                pace.dispatch = new_dispatch()
                self._ledger.take_dead(queue, MOST_AT_ONCE, pace.dispatch).result()

    def _pace(self, queue: str, now: float) -> _Pace:
        """How to go on with a queue that still, or again, has copies to get."""
        pace = self._paces.get(queue) or _Pace()
        if pace.dispatch is None:
            return pace
        if not self._publisher.gave_up(pace.dispatch):
            return _Pace()
        pause = min(max(FIRST_PAUSE_SECONDS, 2 * pace.pause), LONGEST_PAUSE_SECONDS)
        return _Pace(None, pause, now + pause)
