"""Reading what a task did in detail: its attempts, its log, its snapshots, and the tasks around it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.records import (
    Attempt,
    Edge,
    Graph,
    LogLine,
    Node,
    Snapshot,
    SnapshotState,
    StageSummary,
    milliseconds,
)
from tasks.waiting import Served, Waiting

#: A graph has no more nodes than these.
MOST_NODES = 1_000


class Details:
    """Questions about one task. Whether the asker may see the task is asked elsewhere (`tasks.queries`)."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def attempts(self, task_id: UUID, *, limit: int, offset: int) -> tuple[list[Attempt], int]:
        """A part of a task's attempts, oldest first, and how many there are."""
        with session(self._database):
            rows = self._rows(_ATTEMPTS, (task_id, task_id, limit, offset))
            total = self._rows(_COUNT_ATTEMPTS, (task_id, task_id))[0][0]
        return [_attempt(row) for row in rows], total

    def logs(self, task_id: UUID, *, limit: int, offset: int) -> tuple[list[LogLine], int]:
        """A part of what a task logged, oldest first, and how many lines there are."""
        with session(self._database):
            rows = self._rows(_LOGS, (task_id, limit, offset))
            total = self._rows(_COUNT_LOGS, (task_id,))[0][0]
        return [_line(row) for row in rows], total

    def snapshots(self, task_id: UUID) -> list[Snapshot]:
        """The snapshots that are kept of a task (a few), oldest first."""
        with session(self._database):
            rows = self._rows(_SNAPSHOTS, (task_id,))
        return [Snapshot(version=row[0], created_at=row[1], size_bytes=row[2]) for row in rows]

    def snapshot(self, task_id: UUID, version: int | None) -> SnapshotState | None:
        """A snapshot of a task, the latest without ``version``; None if it is not kept."""
        with session(self._database):
            rows = self._rows(_SNAPSHOT, (task_id, version, version))
        if not rows:
            return None
        return SnapshotState(task_id=task_id, version=rows[0][0], state=rows[0][1], created_at=rows[0][2])

    def graph(self, task_id: UUID, *, owner: str | None = None) -> Graph:
        """The tasks around a task, as far as ``owner`` may see them (None: all).

        They are its run with all stages, what it depends on and what depends on it (however far), its parent
        and its derivatives.
        """
        params = {"id": task_id, "owner": owner, "limit": MOST_NODES + 1}
        with session(self._database):
            rows = self._rows(_AROUND, params)
            shown = rows[:MOST_NODES]
            waits = [_waiting(row) for row in shown]
            served = Served.read(waits)
        nodes = [_node(row, wait.reason(served)) for row, wait in zip(shown, waits, strict=True)]
        return Graph(nodes, _edges(shown), len(rows) > MOST_NODES)

    def stages(self, run_id: UUID) -> list[StageSummary]:
        """The stages of a run that have begun, in the order in which they did."""
        with session(self._database):
            rows = self._rows(_STAGES, (run_id,))
            waits = [_waiting_stage(row) for row in rows]
            served = Served.read(waits)
        return [_summary(row, wait.reason(served)) for row, wait in zip(rows, waits, strict=True)]

    def _rows(self, sql: str, params: Any) -> list[Any]:
        return list(self._database.execute_sql(sql, params).fetchall())


# What is under way, or has completed, is derived from the state: only other ends leave a row.
_ALL_ATTEMPTS = """
    SELECT attempt, outcome, status, error, traceback, worker, started_at, ended_at, ended_event
    FROM attempts WHERE task_id = %s
    UNION ALL
    SELECT attempt, status, status, NULL, NULL, worker, started_at, finished_at, 2147483647
    FROM task_state WHERE id = %s AND queue IS NOT NULL AND running_event IS NOT NULL
        AND status IN ('running', 'completed')"""

_ATTEMPTS = f"SELECT * FROM ({_ALL_ATTEMPTS}) AS a ORDER BY ended_event LIMIT %s OFFSET %s"
_COUNT_ATTEMPTS = f"SELECT count(*) FROM ({_ALL_ATTEMPTS}) AS a"

_LOGS = """
SELECT e.event_id, e.data, e.message, e.at, coalesce(
    (SELECT a.attempt FROM attempts a WHERE a.task_id = e.task_id AND a.started_event < e.event_id
        AND a.ended_event > e.event_id LIMIT 1),
    CASE WHEN s.running_event < e.event_id THEN s.attempt END)
FROM events e JOIN task_state s ON s.id = e.task_id
WHERE e.task_id = %s AND e.kind = 'log' ORDER BY e.event_id LIMIT %s OFFSET %s"""
_COUNT_LOGS = "SELECT count(*) FROM events WHERE task_id = %s AND kind = 'log'"

_SNAPSHOTS = """
SELECT version, created_at, octet_length(state::text) FROM snapshots WHERE task_id = %s ORDER BY version"""
_SNAPSHOT = """
SELECT version, state, created_at FROM snapshots
WHERE task_id = %s AND (%s::integer IS NULL OR version = %s) ORDER BY version DESC LIMIT 1"""

