"""Statistics: what happened is tallied in the transaction in which it happens, and folded by the clock.

A tally is one appended row for all tasks of a transaction that are alike, so nobody waits for anybody. The
statistics are the folded ones and the tallies together: at every moment they are exact. They survive the
removal of their tasks; ``kept`` is what is still on record.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from tasks.ledger.transaction import Transaction, as_array
from tasks.windows import HOURS_KEPT, MINUTES_KEPT

BATCH = 1_000
#: Beside the final states and 'submitted', for counters that never fall: attempts that another one followed,
#: and, before the name of a final state, ends that an operator's verb undid.
RETRIED = "retried"
EARLIER = "earlier_"


class Fold(msgspec.Struct, frozen=True):
    """Fold up to ``limit`` tallies into the statistics."""

    limit: int = BATCH


class ThinOut(msgspec.Struct, frozen=True):
    """Forget the finer buckets of long ago."""


_COLUMNS = """
INSERT INTO tallies (minute, user_id, task_type, queue_name, is_stage, status, count, kept, duration_ms,
    durations)"""

_ALIKE = (
    "date_trunc('minute', t.created_at, 'UTC'), t.user_id, t.task_type, t.queue_name, t.run_id IS NOT NULL"
)

# Rows are looked up one by one: a plan that was made for an empty table must not look for them among all.
_SUBMITTED = f"""
SELECT {_ALIKE}, {{status}}, {{count}} * count(*), {{kept}} * count(*), 0, NULL::smallint[]
FROM unnest(%s::uuid[]) AS i(id) CROSS JOIN LATERAL (SELECT * FROM tasks t WHERE t.id = i.id OFFSET 0) AS t
GROUP BY 1, 2, 3, 4, 5"""

# Sums of multiples of 1/1024 ms are exact, in whatever order: what is read never falls.
_MILLISECONDS = "(extract(epoch FROM s.finished_at - s.started_at)::float8 * 1000)"
_ENDED = f"""
SELECT {_ALIKE}, {{status}}, {{count}} * count(*), {{kept}} * count(*), {{count}} * coalesce(
        round(sum({_MILLISECONDS}) FILTER (WHERE s.status = 'completed') * 1024) / 1024, 0),
    array_agg(floor(ln(greatest({_MILLISECONDS}, 0.1)) / ln(1.05::float8))::smallint)
        FILTER (WHERE s.status = 'completed' AND s.started_at IS NOT NULL AND {{count}} <> 0)
