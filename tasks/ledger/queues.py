"""The verbs that make named queues, change their settings, pause, resume and delete them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tasks.errors import Conflict
from tasks.ledger.locks import try_lock
from tasks.ledger.room import lock_of
from tasks.ledger.transaction import READY_CHANNEL, SKIPPED, Transaction, as_json
from tasks.records import Queue, RateLimit


class Define(msgspec.Struct, frozen=True):
    """Settings of a queue; what is None stays as it is, and is the default in a new queue."""

    name: str
    concurrency: int | None = None
    rate_limit: RateLimit | None = None
    max_size: int | None = None


class Change(msgspec.Struct, frozen=True):
    """New settings of a queue that is there; what is UNSET stays as it is, None takes a limit away."""

    name: str
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET
    rate_limit: RateLimit | msgspec.UnsetType | None = msgspec.UNSET
    max_size: int | msgspec.UnsetType | None = msgspec.UNSET


class Switch(msgspec.Struct, frozen=True):
    """Pause a queue, or let it go on."""

    name: str
    paused: bool


class Drop(msgspec.Struct, frozen=True):
    """Delete a queue in which nothing is unfinished."""

    name: str


class Adopt(msgspec.Struct, frozen=True):
    """Make the queues again that were deleted while a task was on its way into them."""


class Defined(msgspec.Struct, frozen=True):
    """A queue as it is now, and whether it is new."""

    queue: Queue
    is_new: bool


_COLUMNS = "name, concurrency, rate_limit, max_size, paused, created_at, updated_at"

# A row that was inserted has no xmax.
_DEFINE = f"""
INSERT INTO queues AS q (name, concurrency, rate_limit, max_size)
SELECT name, coalesce(concurrency, 5), rate_limit, max_size FROM jsonb_to_record(%s::jsonb)
    AS given(name text, concurrency integer, rate_limit jsonb, max_size integer)
ON CONFLICT (name) DO UPDATE SET
    concurrency = coalesce((%s::jsonb->>'concurrency')::integer, q.concurrency),
    rate_limit = coalesce(excluded.rate_limit, q.rate_limit),
    max_size = coalesce(excluded.max_size, q.max_size), updated_at = now()
RETURNING {_COLUMNS}, xmax = 0"""

_CHANGE = f"""
UPDATE queues SET
    concurrency = CASE WHEN given ? 'concurrency' THEN (given->>'concurrency')::integer ELSE concurrency END,
    rate_limit = CASE WHEN given ? 'rate_limit' THEN nullif(given->'rate_limit', 'null') ELSE rate_limit END,
    max_size = CASE WHEN given ? 'max_size' THEN (given->>'max_size')::integer ELSE max_size END,
    updated_at = now()
FROM (SELECT %s::jsonb AS given) AS asked WHERE name = given->>'name'
RETURNING {_COLUMNS}"""

_SWITCH = f"UPDATE queues SET paused = %s, updated_at = now() WHERE name = %s RETURNING {_COLUMNS}"

# A bucket without a limit is forgotten: whoever sets one again begins with a full one.
_FORGET_BUCKETS = """
DELETE FROM rate_buckets b WHERE queue = ANY(%s)
AND NOT EXISTS (SELECT FROM queues q WHERE q.name = b.queue AND q.rate_limit IS NOT NULL)"""

# Counted no further than people care for.
_IN_USE = """
SELECT (SELECT count(*) FROM (
        SELECT FROM task_state s WHERE s.queue = %(name)s
        AND s.status IN ('scheduled', 'blocked', 'queued', 'retrying') LIMIT 1000) AS waiting)
    + (SELECT count(*) FROM task_state s
        WHERE s.queue = %(name)s AND s.status = 'running' AND s.worker IS NOT NULL)
    + (SELECT count(*) FROM (
        SELECT FROM task_state s WHERE s.run_queue = %(name)s
        AND s.status IN ('scheduled', 'blocked', 'queued', 'running') LIMIT 1000) AS runs),
    (SELECT count(*) FROM dead_letters d WHERE d.queue_name = %(name)s AND d.resolution IS NULL)"""

_DROP = "DELETE FROM queues WHERE name = %s RETURNING name"

# A loose index scan: one probe for each queue in which something waits.
_WAITS = "s.status IN ('scheduled', 'blocked', 'queued', 'retrying')"
_ADOPT = f"""
WITH RECURSIVE used(queue) AS (
    SELECT (SELECT s.queue FROM task_state s WHERE {_WAITS} ORDER BY s.queue LIMIT 1)
    UNION ALL
    SELECT (SELECT s.queue FROM task_state s WHERE {_WAITS} AND s.queue > used.queue
            ORDER BY s.queue LIMIT 1)
    FROM used WHERE used.queue IS NOT NULL
)
INSERT INTO queues (name)
SELECT queue FROM used WHERE queue IS NOT NULL AND NOT EXISTS (
    SELECT FROM queues q WHERE q.name = used.queue)
