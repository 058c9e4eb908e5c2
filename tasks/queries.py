"""Reading the record. Nothing here writes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from peewee import JOIN, SQL, fn
from playhouse.pool import PooledPostgresqlDatabase

from tasks import lists, statistics, step_outputs
from tasks.allowances import backlog_of, read_allowances
from tasks.database import session
from tasks.estimates import Estimates, completion
from tasks.feed import Feed
from tasks.models import MODELS, StateRow, TaskRow, TypeRow, WorkerRow
from tasks.plans import distinct, is_queued, is_unfinished
from tasks.records import Event, Page, Spent, Statistics, Task, TaskFilter, TaskPage, milliseconds
from tasks.states import RUNNING
from tasks.values import (
    Backlog,
    Claimed,
    Joining,
    NewTask,
    Reusable,
    RunState,
    StageState,
    TaskType,
    version_of,
)
from tasks.waiting import Served, waiting
from tasks.windows import Window


class Queries:
    """All questions about tasks, answered on one database."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database
        self._estimates = Estimates()
        self._feed = Feed(database)
        database.bind(MODELS)

    def task(self, task_id: UUID, *, owner: str | None = None) -> Task | None:
        """The task, or None if there is none or it is not ``owner``'s (None: anybody's)."""
        with session(self._database):
            query = self._rows().where(TaskRow.id == task_id)
            if owner is not None:
                query = query.where(TaskRow.user_id == owner)
            row = query.first()
            return None if row is None else self._shown([row])[0]

    def tasks_by_id(self, ids: Sequence[UUID]) -> list[Task]:
        """These tasks, in this order; those that do not exist are left out."""
        with session(self._database):
            rows = list(self._rows().where(TaskRow.id.in_(ids)))
            found = {task.task_id: task for task in self._shown(rows)}
        return [found[one] for one in ids if one in found]

    def tasks(self, wanted: TaskFilter, page: Page) -> TaskPage:
        """A page of tasks, newest first.

        Raises:
          InvalidField: the cursor is not one that an earlier page gave.
        """
        wanted = lists.simplified(wanted)
        demands = lists.conditions(wanted)
        with session(self._database):
            oldest = lists.oldest_searched(demands) if wanted.q else None
            if wanted.q:
                demands.append(lists.containing(wanted.q))
            if oldest is not None:
                demands.append(TaskRow.id >= oldest)
            rows = list(self._page(demands, page))
            is_all = len(rows) <= page.limit and not page.offset and not page.cursor
            counted = lists.Count(len(rows), True) if is_all else lists.count(self._database, wanted, demands)
            shown = self._shown(rows[: page.limit])
        cursor = lists.cursor_after(rows[: page.limit]) if len(rows) > page.limit else None
        return TaskPage(shown, counted.total, counted.is_exact and oldest is None, cursor)

    def _page(self, demands: list[Any], page: Page) -> Any:
        """The rows of a page, and one more if there are more."""
        query = self._rows().where(*demands).order_by(TaskRow.id.desc()).limit(page.limit + 1)
        if not page.cursor:
            return query.offset(page.offset)
        last = lists.last_id(page.cursor)
        # Said of both sides, because a join may begin with either of them.
        return query.where(TaskRow.id < last, StateRow.id < last)

    def statistics(self, window: Window) -> Statistics:
        """How many tasks there were in a window, how they ended, and how long they took."""
        with session(self._database):
            return statistics.read(self._database.execute_sql, window)

    def tally(self, wanted: TaskFilter) -> dict[tuple[str, bool], int]:
        """How many tasks match, by their state and whether they are stages."""
        is_stage = TaskRow.run_id.is_null(False)
        with session(self._database):
            # A column of the task comes first: `lists.containing` knows its table as t1.
            query = TaskRow.select(is_stage, StateRow.status, fn.COUNT(SQL("1")))
            query = query.join(StateRow, on=(TaskRow.id == StateRow.id)).where(*lists.all_conditions(wanted))
            rows: Any = query.group_by(StateRow.status, is_stage).tuples()
            return {(status, stage): count for stage, status, count in rows}

    def ids_after(self, wanted: TaskFilter, after: UUID | None, limit: int) -> list[UUID]:
        """The ids of the next tasks that match, oldest first; ``after`` is the last one of those before."""
        conditions = lists.all_conditions(wanted)
        if after is not None:
            conditions.append(TaskRow.id > after)
        with session(self._database):
            query = TaskRow.select(TaskRow.id).join(StateRow, on=(TaskRow.id == StateRow.id))
            rows: Any = query.where(*conditions).order_by(TaskRow.id).limit(limit).tuples()
            return [row[0] for row in rows]

    def history(self, task_id: UUID) -> list[Event]:
        """Every event of a task, oldest first; empty if there is no such task."""
        return self._feed.history(task_id)

    def run(self, run_id: UUID) -> RunState | None:
        """A run and its stages, without their outputs."""
        with session(self._database):
            run = self._rows().where(TaskRow.id == run_id).first()
            if run is None:
                return None
            stages = (
                TaskRow.select(
                    TaskRow.id, TaskRow.stage, TaskRow.stage_index, StateRow.status, StateRow.error
                )
                .join(StateRow, on=(TaskRow.id == StateRow.id))
                .where(TaskRow.run_id == run_id)
                .order_by(TaskRow.stage, TaskRow.stage_index)
            )
            found: Any = stages.tuples()
            states = [StageState(*row) for row in found]
            state = run.state
            return RunState(run_id, run.task_type, state.status, state.round, _as_asked(run), states)

    def is_run(self, task_id: UUID) -> bool:
        """Whether a task is a run: a pipeline as a whole."""
        with session(self._database):
            run = StateRow.select().where(StateRow.id == task_id, StateRow.queue.is_null())
            return bool(run.exists())

    def is_at_work(self, run_id: UUID) -> bool:
        """Whether a run goes on by itself: a stage is unfinished, and none has ended badly."""
        found = self.joining(run_id)
        return found.unfinished > 0 and not found.some_fell

    def version(self, run_id: UUID) -> str | None:
        """The version of its pipeline that a run goes by, if it is on record."""
        with session(self._database):
            row = TaskRow.select(TaskRow.overrides).where(TaskRow.id == run_id).first()
            return None if row is None else version_of(row.overrides)

    def joining(self, run_id: UUID, stages: Sequence[str] | None = None) -> Joining:
        """How far some stages of a run are, or all of them; ``some_fell`` looks at all in any case."""
        names = None if stages is None else list(stages)
        with session(self._database):
            return Joining(*self._database.execute_sql(_JOINING, {"run": run_id, "stages": names}).fetchone())

    def spent(self) -> dict[str, Spent]:
        """What the completed tasks of each type took, stages too."""
        with session(self._database):
            return statistics.spent(self._database.execute_sql)

    def outputs(self, run_id: UUID, stage: str) -> dict[int, Any]:
        """The results of a stage of a run by the index of its tasks, in their order."""
        with session(self._database):
            rows = (
                self._rows()
                .where(TaskRow.run_id == run_id, TaskRow.stage == stage)
                .order_by(TaskRow.stage_index)
            )
            return {row.stage_index: row.state.result for row in rows}

    def kept_output(self, claim: Claimed, key: bytes) -> Reusable | None:
        """The output that is kept under a key, if it may answer for a claimed task."""
        with session(self._database):
            return step_outputs.find(self._database.execute_sql, claim, key)

    def payloads(self, run_id: UUID, stage: str) -> list[Any]:
        """What the tasks of a stage of a run got, by their index."""
        with session(self._database):
            rows = TaskRow.select(TaskRow.payload).where(TaskRow.run_id == run_id, TaskRow.stage == stage)
            return [row.payload for row in rows.order_by(TaskRow.stage_index)]

    def found_in_open_runs(self, task_type: str, pattern: str) -> list[str]:
        """What a regular expression finds first in each payload of runs of a type that may still go on.

        Those that failed may be recovered, so they count.
        """
        with session(self._database):
            rows = self._database.execute_sql(_FOUND, {"type": task_type, "pattern": pattern}).fetchall()
            return [row[0] for row in rows]

    def unsettled_runs(self, limit: int = 200) -> list[UUID]:
        """Runs that nothing will move by itself: no stage of theirs is unfinished, or one has ended badly."""
        with session(self._database):
            rows = self._database.execute_sql(_UNSETTLED, (limit, limit)).fetchall()
            return [row[0] for row in rows]

    def queue_names(self) -> list[str]:
        """The queues that exist, by name."""
        with session(self._database):
            rows = self._database.execute_sql("SELECT name FROM queues ORDER BY name").fetchall()
            return [row[0] for row in rows]

    def task_types(self) -> dict[str, TaskType]:
        """Every type that some process has declared, by its name."""
        with session(self._database):
            return {row.name: _declared(row) for row in TypeRow.select()}

    def backlog(self, queues: Sequence[str] | None = None) -> dict[str, Backlog]:
        """What is ready and unclaimed in these queues, or in all that have any: up to a thousand each."""
        with session(self._database):
            if queues is None:
                rows = self._database.execute_sql(_WHOLE_BACKLOG).fetchall()
            else:
                rows = self._database.execute_sql(_BACKLOG, (list(queues),)).fetchall()
            steered = [name for name, waiting, _, is_steered in rows if waiting and is_steered]
            found = read_allowances(self._database.execute_sql, steered) if steered else {}
        return {name: backlog_of(waiting, sent, found.get(name)) for name, waiting, sent, _ in rows}

    def owed_queues(self) -> list[str]:
        """The queues of dead letters that have no copy on RabbitMQ yet."""
        with session(self._database):
            return [row[0] for row in self._database.execute_sql(_OWED).fetchall()]

    def orphaned_dispatches(self, seconds: float) -> list[int]:
        """Batches whose owner is gone, or that have been open for longer than any publish takes."""
        with session(self._database):
            rows = self._database.execute_sql(_ORPHANED, (seconds,)).fetchall()
            return [row[0] for row in rows]

    def is_alive(self, worker: UUID) -> bool:
        """Whether a process is on record as living."""
        with session(self._database):
            return bool(WorkerRow.select().where(WorkerRow.id == worker).exists())

    def kept_claims(self, claims: Sequence[Claimed]) -> set[UUID]:
        """Which of these claims still hold: their tasks were not cancelled, nor taken by others."""
        pairs = [one.id for one in claims], [one.token for one in claims]
        with session(self._database):
            return {row[0] for row in self._database.execute_sql(_KEPT, pairs).fetchall()}

    def ping(self) -> None:
        """Ask Postgres for a sign of life."""
        with session(self._database):
            self._database.execute_sql("SELECT 1")

    def _rows(self) -> Any:
        return TaskRow.select(TaskRow, StateRow).join(
            StateRow, JOIN.INNER, on=(TaskRow.id == StateRow.id), attr="state"
        )

    def _shown(self, rows: list[Any]) -> list[Task]:
        """Rows as readers get them."""
        running = [row for row in rows if row.state.status == RUNNING]
        medians = self._estimates.medians(running, self._database.execute_sql)
        served = Served.read(map(waiting, rows))
        return [_task(row, served, completion(row.state, medians.get(row.task_type))) for row in rows]


