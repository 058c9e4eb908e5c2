"""How many more tasks of a queue may start now: what its concurrency, its rate limit and a pause allow.

A *steered* queue is one with any of these. Places are counted, never stored: those that run have them. The
tokens of a rate limit are kept in a bucket, which fills with time, by Postgres' clock.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgspec

from tasks.values import Backlog

#: More than anybody asks for.
NO_LIMIT: Final = 1 << 30
#: Less than a whole token by so little is a whole one: sums of parts are not exact.
SLACK: Final = 1e-6

#: Whether the queue of the task ``s`` is steered: looked up once a statement, not once a row.
STEERED: Final = "s.queue = ANY(ARRAY(SELECT name FROM queues WHERE steered))"

ALLOWANCES: Final = """
SELECT q.name, q.paused, CASE WHEN q.concurrency IS NOT NULL THEN q.concurrency - (
        SELECT count(*) FROM task_state r
        WHERE r.queue = q.name AND r.status = 'running' AND r.worker IS NOT NULL) END,
    least(rate.burst, coalesce(
        b.tokens + rate.speed * greatest(extract(epoch FROM now() - b.refilled_at)::float8, 0), rate.burst)),
    rate.speed, rate.burst
FROM queues q LEFT JOIN rate_buckets b ON b.queue = q.name AND q.rate_limit IS NOT NULL
CROSS JOIN LATERAL (SELECT (q.rate_limit->>'burst')::float8 AS burst,
    (q.rate_limit->>'limit')::float8 / (q.rate_limit->>'per_seconds')::float8 AS speed) AS rate
WHERE q.steered AND q.name = ANY(%(queues)s)"""


class Allowance(msgspec.Struct, frozen=True):
    """What a steered queue allows now. ``places`` and ``tokens`` are None where it has no such limit.

    ``speed`` is in tokens a second, ``burst`` is how many a bucket holds.
    """

    queue: str
    paused: bool
    places: int | None
    tokens: float | None
    speed: float | None
    burst: float | None = None

    @property
    def most(self) -> int:
        """How many more of its tasks may start now."""
        if self.paused:
            return 0
        places = NO_LIMIT if self.places is None else max(self.places, 0)
        return places if self.tokens is None else min(places, int(self.tokens + SLACK))

    @property
    def reason(self) -> str | None:
        """Why none may start now: "paused", "concurrency" or "rate"; None if one may."""
        if self.most > 0:
            return None
        if self.paused:
            return "paused"
        return "rate" if self.places is None or self.places > 0 else "concurrency"

    def token_in(self, sent: int = 0) -> float | None:
        """In how many seconds there is a token beside those for what was ``sent``, if only that lacks.

        None too while as much is sent as a bucket holds: then a start is waited for, not the time.
        """
        has_places = self.places is None or self.places > sent
        if self.paused or not has_places or self.tokens is None or not self.speed:
            return None
        if self.burst is not None and sent + 1 > self.burst + SLACK:
            return None
        lack = sent + 1 - self.tokens
        return lack / self.speed if lack > SLACK else None


def backlog_of(waiting: int, sent: int, allowance: Allowance | None) -> Backlog:
    """What waits in a queue, and how much more of it may be sent beside what is ``sent``."""
    if allowance is None:
        return Backlog(waiting, sent)
    return Backlog(waiting, sent, max(0, allowance.most - sent), allowance.token_in(sent))


def read_allowances(
    ask: Callable[[str, dict[str, Any]], Iterable[Any]], queues: Collection[str]
) -> dict[str, Allowance]:
    """The allowances of those of some queues that are steered. ``ask`` executes SQL."""
    return {row[0]: Allowance(*row) for row in ask(ALLOWANCES, {"queues": sorted(queues)})}