ORDER BY 1 ON CONFLICT DO NOTHING RETURNING name"""


def define(tx: Transaction, items: Sequence[Define]) -> list[object]:
    """Make or change queues: a Defined for each, SKIPPED while others use the settings of one."""
    locked = try_lock(tx, {lock_of(item.name) for item in items})
    return [_define(tx, item) if lock_of(item.name) in locked else SKIPPED for item in items]


def _define(tx: Transaction, item: Define) -> Defined:
    given = msgspec.structs.asdict(item)
    ((*columns, is_new),) = tx.rows(_DEFINE, as_json(given), as_json(given))
    tx.notify(READY_CHANNEL, item.name)
    return Defined(_queue(columns), is_new)


def change(tx: Transaction, items: Sequence[Change]) -> list[object]:
    """Change queues that are there: each as it is now, None if it is missing, SKIPPED while it is used."""
    locked = try_lock(tx, {lock_of(item.name) for item in items})
    changed = [
        _changed(tx, item.name, tx.rows(_CHANGE, as_json(item))) if lock_of(item.name) in locked else SKIPPED
        for item in items
    ]
    tx.execute(_FORGET_BUCKETS, [item.name for item in items if lock_of(item.name) in locked])
    return changed


def switch(tx: Transaction, items: Sequence[Switch]) -> list[object]:
    """Pause queues or let them go on: each as it is now, None if it is missing, SKIPPED while it is used."""
    locked = try_lock(tx, {lock_of(item.name) for item in items})
    return [
        _changed(tx, item.name, tx.rows(_SWITCH, item.paused, item.name))
        if lock_of(item.name) in locked
        else SKIPPED
        for item in items
    ]


def drop(tx: Transaction, items: Sequence[Drop]) -> list[object]:
    """Delete queues: True, False if there was none, a Conflict if something is in it, SKIPPED while used."""
    locked = try_lock(tx, {lock_of(item.name) for item in items})
    return [_drop(tx, item.name) if lock_of(item.name) in locked else SKIPPED for item in items]


def _drop(tx: Transaction, name: str) -> object:
    ((unfinished, dead),) = tx.planned(_IN_USE, {"name": name})
    if unfinished or dead:
        return Conflict(
            f"The queue {name} has {unfinished} unfinished tasks and {dead} open dead letters: cancel or"
            " finish the ones, replay or discard the others, then delete it."
        )
    gone = bool(tx.rows(_DROP, name))
    tx.execute(_FORGET_BUCKETS, [name])
    return gone


def adopt(tx: Transaction, items: Sequence[Adopt]) -> list[int]:
    """Make queues again that are gone, but have tasks; how many."""
    made = len(tx.planned(_ADOPT, {}))
    return [made for _ in items]


def _changed(tx: Transaction, name: str, rows: Sequence[Sequence[Any]]) -> Queue | None:
    tx.notify(READY_CHANNEL, name)
    return _queue(rows[0]) if rows else None


def _queue(columns: Sequence[Any]) -> Queue:
    return msgspec.convert(dict(zip(_COLUMNS.split(", "), columns, strict=True)), Queue)
