"""What operators watch: every living process, every queue, and counters that never fall.

All of it is read from the record, so that whichever process is asked gives the same answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.judge import LEASE_SECONDS
from tasks.ledger.statistics import EARLIER
from tasks.models import QueueRow
from tasks.plans import is_queued
from tasks.queues import LATELY, NEWEST, NOTHING, stats_of
from tasks.records import QueueStats
from tasks.states import FINAL, QUEUED, RUNNING, STATES
from tasks.vitals import Vitals, vitals_of

#: So many waiting tasks of a queue and a state are counted. A longer backlog is worked out from what was
#: submitted and what is over, so that it is not dear to look at.
COUNTED_UP_TO = 20_000
#: What became of tasks lately is seen at so many of the newest of all queues together.
NEWEST_OF_ALL = 20_000


class RunningTask(msgspec.Struct, frozen=True):
    """A task that a process runs, and since when."""

    task_id: UUID
    task_type: str
    since: datetime


class ProcessStats(msgspec.Struct, frozen=True, kw_only=True):
    """A living process of a deployment; ``kind`` is worker, api or clock.

    ``types`` are the tasks it can run, with the versions of pipelines it knows; ``threads`` say how many at
    once: ``busy`` of them do, ``idle`` do not.
    ``running`` is what it has claimed. ``memory_bytes`` is what it has in memory (RSS), ``cpu_seconds`` what
    it has used since it began. It told so ``heartbeat_age_s`` ago.
    """

    id: UUID
    kind: str
    host: str
    pid: int
    version: str
    queues: Sequence[str]
    types: Sequence[str]
    threads: int
    busy: int
    idle: int
    running: Sequence[RunningTask]
    memory_bytes: int
    cpu_seconds: float
    started_at: datetime
    heartbeat_age_s: float


class QueueTotals(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is in all queues together."""

    queued: int
    running: int
    scheduled: int
    retrying: int
    blocked: int
    dead: int
    size: int
    oldest_age_s: float | None


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A living process, as the metrics tell of it."""

    kind: str
    host: str
    pid: int
    queues: Sequence[str]
    threads: int
    started_at: datetime
    heartbeat_age_s: float
    vitals: Vitals


class InQueue(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is in a queue now: ``tasks`` by state, with ``sent`` of them on RabbitMQ.

    ``dead`` are open dead letters, ``oldest_age_s`` is how long the oldest ready task has been waiting.
    """

    name: str
    paused: bool
    tasks: Mapping[str, int]
    sent: int
    dead: int
    oldest_age_s: float | None

    @property
    def waiting(self) -> int:
        """How many tasks wait, for whatever it is."""
        return sum(number for status, number in self.tasks.items() if status != RUNNING)


class Counted(msgspec.Struct, frozen=True):
    """What has happened since the record began, by (type, queue): counts never fall, whatever is removed.

    Every type that was declared is there, so that its first task is seen as one more. ``words`` are
    ``submitted``, ``retried`` and the final states; an end counts though a task runs again. ``slots`` and
    ``spent_ms`` are the durations of completed tasks by type, as `tasks.statistics` has them.
    """

    words: Mapping[tuple[str, str], Mapping[str, int]]
    slots: Mapping[str, Mapping[int, int]]
    spent_ms: Mapping[str, float]


class Figures(msgspec.Struct, frozen=True):
    """All that the metrics tell."""

    processes: Sequence[Process]
    queues: Sequence[InQueue]
    counted: Counted


