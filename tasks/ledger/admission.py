"""Whether tasks that arrived by message may run now: what their queues allow, and then what their keys do.

Whoever may not goes back: it stays queued with its rank, and no attempt is used. What its key keeps waiting
is parked (see `tasks.ledger.concurrency`); what its queue keeps waiting is ready again, and is sent anew when
the queue allows it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from tasks.allowances import Allowance
from tasks.ledger.allowances import lock_allowances, spend
from tasks.ledger.concurrency import judge
from tasks.ledger.dispatches import send_back
from tasks.ledger.transaction import Transaction

_LOCK = """
SELECT s.id FROM task_state s WHERE s.id = ANY(%s) AND s.status = 'queued' AND s.dispatch IS NOT NULL
ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED"""


class Asking(NamedTuple):
    """A task that arrived: its queue if that is steered, its key if it has one, and its rank."""

    id: UUID
    queue: str | None
    key: str | None
    rank: float


class Admission(NamedTuple):
    """Which tasks are to be claimed at once, which to be parked then, and which went back; all are locked.

    The others are in other hands.
    """

    admitted: list[Asking]
    parked: set[UUID]
    sent_back: set[UUID]


def admit(tx: Transaction, asking: Sequence[Asking]) -> Admission:
    """Judge what arrived. What is admitted has its tokens; what finds no place of its key is to be parked."""
    allowances = lock_allowances(tx, {one.queue for one in asking if one.queue is not None})
    judged = [one for one in asking if one.queue is None or one.queue in allowances]
    closed = [one for one in judged if one.queue is not None and not allowances[one.queue].most]
    may, over = _judge_keys(tx, [one for one in judged if one not in closed])
    fitting = _fit(may, allowances)
    surplus = [one for one in may if one not in fitting]
    # Their keys have a place left: another queue may have a use for it.
    tx.freed.update(one.key for one in surplus if one.key is not None)
    spend(tx, allowances, [one.queue for one in fitting if one.queue is not None])
    return Admission(fitting, over, send_back(tx, [one.id for one in (*closed, *surplus)]))


def _judge_keys(tx: Transaction, asking: Sequence[Asking]) -> tuple[list[Asking], set[UUID]]:
    """Which may run as far as their keys are concerned, and which are to be parked; all are locked."""
    plain = [one.id for one in asking if one.key is None]
    keys = {one.id: one.key for one in asking if one.key is not None}
    locked = {row[0] for row in tx.rows(_LOCK, plain)} if plain else set()
    admitted, over = judge(tx, keys) if keys else (set(), set())
    return [one for one in asking if one.id in locked or one.id in admitted], over


def _fit(asking: Collection[Asking], allowances: Mapping[str, Allowance]) -> list[Asking]:
    """Of each queue as many as it allows, the best ranks first."""
    left = Counter({name: one.most for name, one in allowances.items()})
    fitting = []
    for one in sorted(asking, key=lambda each: each.rank):
        if one.queue is None or left[one.queue] > 0:
            fitting.append(one)
            if one.queue is not None:
                left[one.queue] -= 1
    return fitting