def _declared(row: Any) -> TaskType:
    return TaskType(row.name, row.queue_name, row.is_pipeline, row.concurrency, row.concurrency_key)


def _as_asked(row: Any) -> NewTask:
    return NewTask(
        id=row.id,
        task_type=row.task_type,
        queue_name=row.queue_name,
        payload=row.payload,
        priority=row.priority,
        max_retries=row.max_retries,
        backoff=row.backoff,
        timeout=row.timeout,
        overrides=row.overrides,
        run_at=row.run_at,
        user_id=row.user_id,
        project_id=row.project_id,
        kb_id=row.kb_id,
        created_by=row.created_by,
        tags=tuple(row.tags),
        run_id=row.run_id,
        is_run=row.state.queue is None,
    )


def _task(row: Any, served: Served | None, estimate: datetime | None) -> Task:
    state = row.state
    ended = state.finished_at
    started = state.started_at
    duration = milliseconds(started, ended)
    return Task(
        task_id=row.id,
        task_type=row.task_type,
        status=state.status,
        progress=round(state.progress, 2),
        phase=state.phase,
        message=state.message,
        details=state.details,
        queue_name=row.queue_name,
        priority=row.priority,
        payload=row.payload,
        result=state.result,
        error=state.error,
        attempts=state.attempt,
        max_retries=row.max_retries,
        timeout=row.timeout,
        user_id=row.user_id or None,
        project_id=row.project_id,
        kb_id=row.kb_id,
        created_by=row.created_by,
        tags=list(row.tags),
        parent_id=row.parent_id,
        run_id=row.run_id,
        stage=row.stage,
        depends_on=list(row.depends_on),
        run_at=row.run_at,
        created_at=row.created_at,
        updated_at=state.updated_at,
        started_at=started,
        completed_at=ended,
        duration_ms=duration,
        estimated_completion=estimate,
        wait_reason=waiting(row).reason(served),
    )


