"""Reading the record in the words of Dramatiq's dashboard: jobs that are ready, delayed or failed."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session

READY, DELAYED, DEAD = "ready", "delayed", "dead"
#: Of a payload a list shows so many characters.
SHOWN = 200


class JobCounts(msgspec.Struct, frozen=True):
    """How many jobs there are in a queue; ``leaving`` ones are resolved, but still have a copy in ``.XQ``."""

    queue: str
    ready: int
    delayed: int
    dead: int
    leaving: int


class JobRow(msgspec.Struct, frozen=True):
    """A job: ``id`` is that of its task, or of its dead letter; ``due`` is when it runs, or failed."""

    id: UUID
    task_id: UUID | None
    task_type: str
    payload: Any
    due: datetime
    created_at: datetime
    failures: int
    options: dict[str, Any]


class AtWork(msgspec.Struct, frozen=True):
    """A worker process and how many tasks it runs."""

    name: str
    seen_at: datetime
    running: int


class JobQueries:
    """All questions of the dashboard."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def counts(self, queue: str | None = None) -> list[JobCounts]:
        """The counts of all queues by name, or those of one (empty if there is none of this name)."""
        return [JobCounts(*row) for row in self._rows(_COUNTS, {"queue": queue})]

    def jobs(self, queue: str, kind: str, *, on_rabbitmq: bool, limit: int, offset: int = 0) -> list[JobRow]:
        """A part of the jobs of a queue, each payload as the beginning of its text.

        With ``on_rabbitmq`` only what has its message there, of those that are ready or dead.
        """
        params = {
            "queue": queue,
            "on_rabbitmq": on_rabbitmq,
            "limit": limit,
            "offset": offset,
            "shown": SHOWN,
        }
        return [JobRow(*row) for row in self._rows(_LISTS[kind], params)]

    def job(self, queue: str, kind: str, job_id: UUID) -> JobRow | None:
        """One of these jobs, with its whole payload; None if it is not among them any more."""
        rows = self._rows(_ONE[kind], {"queue": queue, "id": job_id})
        return JobRow(*rows[0]) if rows else None

    def workers(self) -> list[AtWork]:
        """The worker processes that live, by name."""
        return [AtWork(*row) for row in self._rows(_WORKERS, {})]

    def _rows(self, sql: str, params: dict[str, Any]) -> list[Any]:
        with session(self._database):
            return list(self._database.execute_sql(sql, params).fetchall())


_LEAVING = """copied_at IS NOT NULL AND copy_removed_at IS NULL
    AND (resolution IS NOT NULL OR task_id IS NULL)"""

_COUNTS = f"""
SELECT q.name,
    (SELECT count(*) FROM task_state WHERE queue = q.name AND status = 'queued'),
    (SELECT count(*) FROM task_state WHERE queue = q.name AND status IN ('scheduled', 'retrying'))
        + (SELECT count(*) FROM task_state WHERE run_queue = q.name AND status = 'scheduled'),
    (SELECT count(*) FROM dead_letters WHERE queue_name = q.name AND resolution IS NULL),
    (SELECT count(*) FROM dead_letters WHERE queue_name = q.name AND {_LEAVING})
FROM (SELECT name FROM queues UNION SELECT queue_name FROM task_types) AS q(name)
WHERE %(queue)s::text IS NULL OR q.name = %(queue)s ORDER BY q.name"""

_TASK = """
SELECT s.id, s.id, t.task_type, {payload}, s.ready_at, t.created_at, s.failures,
    jsonb_build_object('status', s.status, 'priority', t.priority, 'attempt', s.attempt)
FROM task_state s JOIN tasks t USING (id)"""
_LETTER = """
SELECT d.id, d.task_id, d.task_type, {payload}, d.failed_at, coalesce(t.created_at, d.failed_at),
    greatest(d.attempt - 1, 0),
    jsonb_build_object('attempt', d.attempt, 'error', d.code || ': ' || d.message, 'traceback', d.traceback)
FROM dead_letters d LEFT JOIN tasks t ON t.id = d.task_id"""
_SHORT, _WHOLE = "to_jsonb(left(t.payload::text, %(shown)s))", "t.payload"

_IS_READY = "s.queue = %(queue)s AND s.status = 'queued'"
_IS_DELAYED = "coalesce(s.queue, s.run_queue) = %(queue)s AND s.status IN ('scheduled', 'retrying')"
_IS_DEAD = "d.queue_name = %(queue)s AND d.resolution IS NULL"
_HAS_MESSAGE = "(NOT %(on_rabbitmq)s OR s.dispatch IS NOT NULL)"
_HAS_COPY = """(NOT %(on_rabbitmq)s
    OR d.task_id IS NOT NULL AND d.copied_at IS NOT NULL AND d.copy_removed_at IS NULL)"""
_PART = "LIMIT %(limit)s OFFSET %(offset)s"

_LISTS = {
    READY: f"{_TASK.format(payload=_SHORT)} WHERE {_IS_READY} AND {_HAS_MESSAGE} ORDER BY s.rank {_PART}",
    DELAYED: f"{_TASK.format(payload=_SHORT)} WHERE {_IS_DELAYED} ORDER BY s.ready_at, s.id {_PART}",
    DEAD: f"{_LETTER.format(payload=_SHORT)} WHERE {_IS_DEAD} AND {_HAS_COPY}"
    f" ORDER BY d.failed_at DESC, d.id DESC {_PART}",
}
_ONE = {
    READY: f"{_TASK.format(payload=_WHOLE)} WHERE {_IS_READY} AND s.id = %(id)s",
    DELAYED: f"{_TASK.format(payload=_WHOLE)} WHERE {_IS_DELAYED} AND s.id = %(id)s",
    DEAD: f"{_LETTER.format(payload=_WHOLE)} WHERE {_IS_DEAD} AND d.id = %(id)s",
}

_WORKERS = """
SELECT w.host || ':' || w.pid, w.heartbeat_at,
    (SELECT count(*) FROM task_state s WHERE s.worker = w.id AND s.status = 'running')
FROM workers w WHERE w.kind = 'worker' ORDER BY 1"""
