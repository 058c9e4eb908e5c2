"""Reading the queues: their settings, and what is in them."""

import time
from collections import Counter
from typing import Any

import msgspec
from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import COMMITTING, session
from tasks.errors import Unavailable
from tasks.models import QueueRow
from tasks.records import Percentiles, Queue, QueueStats, RateLimit

#: So many of the newest tasks tell what became of them lately.
NEWEST = 2_000
#: What `LATELY` says of a queue in which nothing ended.
NOTHING = (0, 0, 0.0, None, None, None, None)
#: Postgres ends a transaction of a process that stands still sooner.
CLAIM_SECONDS = 8.0
CLAIM_PAUSE = 0.002


class QueueQueries:
    """All questions about queues, on the database of a `tasks.queries.Queries` (which binds the tables)."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def queues(self, *, limit: int, offset: int) -> tuple[list[Queue], int]:
        """A part of the queues, by name, and how many there are in all."""
        with session(self._database):
            rows = QueueRow.select().order_by(QueueRow.name).limit(limit).offset(offset)
            return [_queue(row) for row in rows], QueueRow.select().count()

    def queue(self, name: str) -> Queue | None:
        """A queue, or None if there is none of this name."""
        with session(self._database):
            row = QueueRow.get_or_none(QueueRow.name == name)
            return None if row is None else _queue(row)

    def wait_for_claims(self, timeout: float = CLAIM_SECONDS) -> None:
        """Wait until every transaction is over in which what was committed before this may be unknown.

        A claim that began before a pause may have seen the queue open. All that begins later sees the pause.

        Raises:
          Unavailable: a process stood still in the middle of one for ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        with session(self._database):
            begun = self._database.execute_sql(_BEGUN).fetchall()
            while begun:
                pids, times = [row[0] for row in begun], [row[1] for row in begun]
                begun = self._database.execute_sql(_STILL, (pids, times)).fetchall()
                if begun and time.monotonic() > deadline:
                    raise Unavailable("The queue is paused, but a claim is still under way: ask again.")
                time.sleep(CLAIM_PAUSE if begun else 0)

    def stats(self, name: str) -> QueueStats | None:
        """What is in a queue, or None if there is none of this name.

        What waits and runs is counted exactly, in indexes of unfinished tasks alone: it costs about 20 ms for
        each 100,000 that wait. What became of tasks is seen at the newest 2,000 of the queue, and at the
        newest 2,000 each of all completed and failed ones, which a long backlog does not hide. The cost does
        not grow with the record.
        """
        with session(self._database):
            row = QueueRow.get_or_none(QueueRow.name == name)
            if row is None:
                return None
            waiting = self._database.execute_sql(_WAITING, (name,)).fetchall()
            present = self._database.execute_sql(_PRESENT, {"name": name}).fetchone()
            lately = self._database.execute_sql(LATELY, {"names": [name], "newest": NEWEST}).fetchone()
        return stats_of(row, waiting, present, lately[1:] if lately else NOTHING)


def _queue(row: Any) -> Queue:
    return Queue(
        name=row.name,
        concurrency=row.concurrency,
        rate_limit=None if row.rate_limit is None else msgspec.convert(row.rate_limit, RateLimit),
        max_size=row.max_size,
        paused=row.paused,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def stats_of(row: Any, waiting: list[tuple[str, bool, int]], present: Any, lately: Any) -> QueueStats:
    """The statistics of a queue from what its row, `_WAITING`, `_PRESENT` and `LATELY` say."""
    by_status: Counter[str] = Counter()
    for status, _, count in waiting:
        by_status[status] += count
    running, dead, runs, oldest = present
    completed, failed, throughput, *measured = lately
    percentiles = [None if one is None else round(one, 3) for one in measured]
    return QueueStats(
        name=row.name,
        queued=by_status["queued"],
        running=running,
        scheduled=by_status["scheduled"],
        retrying=by_status["retrying"],
        blocked=by_status["blocked"],
        completed=completed,
        failed=failed,
        dead=dead,
        size=runs + sum(count for _, is_stage, count in waiting if not is_stage),
        capacity=row.max_size,
        concurrency=row.concurrency,
        paused=row.paused,
        oldest_age_s=oldest,
        throughput=throughput,
        wait_ms=Percentiles(*percentiles[:2]),
        run_ms=Percentiles(*percentiles[2:]),
    )


# A connection shows that it has begun before its first statement looks at anything.
_BEGUN = f"""
SELECT a.pid, a.xact_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.classid::bigint = {COMMITTING} AND l.objsubid = 2
AND a.datname = current_database() AND a.xact_start IS NOT NULL"""

_STILL = """
SELECT a.pid, a.xact_start FROM unnest(%s::integer[], %s::timestamptz[]) AS b(pid, xact_start)
JOIN pg_stat_activity a USING (pid, xact_start)"""

_WAITING = """
SELECT status, is_stage, count(*) FROM task_state
WHERE queue = %s AND status IN ('scheduled', 'blocked', 'queued', 'retrying') GROUP BY status, is_stage"""

# The oldest is found at the ends of the index: that of stages and that of whole tasks.
_PRESENT = """
SELECT (SELECT count(*) FROM task_state WHERE queue = %(name)s AND status = 'running'
        AND worker IS NOT NULL),
    (SELECT count(*) FROM dead_letters WHERE queue_name = %(name)s AND resolution IS NULL),
    (SELECT count(*) FROM task_state WHERE run_queue = %(name)s
        AND status IN ('scheduled', 'blocked', 'queued', 'running')),
    extract(epoch FROM now() - least(
        (SELECT min(ready_at) FROM task_state WHERE queue = %(name)s AND status = 'queued' AND is_stage),
        (SELECT min(ready_at) FROM task_state WHERE queue = %(name)s AND status = 'queued' AND NOT is_stage)
    ))::float8"""

# What became lately of the newest tasks of some queues, a row for each in which anything ended. Tasks are
# looked up one by one: as joins these may become some over all tasks.
LATELY = """
WITH newest AS (
    SELECT own.id FROM unnest(%(names)s::text[]) AS q(name), LATERAL (
        SELECT id FROM tasks WHERE queue_name = q.name ORDER BY id DESC LIMIT %(newest)s) AS own
    UNION (SELECT id FROM task_state WHERE status = 'completed' ORDER BY id DESC LIMIT %(newest)s)
    UNION (SELECT id FROM task_state WHERE status = 'failed' ORDER BY id DESC LIMIT %(newest)s)
), ended AS (
    SELECT s.queue, s.status, s.finished_at, extract(epoch FROM s.finished_at - s.started_at)::float8 AS ran,
        greatest(extract(epoch FROM s.started_at - s.ready_at)::float8, 0) AS waited
    FROM newest CROSS JOIN LATERAL (SELECT * FROM task_state s WHERE s.id = newest.id OFFSET 0) AS s
    WHERE s.queue = ANY(%(names)s) AND s.status IN ('completed', 'failed')
    AND s.finished_at > now() - interval '1 hour'
)
SELECT queue, count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
    coalesce(count(*) / greatest(extract(epoch FROM now() - min(finished_at))::float8, 1), 0),
    1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY waited),
    1000 * percentile_cont(0.95) WITHIN GROUP (ORDER BY waited),
    1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY ran),
    1000 * percentile_cont(0.95) WITHIN GROUP (ORDER BY ran)
FROM ended GROUP BY queue"""
