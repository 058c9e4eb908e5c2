"""The dispatcher: keeps a small window of ready work on RabbitMQ, in the order of the record.

What comes first overtakes what is on the wire by the priority of its message. Quorum queues of RabbitMQ
before 4.0 know no priorities: there it waits for the window before it, which is as small as keeps the workers
busy.
"""

import time

import msgspec

from actors.copies import Copies
from actors.rabbitmq.publisher import Publisher, new_dispatch
from actors.window import Window
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.values import Backlog

MOST_AT_ONCE = 2_000
#: What overtakes is taken though the window is full: so many are looked at, at once and then now and then.
EXPRESS = 32
LOOK_SECONDS = 0.25
#: Where RabbitMQ has no message ready, those that were published so long ago are not waited for.
GONE_AFTER_SECONDS = 1.0
LOST_AFTER_SECONDS = 10.0
OVERTAKEN_AFTER_SECONDS = 30.0
RESEND_EVERY_SECONDS = 2.0
#: The pause at least between two looks for a token.
TOKEN_SECONDS = 0.005


class _Line(msgspec.Struct):
    """A queue with a backlog to be sent: its window, and when it was last looked at though that was full."""

    window: Window
    looked_at: float = 0.0


class Dispatcher:
    """Takes ready rows that nobody has published, and publishes again what got lost."""

    def __init__(self, ledger: Ledger, queries: Queries, publisher: Publisher) -> None:
        self._ledger = ledger
        self._queries = queries
        self._publisher = publisher
        self._copies = Copies(ledger, queries, publisher)
        self._lines: dict[str, _Line] = {}
        self._hurried = True
        self._token_at: float | None = None
        self._looked_at = 0.0
        self._resent_at = self._stepped_at = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a queue has more waiting than its window holds: it is to be refilled soon."""
        return bool(self._lines)

    @property
    def lag(self) -> float:
        """How many seconds ago it last finished a step; without RabbitMQ it finishes none."""
        return time.monotonic() - self._stepped_at

    @property
    def token_in(self) -> float | None:
        """In how many seconds a queue with a rate limit has its next token; None: no queue waits for one."""
        return None if self._token_at is None else max(0.0, self._token_at - time.monotonic())

    def hurry(self) -> None:
        """Something became ready: look at all queues in the next step."""
        self._hurried = True

    def step(self) -> int:
        """Fill the windows once; how many tasks were taken."""
        if not self._publisher.is_open:
            self._lines.clear()
            self._token_at = None
            return 0
        taken = self._step(time.monotonic())
        self._stepped_at = time.monotonic()
        return taken

    def _step(self, now: float) -> int:
        hurried, self._hurried = self._hurried or self.token_in == 0, False
        if not hurried and now - self._looked_at < LOOK_SECONDS:
            return self._refill(self._queries.backlog(list(self._lines)), now, hurried=False)
        self._looked_at = now
        self._token_at = None
        taken = self._refill(self._queries.backlog(), now, hurried=hurried)
        self._copies.step()
        if now - self._resent_at > RESEND_EVERY_SECONDS:
            self._resent_at = now
            self._resend()
        return taken

    def _refill(self, backlog: dict[str, Backlog], now: float, *, hurried: bool) -> int:
        self._publisher.heed(backlog)
        waiting = {queue: one for queue, one in backlog.items() if one.waiting and one.room != 0}
        self._lines = {queue: self._lines.get(queue) or _Line(Window()) for queue in waiting}
        tokens = [
            now + max(one.token_in, TOKEN_SECONDS) for one in backlog.values() if one.token_in is not None
        ]
        self._token_at = min([*tokens, *filter(None, [self._token_at])], default=None)
        return sum(self._take(queue, one, now, hurried) for queue, one in waiting.items())

    def _take(self, queue: str, backlog: Backlog, now: float, hurried: bool) -> int:
        line = self._lines[queue]
        line.window.seen(backlog.sent, now)
        room = line.window.size - backlog.sent
        if room <= 0 and not hurried and now - line.looked_at < LOOK_SECONDS:
            return 0
        line.looked_at = now
        gone_after = GONE_AFTER_SECONDS if self._publisher.ready_count(queue) == 0 else None
        dispatch = new_dispatch()
        self._publisher.share(dispatch, line.window.together)
        taken = self._ledger.take(
            queue,
            min(backlog.waiting, max(room, EXPRESS), MOST_AT_ONCE, backlog.room or MOST_AT_ONCE),
            dispatch,
            window=line.window.size,
            gone_after=gone_after,
        ).result()
        line.window.refilled(backlog.sent + taken)
        return taken

    def _resend(self) -> None:
        """What was published a while ago, is unclaimed, and is not on RabbitMQ any more, got lost.

        What others have overtaken all the while comes back too, to be sent with a better priority.
        """
        self._publisher.watch(self._queries.queue_names())
        for queue in [queue for queue, one in self._queries.backlog().items() if one.sent]:
            if self._publisher.ready_count(queue) == 0:
                self._ledger.resend(queue, LOST_AFTER_SECONDS).result()
            else:
                self._ledger.resend(queue, OVERTAKEN_AFTER_SECONDS, overtaken=True).result()
