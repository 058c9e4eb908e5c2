"""The verbs of the clock and the dispatcher: promote, rescue, take, close, reopen and resend."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.ledger.transaction import READY_CHANNEL, Transaction
from tasks.values import Hint

#: A task that was running in this many processes when they died is poison: it fails as worker_lost.
MOST_DEATHS = 3
BATCH = 500


class Promote(msgspec.Struct, frozen=True):
    """Make up to ``limit`` due tasks ready."""

    limit: int = BATCH


class Rescue(msgspec.Struct, frozen=True):
    """Take everything back from a dead process."""

    worker: UUID


class Take(msgspec.Struct, frozen=True):
    """Stamp up to ``limit`` ready rows of a queue with ``dispatch``, best rank first."""

    queue: str
    limit: int
    dispatch: int


class Close(msgspec.Struct, frozen=True):
    """A batch whose messages are all confirmed."""

    dispatch: int


class Reopen(msgspec.Struct, frozen=True):
    """A batch that was not (wholly) confirmed: what is unclaimed of it becomes ready again."""

    dispatch: int


class Resend(msgspec.Struct, frozen=True):
    """Rows of a queue that were published more than ``seconds`` ago and never claimed become ready again."""

    queue: str
    seconds: float


_PROMOTE = """
WITH due AS (
    SELECT id, events, queue FROM task_state
    WHERE status IN ('scheduled', 'retrying') AND ready_at <= now()
    ORDER BY ready_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status) SELECT id, events + 1, 'state', 'queued' FROM due
)
UPDATE task_state s SET status = 'queued', token = NULL, events = s.events + 1, updated_at = now()
FROM due WHERE s.id = due.id RETURNING s.id"""

_RESCUE = """
WITH locked AS (
    SELECT s.*, CASE WHEN s.deaths + 1 >= %s THEN 'failed' ELSE 'queued' END AS next,
        jsonb_build_object('code', 'worker_lost', 'message',
            format('The worker process died while the task was running (%%s of %%s).', s.deaths + 1, %s::int))
            AS why
    FROM task_state s WHERE s.worker = %s AND s.status = 'running' AND s.queue IS NOT NULL
    ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, error, started_at, started_event,
        ended_event)
    SELECT id, attempt, 'lost', next, worker, why, started_at, running_event, events + 1 FROM locked
)
UPDATE task_state s SET status = locked.next, deaths = s.deaths + 1, error = locked.why, token = NULL,
    dispatch = NULL, dispatched_at = NULL, events = s.events + 1, updated_at = now(),
    finished_at = CASE WHEN locked.next = 'failed' THEN now() END
FROM locked WHERE s.id = locked.id RETURNING s.id, s.status"""

_TAKE = """
WITH ready AS (
    SELECT id FROM task_state WHERE queue = %s AND status = 'queued' AND dispatch IS NULL
    ORDER BY rank LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE task_state s SET dispatch = %s, dispatched_at = now()
FROM ready JOIN tasks t USING (id) WHERE s.id = ready.id
RETURNING s.id, t.task_type, s.queue, t.priority, s.dispatch"""

_UNSEND = """
WITH locked AS (
    SELECT id FROM task_state WHERE status = 'queued' AND {which}
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE task_state s SET dispatch = NULL, dispatched_at = NULL FROM locked WHERE s.id = locked.id
RETURNING s.id"""
_REOPEN = _UNSEND.format(which="dispatch = %s")
_RESEND = _UNSEND.format(
    which="queue = %s AND dispatch IS NOT NULL AND dispatched_at < now() - make_interval(secs => %s)"
    " AND NOT EXISTS (SELECT FROM dispatches d WHERE d.id = dispatch)"
)


def promote(tx: Transaction, items: Sequence[Promote]) -> list[int]:
    """Make due tasks ready; how many."""
    return [_noticed(tx, len(tx.rows(_PROMOTE, item.limit))) for item in items]


def rescue(tx: Transaction, items: Sequence[Rescue]) -> list[int]:
    """Requeue what dead processes were running (or fail it as poison), and forget the processes."""
    outcomes = []
    for item in items:
        rows = tx.rows(_RESCUE, MOST_DEATHS, MOST_DEATHS, item.worker)
        tx.execute(
            "DELETE FROM workers WHERE id = %s AND NOT EXISTS (SELECT FROM task_state"
            " WHERE worker = %s AND status = 'running' AND queue IS NOT NULL)",
            item.worker,
            item.worker,
        )
        outcomes.append(_noticed(tx, len(rows)))
    return outcomes


def take(tx: Transaction, items: Sequence[Take]) -> list[int]:
    """Stamp ready rows; their hints are published after the commit. How many."""
    outcomes = []
    for item in items:
        rows = tx.rows(_TAKE, item.queue, item.limit, item.dispatch)
        tx.hints.extend(Hint(*row) for row in rows)
        outcomes.append(len(rows))
    return outcomes


def close(tx: Transaction, items: Sequence[Close]) -> list[None]:
    """Forget confirmed batches."""
    tx.execute("DELETE FROM dispatches WHERE id = ANY(%s)", [item.dispatch for item in items])
    return [None for _ in items]


def reopen(tx: Transaction, items: Sequence[Reopen]) -> list[int]:
    """Make the unclaimed rows of unconfirmed batches ready again; how many."""
    outcomes = []
    for item in items:
        outcomes.append(_noticed(tx, len(tx.rows(_REOPEN, item.dispatch))))
        tx.execute(
            "DELETE FROM dispatches WHERE id = %s AND NOT EXISTS"
            " (SELECT FROM task_state WHERE status = 'queued' AND dispatch = %s)",
            item.dispatch,
            item.dispatch,
        )
    return outcomes


def resend(tx: Transaction, items: Sequence[Resend]) -> list[int]:
    """Make rows ready again whose message got lost; how many."""
    return [_noticed(tx, len(tx.rows(_RESEND, item.queue, item.seconds))) for item in items]


def _noticed(tx: Transaction, count: int) -> int:
    if count:
        tx.notify(READY_CHANNEL)
    return count
