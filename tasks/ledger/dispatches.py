"""The verbs of the dispatcher: take, take_dead, close, reopen and resend."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.allowances import look_up_allowances
from tasks.ledger.order import LOCK_ONE, SPARE, Sent, candidates_of, choose, find, fit, look_ahead
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.plans import is_queued
from tasks.values import DeadLetter, Hint

#: A window that never closes.
NO_WINDOW = 1 << 30


class Take(msgspec.Struct):
    """Stamp up to ``limit`` ready rows of a queue with ``dispatch`` (see `tasks.ledger.order` for which).

    A row is left if ``window`` messages or more would be delivered before its own, not counting those that
    were published more than ``gone_after`` seconds ago (None: all count).
    """

    queue: str
    limit: int
    dispatch: int
    window: int = NO_WINDOW
    gone_after: float | None = None
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
    """Rows of a queue that were published more than ``seconds`` ago and never claimed become ready again.

    With ``overtaken`` only those that yield to other tenants, and were overtaken by something that runs now.
    """

    queue: str
    seconds: float
    overtaken: bool = False


_HINT = "s.id, t.task_type, s.queue, s.wire, s.dispatch"
_LETTER = """d.id, d.task_id, d.task_type, d.queue_name, d.attempt, d.code, d.message, d.traceback,
    d.dispatch"""

_BY_RANK, _FAIRLY = candidates_of()

_SENT = f"""
SELECT tenant, yields, wire, min(rank), count(*) FROM task_state
WHERE queue = %(queue)s AND {is_queued("task_state")} AND dispatch IS NOT NULL AND wire IS NOT NULL
    AND coalesce(dispatched_at > now() - make_interval(secs => %(gone_after)s::float8), true)
GROUP BY 1, 2, 3"""

_TAKE = f"""
WITH ready AS MATERIALIZED (
    SELECT c.* FROM unnest(%(ids)s::uuid[], %(wires)s::smallint[], %(yields)s::boolean[])
        WITH ORDINALITY AS c(id, wire, yields, turn) CROSS JOIN LATERAL ({LOCK_ONE}) AS one
    LIMIT %(wanted)s
)
UPDATE task_state s SET dispatch = %(dispatch)s, dispatched_at = now(), wire = ready.wire,
    yields = ready.yields
