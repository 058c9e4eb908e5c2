"""The dispatcher: keeps a small window of ready work on RabbitMQ, best rank first."""

import time

from actors.copies import Copies
from actors.rabbitmq.publisher import Publisher, new_dispatch
from tasks.ledger import Ledger
from tasks.queries import Queries

MOST_AT_ONCE = 500
LOST_AFTER_SECONDS = 10.0
RESEND_EVERY_SECONDS = 2.0


class Dispatcher:
    """Takes ready rows that nobody has published, and publishes again what got lost."""

    def __init__(self, ledger: Ledger, queries: Queries, publisher: Publisher) -> None:
        self._ledger = ledger
        self._queries = queries
        self._publisher = publisher
        self._copies = Copies(ledger, queries, publisher)
        self._resent_at = time.monotonic()

    def step(self) -> int:
        """Fill the windows once; how many tasks were taken."""
        if not self._publisher.is_open:
            return 0
        taken = 0
        for queue, waiting in self._queries.backlog().items():
            room = min(waiting, self._publisher.room(queue), MOST_AT_ONCE)
            if room:
                taken += self._ledger.take(queue, room, new_dispatch()).result()
        self._copies.step()
        if time.monotonic() - self._resent_at > RESEND_EVERY_SECONDS:
            self._resent_at = time.monotonic()
            self._resend()
        return taken

    def _resend(self) -> None:
        """What was published a while ago, is unclaimed, and is not on RabbitMQ any more, got lost."""
        queues = self._queries.queue_names()
        self._publisher.watch(queues)
        for queue in queues:
            if self._publisher.ready_count(queue) == 0:
                self._ledger.resend(queue, LOST_AFTER_SECONDS).result()
