"""Reading what belongs to one task: its attempts, its log, its checkpoints, and what it is related to."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.models import AttemptRow, EventRow, StateRow
from tasks.queries import Queries
from tasks.records import (
    Attempt,
    Graph,
    GraphEdge,
    GraphNode,
    LogLine,
    Snapshot,
    SnapshotSummary,
    Task,
)
from tasks.states import COMPLETED, RUNNING

#: How many tasks a graph shows.
MOST_NODES = 1_000


class Details:
    """All questions about what belongs to a task; whose task it is has been looked at before."""

    def __init__(self, database: PooledPostgresqlDatabase, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    def attempts(self, task_id: UUID) -> list[Attempt]:
        """Every attempt of a task, oldest first, also the one that runs; a run has none, its stages have."""
        with session(self._database):
            state = StateRow.get_or_none(StateRow.id == task_id)
            if state is None or state.queue is None:
                return []
            rows = AttemptRow.select().where(
                AttemptRow.task_id == task_id, AttemptRow.ended_event <= state.events
            )
            ended = list(rows.order_by(AttemptRow.ended_event))
        last = _last(state)
        known = {row.started_event for row in ended}
        return [_ended(row) for row in ended] + ([last] if last and state.running_event not in known else [])

    def logs(self, task_id: UUID, *, limit: int, offset: int) -> tuple[list[LogLine], int]:
        """A part of what a task has logged, oldest first, and how many lines are kept of it."""
        with session(self._database):
            lines = EventRow.select().where(EventRow.task_id == task_id, EventRow.kind == "log")
            rows = list(lines.order_by(EventRow.event_id).limit(limit).offset(offset))
            return [_line(row) for row in rows], lines.count()

    def snapshots(self, task_id: UUID) -> list[SnapshotSummary]:
        """The checkpoints of a task that are kept, oldest first."""
        with session(self._database):
            rows = self._database.execute_sql(_SNAPSHOTS, (task_id,)).fetchall()
            return [SnapshotSummary(*row) for row in rows]

    def snapshot(self, task_id: UUID, version: int | None) -> Snapshot | None:
        """A checkpoint of a task, the latest without a ``version``; None if there is no such one."""
        with session(self._database):
            row = self._database.execute_sql(_SNAPSHOT, (task_id, version, version)).fetchone()
            return None if row is None else Snapshot(row[0], row[1], msgspec.Raw(row[2].encode()), row[3])

    def graph(self, task_id: UUID, *, owner: str | None) -> Graph:
        """A task among its relations, as far as ``owner`` may see them: at most 1,000, the nearest first."""
        with session(self._database):
            found = self._database.execute_sql(_RELATED, (task_id, MOST_NODES + 1)).fetchall()
        ids = [row[0] for row in found][:MOST_NODES]
        places = {row[0]: row[1] for row in found}
        tasks = [
            task for task in self._queries.tasks_by_id(ids) if owner is None or (task.user_id or "") == owner
        ]
        shown = {task.task_id for task in tasks}
        edges = [
            edge for task in tasks for edge in _edges(task) if edge.source in shown and edge.target in shown
        ]
        return Graph([_node(task, places[task.task_id]) for task in tasks], edges, len(found) > MOST_NODES)


def _ended(row: Any) -> Attempt:
    return Attempt(
        attempt=row.attempt,
        outcome=row.outcome,
        error=row.error,
        traceback=row.traceback,
        worker=row.worker,
        started_at=row.started_at,
        ended_at=row.ended_at,
        duration_ms=_milliseconds(row.started_at, row.ended_at),
    )


def _last(state: Any) -> Attempt | None:
    """The attempt that runs or has completed: it has no row of its own."""
    if state.running_event is None or state.status not in (RUNNING, COMPLETED):
        return None
    return Attempt(
        attempt=state.attempt,
        outcome=state.status,
        error=None,
        traceback=None,
        worker=state.worker,
        started_at=state.started_at,
        ended_at=state.finished_at,
        duration_ms=_milliseconds(state.started_at, state.finished_at),
    )


def _milliseconds(began: Any, ended: Any) -> float | None:
    return (ended - began).total_seconds() * 1_000 if began and ended else None


def _line(row: Any) -> LogLine:
    data = row.data or {}
    return LogLine(row.event_id, data.get("level"), data.get("logger"), row.message or "", row.at)


def _node(task: Task, index: int | None) -> GraphNode:
    return GraphNode(
        task_id=task.task_id,
        task_type=task.task_type,
        stage=task.stage,
        index=index,
        status=task.status,
        progress=task.progress,
        duration_ms=task.duration_ms,
        wait_reason=task.wait_reason,
    )


def _edges(task: Task) -> Iterator[GraphEdge]:
    if task.run_id is not None:
        yield GraphEdge(task.run_id, task.task_id, "stage")
    if task.parent_id is not None:
        yield GraphEdge(task.parent_id, task.task_id, "parent")
    if task.run_id is None:  # the first stage waits for the same as its run
        for need in task.depends_on:
            yield GraphEdge(need, task.task_id, "dependency")


_SNAPSHOTS = """
SELECT version, created_at, octet_length(state::text) FROM snapshots WHERE task_id = %s ORDER BY version"""

# The version that a task begins with may be one that nothing was saved under: it was to begin afresh.
_SNAPSHOT = """
SELECT task_id, version, state::text, created_at FROM snapshots
WHERE task_id = %s AND (version = %s OR %s::integer IS NULL) ORDER BY version DESC LIMIT 1"""

_RELATED = """
WITH self AS (SELECT * FROM tasks WHERE id = %s), related AS (
    SELECT id, 0 AS distance FROM self
    UNION SELECT run_id, 1 FROM self WHERE run_id IS NOT NULL
    UNION SELECT parent_id, 1 FROM self WHERE parent_id IS NOT NULL
    UNION SELECT unnest(depends_on), 2 FROM self
    UNION SELECT t.id, 3 FROM tasks t JOIN self ON t.run_id = coalesce(self.run_id, self.id)
    UNION SELECT d.task_id, 4 FROM dependencies d JOIN self ON d.needs = self.id
        JOIN tasks t ON t.id = d.task_id AND t.run_id IS NULL
    UNION SELECT t.id, 5 FROM tasks t JOIN self ON t.parent_id = self.id
)
SELECT id, t.stage_index FROM (SELECT id, min(distance) AS distance FROM related GROUP BY id) AS near
JOIN tasks t USING (id) ORDER BY distance, id LIMIT %s"""