_AROUND = """
WITH RECURSIVE up(id) AS (
    SELECT %(id)s::uuid UNION SELECT unnest(t.depends_on) FROM up JOIN tasks t ON t.id = up.id
), down(id) AS (
    SELECT %(id)s::uuid UNION
    SELECT t.id FROM down JOIN tasks t ON t.depends_on @> ARRAY[down.id] AND t.depends_on <> '{}'
), origin AS (SELECT * FROM tasks WHERE id = %(id)s
), around(id, place) AS (
    SELECT %(id)s::uuid, 0
    UNION ALL SELECT run_id, 1 FROM origin WHERE run_id IS NOT NULL
    UNION ALL SELECT parent_id, 2 FROM origin WHERE parent_id IS NOT NULL
    UNION ALL (SELECT id, 3 FROM up LIMIT %(limit)s)
    UNION ALL (SELECT id, 4 FROM down LIMIT %(limit)s)
    UNION ALL (SELECT id, 5 FROM tasks WHERE run_id = (SELECT coalesce(run_id, id) FROM origin)
        ORDER BY stage, stage_index LIMIT %(limit)s)
    UNION ALL (SELECT id, 6 FROM tasks WHERE parent_id = %(id)s ORDER BY id LIMIT %(limit)s)
), nearest AS (SELECT id, min(place) AS place FROM around GROUP BY 1)
SELECT t.id, t.task_type, t.stage, t.stage_index, s.status, s.progress,
    round(extract(epoch FROM s.finished_at - s.started_at) * 1000, 3)::float8, s.queue, t.queue_name,
    t.run_id, t.parent_id, t.depends_on, t.run_at, t.overrides->>'version', s.parked
FROM nearest JOIN tasks t USING (id) JOIN task_state s USING (id)
WHERE %(owner)s::text IS NULL OR t.user_id = %(owner)s
ORDER BY nearest.place, t.stage, t.stage_index, t.id LIMIT %(limit)s"""


# A stage waits for what those of its tasks wait for that are the nearest to run.
_STAGES = """
SELECT stage, min(task_type), min(queue_name), jsonb_object_agg(status, count), min(started_at),
    max(finished_at), sum(spent), (array_agg(status ORDER BY place) FILTER (WHERE place < 9))[1],
    min(run_at) FILTER (WHERE place < 9), min(version), bool_and(parked) FILTER (WHERE place < 9),
    (array_agg(error) FILTER (WHERE status = 'failed'))[1]
FROM (
    SELECT t.stage, t.task_type, t.queue_name, s.status, min(t.run_at) AS run_at,
        min(t.overrides->>'version') AS version, bool_and(s.parked) AS parked, count(*) AS count,
        min(s.started_at) AS started_at, max(s.finished_at) AS finished_at,
        coalesce(sum(extract(epoch FROM s.finished_at - s.started_at)::float8 * 1000)
            FILTER (WHERE s.status = 'completed'), 0) AS spent,
        (array_agg(s.error ORDER BY t.stage_index))[1] AS error, min(t.id::text) AS first,
        coalesce(array_position('{queued,retrying,scheduled,blocked}'::text[], s.status), 9) AS place
    FROM tasks t JOIN task_state s USING (id) WHERE t.run_id = %s GROUP BY 1, 2, 3, 4
) AS by_state GROUP BY 1 ORDER BY min(first)"""


def _attempt(row: Sequence[Any]) -> Attempt:
    number, outcome, status, error, traceback, worker, started_at, ended_at, _ = row
    return Attempt(
        attempt=number,
        outcome=outcome,
        status=status,
        error=error,
        traceback=traceback,
        worker=worker,
        started_at=started_at,
        ended_at=ended_at,
        duration_ms=milliseconds(started_at, ended_at),
    )


def _line(row: Sequence[Any]) -> LogLine:
    event_id, data, message, at, attempt = row
    known = data if isinstance(data, dict) else {}
    return LogLine(
        event_id=event_id,
        level=str(known.get("level", "info")),
        logger=known.get("logger"),
        message=message,
        timestamp=at,
        attempt=attempt,
    )


def _waiting(row: Sequence[Any]) -> Waiting:
    return Waiting(
        status=row[4],
        task_type=row[1],
        queue_name=row[8],
        stage=row[2],
        is_run=row[7] is None,
        run_at=row[12],
        version=row[13],
        is_parked=row[14],
    )


def _node(row: Sequence[Any], wait: str | None) -> Node:
    task_id, task_type, stage, index, status, progress, duration, *_ = row
    return Node(
        task_id=task_id,
        task_type=task_type,
        stage=stage,
        index=index,
        status=status,
        progress=round(progress, 2),
        duration_ms=duration,
        wait_reason=wait,
    )


def _waiting_stage(row: Sequence[Any]) -> Waiting:
    return Waiting(
        status=row[7] or "",
        task_type=row[1],
        queue_name=row[2],
        stage=row[0],
        is_run=False,
        run_at=row[8],
        version=row[9],
        is_parked=bool(row[10]),
    )


def _summary(row: Sequence[Any], wait: str | None) -> StageSummary:
    return StageSummary(
        stage=row[0],
        task_type=row[1],
        queue_name=row[2],
        counts=row[3],
        started_at=row[4],
        ended_at=row[5],
        spent_ms=round(row[6], 3),
        wait_reason=wait,
        error=row[11],
    )


def _edges(rows: Sequence[Sequence[Any]]) -> list[Edge]:
    shown = {row[0] for row in rows}
    edges = []
    for row in rows:
        run_id, parent_id, depends_on = row[9:12]
        found = [(run_id, "stage"), (parent_id, "parent"), *((need, "dependency") for need in depends_on)]
        edges += [Edge(source, row[0], kind) for source, kind in found if source in shown]
    return edges