FROM unnest(%s::uuid[]) AS i(id)
CROSS JOIN LATERAL (SELECT * FROM task_state s WHERE s.id = i.id OFFSET 0) AS s
CROSS JOIN LATERAL (SELECT * FROM tasks t WHERE t.id = i.id OFFSET 0) AS t
WHERE s.status IN ('completed', 'failed', 'cancelled') GROUP BY 1, 2, 3, 4, 5, 6"""

_NEW, _END, _EARLIER, _RETRIED = "'submitted'", "s.status", f"'{EARLIER}' || s.status", f"'{RETRIED}'"
#: A part of the statement that inserts tasks: it tallies the rows of ``task``.
COUNT_NEW = f"""{_COLUMNS}
SELECT {_ALIKE}, {_NEW}, count(*), count(*), 0, NULL::smallint[] FROM task t GROUP BY 1, 2, 3, 4, 5"""
_COUNT_ENDED = _COLUMNS + _ENDED.format(status=_END, count=1, kept=1)
_COUNT_RETRIED = _COLUMNS + _SUBMITTED.format(status=_RETRIED, count=1, kept=0)
_UNCOUNT = (
    _COLUMNS
    + _ENDED.format(status=_END, count=-1, kept=-1)
    + "\nUNION ALL"
    + _ENDED.format(status=_EARLIER, count=1, kept=0)
)
_REMOVED = (
    _COLUMNS
    + _SUBMITTED.format(status=_NEW, count=0, kept=-1)
    + "\nUNION ALL"
    + _ENDED.format(status=_END, count=0, kept=-1)
)

# One clock folds at a time, and nobody else writes the table.
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('callboard statistics', 0))"

_FOLD = """
WITH taken AS (
    DELETE FROM tallies WHERE ctid = ANY(ARRAY(SELECT ctid FROM tallies LIMIT %s)) RETURNING *
), spread AS MATERIALIZED (
    SELECT scope.everyone, CASE WHEN scope.everyone THEN '' ELSE user_id END AS user_id, span.level,
        CASE WHEN span.level = 'all' THEN '-infinity'
            ELSE date_trunc(span.level, minute, 'UTC') END AS bucket,
        task_type, queue_name, is_stage, status, count, kept, duration_ms, durations
    FROM taken CROSS JOIN (VALUES (true), (false)) AS scope(everyone)
    CROSS JOIN (VALUES ('all', NULL), ('day', NULL), ('hour', %s::interval), ('minute', %s::interval))
        AS span(level, age)
    WHERE span.age IS NULL OR minute > now() - span.age
), sums AS (
    SELECT everyone, user_id, level, bucket, task_type, queue_name, is_stage, status, sum(count) AS count,
        sum(kept) AS kept, sum(duration_ms) AS duration_ms
    FROM spread GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), slotted AS (
    SELECT everyone, user_id, level, bucket, task_type, queue_name, is_stage, status, slot,
        sum(sign(count)) AS number
    FROM spread, unnest(durations) AS slot GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
), histograms AS (
    SELECT everyone, user_id, level, bucket, task_type, queue_name, is_stage, status,
        array_agg(slot) AS slots, array_agg(number::bigint) AS numbers
    FROM slotted GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), folded AS (
    INSERT INTO statistics AS s
    SELECT everyone, user_id, level, bucket, task_type, queue_name, is_stage, status, count, kept,
        duration_ms, slots, numbers
    FROM sums LEFT JOIN histograms
        USING (everyone, user_id, level, bucket, task_type, queue_name, is_stage, status)
    ON CONFLICT (everyone, user_id, level, bucket, task_type, queue_name, is_stage, status) DO UPDATE
    SET count = s.count + excluded.count, kept = s.kept + excluded.kept,
        duration_ms = s.duration_ms + excluded.duration_ms,
        (slots, numbers) = (
            SELECT array_agg(slot), array_agg(number) FROM (
                SELECT slot, sum(number)::bigint AS number FROM (
                    SELECT * FROM unnest(s.slots, s.numbers)
                    UNION ALL SELECT * FROM unnest(excluded.slots, excluded.numbers)
                ) AS both_(slot, number) GROUP BY slot HAVING sum(number) <> 0
            ) AS merged)
)
SELECT count(*) FROM taken"""

_FORGET = """
DELETE FROM statistics WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM statistics
    WHERE (level = 'minute' AND bucket < now() - %s::interval - interval '1 hour')
       OR (level = 'hour' AND bucket < now() - %s::interval - interval '1 day') LIMIT %s))"""


def count(tx: Transaction) -> None:
    """Tally what was retried and ended in a transaction, before its commit; what is new has been."""
    ended = tx.ended - tx.counted
    if tx.retried:
        tx.execute(_COUNT_RETRIED, as_array(tx.retried))
        tx.retried.clear()
    if ended:
        tx.execute(_COUNT_ENDED, as_array(ended))
        tx.counted |= ended


def unfold(tx: Transaction, ids: Collection[UUID]) -> None:
    """Take those of these tasks out of the statistics that are over: they are about to run again."""
    count(tx)
    tx.execute(_UNCOUNT, list(ids), list(ids))
    tx.counted.difference_update(ids)


def forget(tx: Transaction, ids: Collection[UUID]) -> None:
    """Tasks are about to be removed: what they did still counts, but they are not on record any more."""
    count(tx)
    tx.execute(_REMOVED, list(ids), list(ids))


def fold(tx: Transaction, items: Sequence[Fold]) -> list[int]:
    """Fold tallies into the statistics; how many, 0 while another process does it."""
    if not tx.rows(_TRY_LOCK)[0][0]:
        return [0 for _ in items]
    return [tx.rows(_FOLD, item.limit, HOURS_KEPT, MINUTES_KEPT)[0][0] for item in items]


def thin_out(tx: Transaction, items: Sequence[ThinOut]) -> list[None]:
    """Forget the finer buckets of what is long ago."""
    if tx.rows(_TRY_LOCK)[0][0]:
        tx.execute(_FORGET, MINUTES_KEPT, HOURS_KEPT, 10 * BATCH)
    return [None for _ in items]
