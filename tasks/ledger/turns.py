"""Whose turn it is: the queues in which tasks are ready, one after the other in the order of their names.

What this costs goes by how many queues have ready tasks, never by how many there are.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tasks.ledger.order import OUTLOOK, Outlook
from tasks.ledger.transaction import Transaction
from tasks.plans import is_queued

#: So many queues are found by one statement.
AT_ONCE: Final = 16


class Turn(NamedTuple):
    """A queue whose turn it is, and what there is to know about it before its next tasks are looked for."""

    queue: str
    outlook: Outlook


# One probe of the index for each queue: behind the last one, or else, once, from the first one on.
_NEXT = f"""
WITH RECURSIVE found(queue, wrapped, nth) AS (
    SELECT %(last)s::text, %(wrapped)s::boolean, 0
    UNION ALL
    SELECT next.queue, next.wrapped, nth + 1 FROM found CROSS JOIN LATERAL (
        (SELECT s.queue, found.wrapped FROM task_state s
         WHERE {is_queued()} AND s.dispatch IS NULL AND NOT s.parked AND s.queue > found.queue
         ORDER BY s.queue LIMIT 1)
        UNION ALL
        (SELECT s.queue, true FROM task_state s
         WHERE {is_queued()} AND s.dispatch IS NULL AND NOT s.parked AND s.queue > '' AND NOT found.wrapped
         ORDER BY s.queue LIMIT 1)
        LIMIT 1) AS next(queue, wrapped)
    WHERE nth < {AT_ONCE} AND NOT (next.wrapped AND next.queue > coalesce(%(first)s::text, next.queue))
)
SELECT found.queue, found.wrapped, wanted.it, outlook.* FROM found
CROSS JOIN LATERAL (SELECT %(queues)s::text[] IS NULL OR found.queue = ANY(%(queues)s)) AS wanted(it)
LEFT JOIN LATERAL ({OUTLOOK.replace("%(queue)s", "found.queue")}) AS outlook ON wanted.it
WHERE nth > 0 ORDER BY nth"""


def queues_in_turn(tx: Transaction, queues: Sequence[str] | None, after: str) -> Iterator[list[Turn]]:
    """The queues, of these or of all, in which tasks are ready: once round, some at a time."""
    wanted = None if queues is None else list(queues)
    last, wrapped, found = after, after == "", AT_ONCE
    while found == AT_ONCE:
        some = {"first": after or None, "last": last, "wrapped": wrapped, "queues": wanted}
        rows = tx.named(_NEXT, some)
        found = len(rows)
        if rows:
            last, wrapped, *_ = rows[-1]
        yield [Turn(queue, Outlook(*outlook)) for queue, _, is_wanted, *outlook in rows if is_wanted]