_UNSETTLED = f"""
(SELECT r.id FROM task_state r
 WHERE r.queue IS NULL AND r.status IN ('scheduled', 'blocked', 'queued', 'running')
   AND (r.status <> 'blocked' AND NOT EXISTS (
            SELECT FROM tasks t JOIN task_state s USING (id) WHERE t.run_id = r.id
            AND s.status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying'))
        OR EXISTS (
            SELECT FROM tasks t JOIN task_state s USING (id) WHERE t.run_id = r.id
            AND s.status IN ('failed', 'cancelled')))
   AND r.updated_at < now() - interval '1 second' LIMIT %s)
UNION
(SELECT r.id FROM task_state s JOIN tasks t USING (id) JOIN task_state r ON r.id = t.run_id
 WHERE s.is_stage AND {is_unfinished()}
   AND r.status IN ('completed', 'failed', 'cancelled') LIMIT %s)"""

_JOINING = """
SELECT count(*) FILTER (WHERE asked), count(*) FILTER (WHERE asked AND NOT over),
    coalesce(bool_or(over AND status <> 'completed'), false),
    (SELECT details FROM task_state WHERE id = %(run)s)
FROM (SELECT s.status, s.status IN ('completed', 'failed', 'cancelled') AS over,
        %(stages)s::text[] IS NULL OR t.stage = ANY(%(stages)s) AS asked
    FROM tasks t JOIN task_state s USING (id) WHERE t.run_id = %(run)s) stage"""