class FigureQueries:
    """All questions about figures, on the database of a `tasks.queries.Queries` (which binds the tables)."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def read(self) -> Figures:
        """All that the metrics tell. It costs the same however much is on record, finished or waiting."""
        with session(self._database):
            now = self._now()
            queues = [now.in_queue(row.name, row.paused) for row in self._queue_rows()]
            return Figures(self._processes(), queues, self._counted())

    def processes(self, *, limit: int, offset: int) -> tuple[list[ProcessStats], int]:
        """A part of the living processes by kind, host and pid, and how many there are in all."""
        values = {"lease": LEASE_SECONDS, "limit": limit, "offset": offset}
        with session(self._database):
            rows = self._database.execute_sql(_WORKERS, values).fetchall()
            (total,) = self._database.execute_sql(_LIVING, {"lease": LEASE_SECONDS}).fetchone()
        return [_process_stats(row) for row in rows], total

    def queues(self, *, limit: int, offset: int) -> tuple[list[QueueStats], QueueTotals, int]:
        """A part of the queues by name, what is in all of them together, and how many there are in all."""
        with session(self._database):
            rows = self._queue_rows()
            now = self._now()
            part = rows[offset : offset + limit]
            names = [row.name for row in part]
            newest = min(NEWEST, NEWEST_OF_ALL // max(1, len(names)))
            lately = self._database.execute_sql(LATELY, {"names": names, "newest": newest}).fetchall()
        by_name = {name: figures for name, *figures in lately}
        found = [stats_of(row, *now.of(row.name), by_name.get(row.name, NOTHING)) for row in part]
        return found, _totals([stats_of(row, *now.of(row.name), NOTHING) for row in rows]), len(rows)

    def _queue_rows(self) -> list[Any]:
        return list(QueueRow.select().order_by(QueueRow.name))

    def _now(self) -> "_Now":
        return _Now(self._database.execute_sql(_NOW, {"most": COUNTED_UP_TO + 1}).fetchall())

    def _processes(self) -> list[Process]:
        rows = self._database.execute_sql(_PROCESSES, {"lease": LEASE_SECONDS}).fetchall()
        return [_process(row) for row in rows]

    def _counted(self) -> Counted:
        declared = self._database.execute_sql("SELECT name, queue_name FROM task_types").fetchall()
        words: dict[tuple[str, str], dict[str, int]] = {(name, queue): {} for name, queue in declared}
        slots: dict[str, dict[int, int]] = {}
        spent: dict[str, float] = {}
        for task_type, queue, word, slot, number, duration in self._database.execute_sql(_COUNTED).fetchall():
            if slot is not None:
                slots.setdefault(task_type, {})[slot] = number
                continue
            words.setdefault((task_type, queue), {})[word] = number
            spent[task_type] = spent.get(task_type, 0.0) + duration
        return Counted(words, slots, spent)


class _Now:
    """What is in the queues, from the rows of `_NOW`."""

    def __init__(self, rows: Sequence[tuple[str, str, str | None, bool, float | None]]) -> None:
        self.numbers: dict[str, Counter[str]] = {}
        self.waiting: dict[tuple[str, bool], dict[str, int]] = {}
        self.oldest: dict[str, float | None] = {}
        unfinished: Counter[tuple[str, bool]] = Counter()
        for what, queue, status, is_stage, number in rows:
            if what == "oldest":
                self.oldest[queue] = number
            elif status is not None:
                self.waiting.setdefault((queue, is_stage), {})[status] = int(number or 0)
            elif what == "unfinished":
                unfinished[queue, is_stage] += int(number or 0)
            else:
                self.numbers.setdefault(queue, Counter())[what] += int(number or 0)
                unfinished[queue, is_stage] -= int(number or 0) if what in ("running", "runs") else 0
        for key, counts in self.waiting.items():
            _work_out(counts, unfinished[key])

    def of(self, name: str) -> tuple[list[tuple[str, bool, int]], tuple[int, int, int, float | None]]:
        """A queue's tasks by state, and what runs, is dead, is an unfinished run, and waits the longest."""
        found = self.numbers.get(name, Counter())
        waiting = [
            (status, is_stage, number)
            for is_stage in (False, True)
            for status, number in self.waiting.get((name, is_stage), {}).items()
        ]
        return waiting, (found["running"], found["dead"], found["runs"], self.oldest.get(name))

    def in_queue(self, name: str, paused: bool) -> InQueue:
        """A queue, as the metrics tell of it."""
        waiting, (running, dead, _, oldest) = self.of(name)
        tasks = Counter({status: 0 for status in STATES if status not in FINAL})
        tasks[RUNNING] = running
        for status, _, number in waiting:
            tasks[status] += number
        sent = self.numbers.get(name, Counter())["sent"]
        return InQueue(name=name, paused=paused, tasks=tasks, sent=sent, dead=dead, oldest_age_s=oldest)


def _work_out(counts: dict[str, int], waiting: int) -> None:
    """Put the right number where counting was given up: ``waiting`` is the sum. Of several into the first."""
    given_up = [status for status in (QUEUED, *counts) if counts.get(status, 0) > COUNTED_UP_TO]
    if given_up:
        others = sum(number for status, number in counts.items() if status != given_up[0])
        counts[given_up[0]] = max(counts[given_up[0]], waiting - others)


def _process(row: Any) -> Process:
    kind, host, pid, queues, threads, started_at, age, vitals = row
    return Process(
        kind=kind,
        host=host,
        pid=pid,
        queues=queues,
        threads=threads,
        started_at=started_at,
        heartbeat_age_s=age,
        vitals=vitals_of(vitals),
    )


def _process_stats(row: Any) -> ProcessStats:
    *columns, vitals, running = row
    told = vitals_of(vitals)
    named = dict(zip(_COLUMNS, columns, strict=True))
    busy = min(told.busy, named["threads"])
    return ProcessStats(
        **named,
        busy=busy,
        idle=named["threads"] - busy,
        running=msgspec.convert(running, list[RunningTask]),
        memory_bytes=told.memory_bytes,
        cpu_seconds=told.cpu_seconds,
    )


def _totals(queues: Sequence[QueueStats]) -> QueueTotals:
    ages = [one.oldest_age_s for one in queues if one.oldest_age_s is not None]
    names = ("queued", "running", "scheduled", "retrying", "blocked", "dead", "size")
    sums = {name: sum(getattr(one, name) for one in queues) for name in names}
    return QueueTotals(**sums, oldest_age_s=max(ages, default=None))


