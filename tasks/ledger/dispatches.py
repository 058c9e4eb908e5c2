"""The verbs of the dispatcher: take, take_dead, close, reopen and resend."""

from collections.abc import Sequence

import msgspec

from tasks.ledger.transaction import Transaction
from tasks.values import DeadLetter, Hint


class Take(msgspec.Struct):
    """Stamp up to ``limit`` ready rows of a queue with ``dispatch``, best rank first."""

    queue: str
    limit: int
    dispatch: int
    tried: bool = False


class TakeDead(msgspec.Struct):
    """Stamp up to ``limit`` dead letters of a queue whose copy is owed with ``dispatch``, oldest first."""

    queue: str
    limit: int
    dispatch: int
    tried: bool = False


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


# A suspect had its turn in a process that was lost: its message overtakes those of its equals.
_HINT = "s.id, t.task_type, s.queue, t.priority + s.suspect::int, s.dispatch"
_LETTER = """d.id, d.task_id, d.task_type, d.queue_name, d.attempt, d.code, d.message, d.traceback,
    d.dispatch"""

_TAKE = f"""
WITH ready AS (
    SELECT id FROM task_state WHERE queue = %s AND status = 'queued' AND dispatch IS NULL
    ORDER BY rank LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE task_state s SET dispatch = %s, dispatched_at = now()
FROM ready JOIN tasks t USING (id) WHERE s.id = ready.id RETURNING {_HINT}"""

_TAKEN = f"""
SELECT {_HINT} FROM task_state s JOIN tasks t USING (id) WHERE s.dispatch = %s AND s.status = 'queued'"""

_TAKE_DEAD = f"""
WITH owed AS (
    SELECT id FROM dead_letters
    WHERE queue_name = %s AND copied_at IS NULL AND dispatch IS NULL AND resolution IS NULL
    ORDER BY failed_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE dead_letters d SET dispatch = %s FROM owed WHERE d.id = owed.id RETURNING {_LETTER}"""

_TAKEN_DEAD = f"SELECT {_LETTER} FROM dead_letters d WHERE d.dispatch = %s"

_COPIED = """
UPDATE dead_letters SET copied_at = now(), dispatch = NULL WHERE dispatch = ANY(%s)"""

_OWED_AGAIN = """
UPDATE dead_letters SET dispatch = NULL WHERE dispatch = %s"""

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


def take(tx: Transaction, items: Sequence[Take]) -> list[int]:
    """Stamp ready rows; their hints are published after the commit. How many."""
    return [_take(tx, item, _TAKE, _TAKEN, Hint) for item in items]


def take_dead(tx: Transaction, items: Sequence[TakeDead]) -> list[int]:
    """Stamp dead letters; their copies are published after the commit. How many."""
    return [_take(tx, item, _TAKE_DEAD, _TAKEN_DEAD, DeadLetter) for item in items]


def _take(
    tx: Transaction, item: Take | TakeDead, take: str, taken: str, kind: type[Hint] | type[DeadLetter]
) -> int:
    """Stamp rows, or find those that an earlier commit of unknown outcome has stamped: unpublished."""
    rows = tx.rows(taken, item.dispatch) if item.tried else []
    item.tried = True
    rows = rows or tx.rows(take, item.queue, item.limit, item.dispatch)
    tx.publications.extend(kind(*row) for row in rows)
    return len(rows)


def close(tx: Transaction, items: Sequence[Close]) -> list[None]:
    """Forget confirmed batches; the dead letters among them have their copies now."""
    confirmed = [item.dispatch for item in items]
    tx.execute("DELETE FROM dispatches WHERE id = ANY(%s)", confirmed)
    tx.execute(_COPIED, confirmed)
    return [None for _ in items]


def reopen(tx: Transaction, items: Sequence[Reopen]) -> list[int]:
    """Make the unclaimed rows of unconfirmed batches ready again; how many."""
    outcomes = []
    for item in items:
        outcomes.append(tx.made_ready(len(tx.rows(_REOPEN, item.dispatch))))
        tx.execute(_OWED_AGAIN, item.dispatch)
        tx.execute(
            "DELETE FROM dispatches WHERE id = %s AND NOT EXISTS"
            " (SELECT FROM task_state WHERE status = 'queued' AND dispatch = %s)",
            item.dispatch,
            item.dispatch,
        )
    return outcomes


def resend(tx: Transaction, items: Sequence[Resend]) -> list[int]:
    """Make rows ready again whose message got lost; how many."""
    return [tx.made_ready(len(tx.rows(_RESEND, item.queue, item.seconds))) for item in items]