_FOUND = """
SELECT DISTINCT substring(t.payload::text FROM %(pattern)s)
FROM tasks r JOIN task_state s ON s.id = r.id JOIN tasks t ON t.id = r.id OR t.run_id = r.id
WHERE r.task_type = %(type)s AND r.run_id IS NULL AND s.status NOT IN ('completed', 'cancelled')
AND substring(t.payload::text FROM %(pattern)s) IS NOT NULL"""

_SENT = f"{is_queued()} AND s.dispatch IS NOT NULL"

_ANY_BACKLOG = f"""
SELECT q.name, (SELECT count(*) FROM (
    SELECT FROM task_state s WHERE s.queue = q.name AND {is_queued()} AND s.dispatch IS NULL
    AND NOT s.parked LIMIT 1000) AS waiting),
    (SELECT count(*) FROM task_state s WHERE s.queue = q.name AND {_SENT}), q.steered
FROM queues q WHERE q.name"""

_BACKLOG = f"{_ANY_BACKLOG} = ANY(%s)"

_WHOLE_BACKLOG = f"""{_ANY_BACKLOG} IN (
    {distinct("s.queue", "task_state s", f"{is_queued()} AND s.dispatch IS NULL AND NOT s.parked")}
    UNION {distinct("s.queue", "task_state s", _SENT)})"""

_OWED = f"""
SELECT name FROM queues WHERE name IN {
    distinct(
        "d.queue_name",
        "dead_letters d",
        "d.copied_at IS NULL AND d.dispatch IS NULL AND d.resolution IS NULL",
    )
}"""

_KEPT = """
SELECT s.id FROM unnest(%s::uuid[], %s::bigint[]) AS held(id, token)
JOIN task_state s ON s.id = held.id AND s.token = held.token AND s.status = 'running'"""

_ORPHANED = """
SELECT d.id FROM dispatches d WHERE d.opened_at < now() - make_interval(secs => %s)
OR NOT EXISTS (SELECT FROM workers w WHERE w.id = d.owner)"""
