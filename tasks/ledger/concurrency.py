"""Limits on how many tasks with the same key run at once: who may be claimed, and who is next.

A limit is judged when a task is claimed, under the lock of its key: no two claims take the last place. What
finds none is *parked*: it stays queued, with its rank, but is not ready. Whatever leaves ``running`` gives
its place back, and then the best ranks of those that are parked become ready, as many as there are places:
under the same lock, in the same transaction or, while somebody else has the lock, in one after it. So either
the claim that parks a task sees the free place, or who unparks sees the task. The clock looks for what
nobody unparked, because its process died.

Nobody overtakes a parked task of the same key that has the better rank in the same queue, as far as there are
no more places.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.plans import is_queued

#: Keys share so many locks: one for each would fill Postgres's table of locks.
LOCKS = 256
#: How many tasks behind one that finds no place are parked with it, and how many keys one sweep looks at.
BATCH = 500


class Unpark(msgspec.Struct, frozen=True):
    """Make the next tasks of a key ready, as many as there are places."""

    key: str


class Sweep(msgspec.Struct, frozen=True):
    """Look at the next keys, from ``after`` on, for which tasks are parked although there are places."""

    after: str = ""


class Judgement(NamedTuple):
    """Which of some tasks with keys may run now, and which find no place. The others are in other hands."""

    admitted: set[UUID]
    over: set[UUID]


# Of equal keys the better rank has the better place, after those that run and those parked before it. Rows
# are looked up one by one: no plan must look for them among all that is queued.
_JUDGE = f"""
WITH asked AS MATERIALIZED (
    SELECT one.* FROM unnest(%(ids)s::uuid[]) AS i(id) CROSS JOIN LATERAL (
        SELECT s.id, s.concurrency_key AS key, s.concurrency AS most, s.queue, s.rank FROM task_state s
        WHERE s.id = i.id AND coalesce(s.status, '') = 'queued' AND NOT s.parked
        FOR NO KEY UPDATE SKIP LOCKED) AS one
), running AS MATERIALIZED (
    SELECT key, (SELECT count(*) FROM task_state r
        WHERE r.concurrency_key = key AND r.status = 'running') AS n
    FROM (SELECT DISTINCT key FROM asked) AS keys
)
SELECT a.id, running.n + row_number() OVER (PARTITION BY key ORDER BY a.rank, a.id) + (
    SELECT count(*) FROM (SELECT FROM task_state p
        WHERE p.concurrency_key = key AND p.queue = a.queue AND {is_queued("p")} AND p.parked
        AND (p.rank, p.id) < (a.rank, a.id) LIMIT a.most) AS before) <= a.most