FROM ready JOIN tasks t USING (id) WHERE s.id = ready.id
RETURNING {_HINT}, ready.turn"""

_TAKEN = f"""
SELECT {_HINT}, s.rank FROM task_state s JOIN tasks t USING (id)
WHERE s.dispatch = %s AND {is_queued()}"""

_TAKE_DEAD = f"""
WITH owed AS (
    SELECT id FROM dead_letters
    WHERE queue_name = %s AND copied_at IS NULL AND dispatch IS NULL AND resolution IS NULL
    ORDER BY failed_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE dead_letters d SET dispatch = %s FROM owed WHERE d.id = owed.id RETURNING {_LETTER}"""

_TAKEN_DEAD = f"SELECT {_LETTER} FROM dead_letters d WHERE d.dispatch = %s"

# A letter of a batch may be in the hands of an operator's verb just now.
_SETTLE_COPIES = """
WITH locked AS (
    SELECT id FROM dead_letters WHERE dispatch = ANY(%s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE dead_letters d SET dispatch = NULL{copied} FROM locked WHERE d.id = locked.id"""
_COPIED = _SETTLE_COPIES.format(copied=", copied_at = now()")
_OWED_AGAIN = _SETTLE_COPIES.format(copied="")
_UNSETTLED = "SELECT DISTINCT dispatch FROM dead_letters WHERE dispatch = ANY(%s)"

# One that somebody else forgets or reopens at the same time is left to him.
_FORGET = """
DELETE FROM dispatches WHERE id IN (
    SELECT id FROM dispatches WHERE id = ANY(%s) ORDER BY id FOR UPDATE SKIP LOCKED)"""
_FORGET_REOPENED = (
    _FORGET
    + f""" AND NOT EXISTS (
    SELECT FROM task_state s WHERE {is_queued()} AND s.dispatch = dispatches.id)"""
)

_UNSEND = """
WITH locked AS (
    SELECT id FROM task_state WHERE {queued} AND {which}
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE task_state s SET dispatch = NULL, dispatched_at = NULL FROM locked WHERE s.id = locked.id
RETURNING s.id"""
_REOPEN = _UNSEND.format(queued=is_queued("task_state"), which="dispatch = %s")
_SEND_BACK = _UNSEND.format(queued="status = 'queued'", which="dispatch IS NOT NULL AND id = ANY(%s)")
_RESEND = _UNSEND.format(
    queued=is_queued("task_state"),
    which="queue = %s AND dispatch IS NOT NULL AND dispatched_at < now() - make_interval(secs => %s)"
    " AND NOT EXISTS (SELECT FROM dispatches d WHERE d.id = dispatch)"
    " AND (NOT %s OR yields AND EXISTS (SELECT FROM task_state faster WHERE faster.status = 'running'"
    " AND faster.worker IS NOT NULL AND faster.queue = task_state.queue"
    " AND faster.wire > task_state.wire AND faster.dispatched_at > task_state.dispatched_at))",
)


def take(tx: Transaction, items: Sequence[Take]) -> list[int]:
    """Stamp ready rows; their hints are published after the commit. How many."""
    return [_take(tx, item) for item in items]


def _take(tx: Transaction, item: Take) -> int:
    """Stamp rows, or find those that an earlier commit of unknown outcome has stamped: unpublished."""
    rows = tx.rows(_TAKEN, item.dispatch) if item.tried else []
    item.tried = True
    rows = rows or _stamp(tx, item)
    rows.sort(key=lambda row: row[-1])
    tx.publications.extend(Hint(*row[:-1]) for row in rows)
    return len(rows)


def _stamp(tx: Transaction, item: Take) -> list[Any]:
    outlook = look_ahead(tx, item.queue)
    gone_after = None if outlook.is_steered else item.gone_after
    sent = [Sent(*row) for row in tx.planned(_SENT, {"queue": item.queue, "gone_after": gone_after})]
    limit = min(item.limit, _offered(tx, item.queue, sent)) if outlook.is_steered else item.limit
    if limit <= 0:
        return []
    statement = _FAIRLY if outlook.has_several_tenants else _BY_RANK
    stamps = fit(choose(find(tx, statement, item.queue, limit), sent), sent, item.window)
    stamps = stamps[: limit + SPARE]
    some = {
        "ids": [one.id for one in stamps],
        "wires": [one.wire for one in stamps],
        "yields": [one.yields for one in stamps],
        "wanted": limit,
        "dispatch": item.dispatch,
    }
    return tx.planned(_TAKE, some) if stamps else []


def _offered(tx: Transaction, queue: str, sent: Sequence[Sent]) -> int:
    """How many tasks of a steered queue may be on the wire beside those that are: whoever comes is judged."""
    one = look_up_allowances(tx, [queue]).get(queue)
    return NO_WINDOW if one is None else one.most - sum(some.messages for some in sent)


def take_dead(tx: Transaction, items: Sequence[TakeDead]) -> list[int]:
    """Stamp dead letters; their copies are published after the commit. How many."""
    return [_take_dead(tx, item) for item in items]


def _take_dead(tx: Transaction, item: TakeDead) -> int:
    rows = tx.rows(_TAKEN_DEAD, item.dispatch) if item.tried else []
    item.tried = True
    rows = rows or tx.rows(_TAKE_DEAD, item.queue, item.limit, item.dispatch)
    tx.publications.extend(DeadLetter(*row) for row in rows)
    return len(rows)


def close(tx: Transaction, items: Sequence[Close]) -> list[object]:
    """Forget confirmed batches; the dead letters among them have their copies now. SKIPPED if one is held."""
    confirmed = [item.dispatch for item in items]
    tx.execute(_COPIED, confirmed)
    left = {row[0] for row in tx.rows(_UNSETTLED, confirmed)}
    tx.execute(_FORGET, [dispatch for dispatch in confirmed if dispatch not in left])
    return [SKIPPED if item.dispatch in left else None for item in items]


def reopen(tx: Transaction, items: Sequence[Reopen]) -> list[object]:
    """Make the unclaimed rows of unconfirmed batches ready again: how many, SKIPPED if a letter is held."""
    return [_reopen(tx, [item.dispatch]) for item in items]


def _reopen(tx: Transaction, dispatch: list[int]) -> object:
    count = tx.made_ready(len(tx.rows(_REOPEN, *dispatch)))
    tx.execute(_OWED_AGAIN, dispatch)
    if tx.rows(_UNSETTLED, dispatch):
        return SKIPPED
    tx.execute(_FORGET_REOPENED, dispatch)
    return count


def send_back(tx: Transaction, ids: Sequence[UUID]) -> set[UUID]:
    """Make rows ready again whose message arrived before they may run: which; others are in other hands."""
    if not ids:
        return set()
    back = {row[0] for row in tx.rows(_SEND_BACK, list(ids))}
    tx.made_ready(len(back))
    return back


def resend(tx: Transaction, items: Sequence[Resend]) -> list[int]:
    """Make rows ready again whose message got lost; how many."""
    return [tx.made_ready(len(tx.rows(_RESEND, item.queue, item.seconds, item.overtaken))) for item in items]