# Where a process died and another one has its host and pid already, only the newer one is told of.
_PROCESSES = """
SELECT DISTINCT ON (kind, host, pid) kind, host, pid, queues, threads, started_at,
    greatest(extract(epoch FROM now() - heartbeat_at), 0)::float8, vitals
FROM workers WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)
ORDER BY kind, host, pid, started_at DESC"""

_COLUMNS = (
    "id",
    "kind",
    "host",
    "pid",
    "version",
    "queues",
    "types",
    "threads",
    "started_at",
    "heartbeat_age_s",
)
_WORKERS = """
SELECT w.id, w.kind, w.host, w.pid, w.version, w.queues, w.types, w.threads, w.started_at,
    greatest(extract(epoch FROM now() - w.heartbeat_at), 0)::float8, w.vitals, (
        SELECT coalesce(jsonb_agg(jsonb_build_object('task_id', s.id, 'task_type', t.task_type,
            'since', s.started_at) ORDER BY s.started_at, s.id), '[]')
        FROM task_state s CROSS JOIN LATERAL (SELECT task_type FROM tasks WHERE id = s.id OFFSET 0) AS t
        WHERE s.worker = w.id AND s.status = 'running' AND s.queue IS NOT NULL)
FROM workers w WHERE w.heartbeat_at > now() - make_interval(secs => %(lease)s)
ORDER BY w.kind, w.host, w.pid, w.id LIMIT %(limit)s OFFSET %(offset)s"""

_LIVING = "SELECT count(*) FROM workers WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)"

# One statement, so that all of it is of one moment. What waits is counted in the order of its index, so that
# no plan prefers to look at all tasks. The oldest is found at its ends: of stages and of whole tasks.
_NOW = f"""
SELECT 'waiting', q.name, state.status, kind.is_stage, w.count::float8
FROM queues q
CROSS JOIN (VALUES ('scheduled'), ('blocked'), ('queued'), ('retrying')) AS state(status)
CROSS JOIN (VALUES (false), (true)) AS kind(is_stage)
CROSS JOIN LATERAL (SELECT count(*) FROM (
    SELECT FROM task_state s WHERE s.queue = q.name AND s.status = state.status AND s.is_stage = kind.is_stage
    AND s.status IN ('scheduled', 'blocked', 'queued', 'retrying') ORDER BY s.ready_at LIMIT %(most)s
) AS counted) AS w WHERE w.count > 0
UNION ALL
SELECT 'unfinished', queue_name, NULL, is_stage,
    sum(CASE WHEN status = 'submitted' THEN kept ELSE -kept END)::float8
FROM (
    SELECT queue_name, is_stage, status, kept FROM statistics
    WHERE everyone AND user_id = '' AND level = 'all'
    UNION ALL
    SELECT queue_name, is_stage, status, kept FROM tallies
) AS known GROUP BY 2, 4
UNION ALL
SELECT 'running', queue, NULL, is_stage, count(*) FROM task_state
WHERE status = 'running' AND queue IS NOT NULL GROUP BY 2, 4
UNION ALL
SELECT 'runs', run_queue, NULL, is_stage, count(*) FROM task_state
WHERE run_queue IS NOT NULL AND status IN ('scheduled', 'blocked', 'queued', 'running') GROUP BY 2, 4
UNION ALL
SELECT 'sent', queue, NULL, false, count(*) FROM task_state
WHERE {is_queued("task_state")} AND dispatch IS NOT NULL GROUP BY 2
UNION ALL
SELECT 'dead', queue_name, NULL, false, count(*) FROM dead_letters WHERE resolution IS NULL GROUP BY 2
UNION ALL
SELECT 'oldest', q.name, NULL, false, extract(epoch FROM now() - least(
    (SELECT min(ready_at) FROM task_state WHERE queue = q.name AND status = 'queued' AND is_stage),
    (SELECT min(ready_at) FROM task_state WHERE queue = q.name AND status = 'queued' AND NOT is_stage)
))::float8 FROM queues q"""

# One statement, so that what is folded meanwhile is seen once.
_COUNTED = f"""
WITH known AS MATERIALIZED (
    SELECT task_type, queue_name, status, count, duration_ms, slots, numbers FROM statistics
    WHERE everyone AND user_id = '' AND level = 'all'
    UNION ALL
    SELECT task_type, queue_name, status, count, duration_ms, durations,
        array_fill(sign(count)::bigint, ARRAY[coalesce(cardinality(durations), 0)]) FROM tallies
)
SELECT task_type, queue_name, replace(status, '{EARLIER}', ''), NULL::smallint, sum(count)::bigint,
    sum(duration_ms)
FROM known GROUP BY 1, 2, 3
UNION ALL
SELECT task_type, '', '', slot, sum(number)::bigint, 0
FROM known, unnest(slots, numbers) AS h(slot, number) WHERE slot IS NOT NULL GROUP BY 1, slot"""