FROM asked a JOIN running USING (key)"""

# What is ready in the queue would find no place either: all of the key if that is full, else what is behind
# one that found none. It need not be claimed to be parked.
_PARK = f"""
WITH first AS (
    SELECT DISTINCT ON (s.concurrency_key, s.queue) s.id, s.concurrency_key, s.queue, s.rank,
        s.concurrency <= (SELECT count(*) FROM task_state r
            WHERE r.concurrency_key = s.concurrency_key AND r.status = 'running') AS is_full
    FROM task_state s WHERE s.id = ANY(%(ids)s) ORDER BY s.concurrency_key, s.queue, s.rank, s.id
), behind AS MATERIALIZED (
    SELECT one.id FROM first CROSS JOIN LATERAL (
        SELECT s.id FROM task_state s
        WHERE s.concurrency_key = first.concurrency_key AND s.queue = first.queue AND {is_queued()}
            AND NOT s.parked AND s.dispatch IS NULL
            AND (first.is_full OR (s.rank, s.id) > (first.rank, first.id))
        ORDER BY s.rank, s.id LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED) AS one
)
UPDATE task_state SET parked = true, dispatch = NULL, dispatched_at = NULL
WHERE id IN (SELECT unnest(%(ids)s::uuid[]) UNION SELECT id FROM behind)
RETURNING id"""

_PARKED = f"FROM task_state p WHERE p.concurrency_key = key AND {is_queued('p')} AND p.parked"
_PLACES = f"""(SELECT p.concurrency {_PARKED} LIMIT 1) - (
    SELECT count(*) FROM task_state r WHERE r.concurrency_key = key AND r.status = 'running')"""

# In every queue of a key as many as there are places: what one queue does not let start, because it is paused
# or full, must not keep the place from another one. Whoever comes is judged again. One probe for each queue.
_UNPARK = f"""
WITH RECURSIVE lines(key, queue) AS (
    SELECT key, (SELECT min(p.queue) {_PARKED}) FROM unnest(%(keys)s::text[]) AS k(key)
    UNION ALL
    SELECT key, (SELECT min(p.queue) {_PARKED} AND p.queue > lines.queue) FROM lines
    WHERE lines.queue IS NOT NULL
), next AS MATERIALIZED (
    SELECT one.id FROM lines CROSS JOIN LATERAL (SELECT {_PLACES}) AS free(places)
    CROSS JOIN LATERAL (
        SELECT p.id {_PARKED} AND p.queue = lines.queue
        ORDER BY p.rank, p.id LIMIT greatest(free.places, 0) FOR NO KEY UPDATE SKIP LOCKED) AS one
)
UPDATE task_state s SET parked = false FROM next WHERE s.id = next.id RETURNING s.id"""

# A loose index scan: one probe for each key.
_WAITING = f"""
WITH RECURSIVE keys(key, nth) AS (
    SELECT %(after)s::text, 0
    UNION ALL
    SELECT (SELECT s.concurrency_key FROM task_state s
            WHERE s.concurrency_key > seen.key AND {is_queued()}
            ORDER BY s.concurrency_key LIMIT 1), seen.nth + 1
    FROM keys seen WHERE seen.key IS NOT NULL AND seen.nth < %(limit)s
), known AS MATERIALIZED (SELECT key FROM keys WHERE nth > 0 AND key IS NOT NULL)
SELECT key, coalesce({_PLACES} > 0, false) FROM known ORDER BY key"""


def judge(tx: Transaction, keys: Mapping[UUID, str]) -> Judgement:
    """Judge ready tasks by their keys, and lock them. Those that may run are to be claimed at once."""
    locked = try_lock(tx, {_lock_of(key) for key in keys.values()})
    ids = [one for one, key in keys.items() if _lock_of(key) in locked]
    judged = dict(tx.planned(_JUDGE, {"ids": ids})) if ids else {}
    admitted = {one for one, may_run in judged.items() if may_run}
    return Judgement(admitted, judged.keys() - admitted)


def park(tx: Transaction, over: Collection[UUID]) -> None:
    """Park tasks that found no place, after those were claimed that did, and what is ready behind them."""
    if over:
        tx.planned(_PARK, {"ids": list(over)})


def follow(tx: Transaction) -> None:
    """Unpark the next of each key of which a place became free here; after the commit if it is judged now."""
    locked = try_lock(tx, {_lock_of(key) for key in tx.freed})
    _unpark(tx, {key for key in tx.freed if _lock_of(key) in locked})
    for key in sorted(tx.freed):
        if _lock_of(key) not in locked:
            tx.follow_up("unpark", Unpark(key), 1)


def unpark(tx: Transaction, items: Sequence[Unpark]) -> list[object]:
    """Make the next tasks of keys ready: True, or SKIPPED while another process judges them."""
    locked = try_lock(tx, {_lock_of(item.key) for item in items})
    _unpark(tx, {item.key for item in items if _lock_of(item.key) in locked})
    return [_lock_of(item.key) in locked or SKIPPED for item in items]


def sweep(tx: Transaction, items: Sequence[Sweep]) -> list[str | None]:
    """Unpark what nobody did: where the next sweep goes on, or None if all keys were looked at."""
    return [_sweep(tx, item) for item in items]


def _sweep(tx: Transaction, item: Sweep) -> str | None:
    waiting: list[tuple[str, bool]] = tx.planned(_WAITING, {"after": item.after, "limit": BATCH})
    missed = {key for key, has_places in waiting if has_places}
    locked = try_lock(tx, {_lock_of(key) for key in missed})
    _unpark(tx, {key for key in missed if _lock_of(key) in locked})
    return waiting[-1][0] if len(waiting) >= BATCH else None


def _unpark(tx: Transaction, keys: set[str]) -> None:
    if keys:
        tx.made_ready(len(tx.planned(_UNPARK, {"keys": sorted(keys)})))


def _lock_of(key: str) -> str:
    return f"concurrency {zlib.crc32(key.encode()) % LOCKS}"
