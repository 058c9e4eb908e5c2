"""Reading the record in memory. The same answers as those of `tasks.queries`."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from tasks import history
from tasks.errors import InvalidField
from tasks.ids import parse_id
from tasks.memory import statistics
from tasks.memory.store import Row, Store, as_json
from tasks.records import Event, Page, Statistics, Task, TaskFilter, TaskPage, milliseconds
from tasks.states import CANCELLED, COMPLETED, FAILED, QUEUED, WAITS
from tasks.values import Claimed, Joining, NewTask, Reusable, RunState, StageState, TaskType
from tasks.windows import Window


class MemoryQueries:
    """The questions about tasks in memory. See `tasks.queries.Queries`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def task(self, task_id: UUID, *, owner: str | None = None) -> Task | None:
        """The task, or None if there is none or it is not ``owner``'s (None: anybody's)."""
        with self._store.lock:
            row = self._store.rows.get(task_id)
            if row is None or (owner is not None and row.new.user_id != owner):
                return None
            return self._shown(row)

    def tasks_by_id(self, ids: Sequence[UUID]) -> list[Task]:
        """These tasks, in this order; those that do not exist are left out."""
        with self._store.lock:
            return [self._shown(self._store.rows[one]) for one in ids if one in self._store.rows]

    def tasks(self, wanted: TaskFilter, page: Page) -> TaskPage:
        """A page of tasks, newest first.

        Raises:
          InvalidField: the cursor is not one that an earlier page gave.
        """
        with self._store.lock:
            found = [row for row in reversed(self._store.rows.values()) if self._fits(row, wanted)]
            rest = found[page.offset :]
            if page.cursor:
                last = _cursor_id(page.cursor)
                rest = found[next((at + 1 for at, row in enumerate(found) if row.new.id == last), 0) :]
            shown = rest[: page.limit]
            cursor = str(shown[-1].new.id) if len(rest) > page.limit else None
            return TaskPage([self._shown(row) for row in shown], len(found), True, cursor)

    def statistics(self, window: Window) -> Statistics:
        """How many tasks there were in a window, how they ended, and how long they took."""
        with self._store.lock:
            return statistics.read(self._store.rows.values(), window, self._store.clock.now())

    def _shown(self, row: Row) -> Task:
        """A task as readers get it."""
        wait = WAITS.get(row.status)
        if row.status == QUEUED and not self._store.has_place(row):
            wait = "concurrency"
        return _task(row, wait)

    def _fits(self, row: Row, wanted: TaskFilter) -> bool:
        """Whether a filter lets a task through."""
        if wanted.retryable is not None:
            run = self._store.rows.get(row.new.run_id) if row.new.run_id else None
            over = run is not None and run.status in (COMPLETED, CANCELLED)
            if wanted.retryable is not (row.status == FAILED and not over):
                return False
        return _fits_simply(row, wanted) and (not wanted.q or _holds(row, wanted.q.lower()))

    def history(self, task_id: UUID) -> list[Event]:
        """Every event of a task, oldest first; empty if there is no such task."""
        with self._store.lock:
            row = self._store.rows.get(task_id)
            return [] if row is None else history.derive(row, row, row.attempts, row.told)

    def run(self, run_id: UUID) -> RunState | None:
        """A run and its stages, without their outputs."""
        with self._store.lock:
            run = self._store.rows.get(run_id)
            if run is None:
                return None
            stages = [
                StageState(row.new.id, row.new.stage or "", row.new.stage_index or 0, row.status, row.error)
                for row in self._store.stages(run_id)
            ]
            return RunState(run_id, run.new.task_type, run.status, run.round, _as_asked(run.new), stages)

    def outputs(self, run_id: UUID, stage: str) -> dict[int, Any]:
        """The results of a stage of a run by the index of its tasks, in their order."""
        with self._store.lock:
            rows = [row for row in self._store.stages(run_id) if row.new.stage == stage]
            return {row.new.stage_index or 0: as_json(row.result) for row in rows}

    def kept_output(self, claim: Claimed, key: bytes) -> Reusable | None:
        """The output that is kept under a key, if it may answer for a claimed task."""
        with self._store.lock:
            until, output = self._store.outputs.get(key, (None, None))
            rows = [self._store.rows.get(one) for one in (claim.id, claim.run_id) if one is not None]
            begun_anew = any(row is not None and row.round for row in rows)
            if output is None or until is None or until <= self._store.clock.now() or begun_anew:
                return None
            return Reusable(output.task_id, as_json(output.result))

    def payloads(self, run_id: UUID, stage: str) -> list[Any]:
        """What the tasks of a stage of a run got, by their index."""
        with self._store.lock:
            return [as_json(row.new.payload) for row in self._store.stages(run_id) if row.new.stage == stage]

    def joining(self, run_id: UUID, stages: Sequence[str] | None = None) -> Joining:
        """How far some stages of a run are, or all of them; ``some_fell`` looks at all in any case."""
        with self._store.lock:
            every = self._store.stages(run_id)
            asked = [row for row in every if stages is None or row.new.stage in stages]
            fell = any(row.status in (FAILED, CANCELLED) for row in every)
            run = self._store.rows.get(run_id)
            details = None if run is None else run.details
            return Joining(len(asked), sum(not row.is_over for row in asked), fell, details)

    def is_at_work(self, run_id: UUID) -> bool:
        """Whether a run goes on by itself: a stage is unfinished, and none has ended badly."""
        found = self.joining(run_id)
        return found.unfinished > 0 and not found.some_fell

    def unsettled_runs(self, limit: int = 200) -> list[UUID]:
        """Runs that nothing will move by itself: no stage of theirs is unfinished, or one has ended badly."""
        with self._store.lock:
            runs = [row for row in self._store.rows.values() if row.new.is_run and not row.is_over]
            return [row.new.id for row in runs if not self.is_at_work(row.new.id)][:limit]

    def task_types(self) -> dict[str, TaskType]:
        """None: nobody else declares types here."""
        return {}

    def queue_names(self) -> list[str]:
        """The queues of all tasks, by name."""
        with self._store.lock:
            return sorted({row.new.queue_name for row in self._store.rows.values() if not row.new.is_run})

    def ready_at(self, task_id: UUID) -> datetime | None:
        """When a waiting task is due."""
        with self._store.lock:
            row = self._store.rows.get(task_id)
            return None if row is None else row.ready_at

    def snapshots(self, task_id: UUID) -> dict[int, Any]:
        """What a task has saved, by version."""
        with self._store.lock:
            row = self._store.rows.get(task_id)
            return {} if row is None else {at: as_json(state) for at, state in row.snapshots.items()}


def _fits_simply(row: Row, wanted: TaskFilter) -> bool:
    new = row.new
    pairs = (
        (wanted.owner, new.user_id),
        (wanted.task_type, new.task_type),
        (wanted.queue_name, new.queue_name),
        (wanted.kb_id, new.kb_id),
        (wanted.user_id, new.user_id),
        (wanted.project_id, new.project_id),
        (wanted.parent_id, new.parent_id),
        (wanted.run_id, new.run_id),
    )
    return (
        all(asked is None or asked == has for asked, has in pairs)
        and (not wanted.statuses or row.status in wanted.statuses)
        and (wanted.tag is None or wanted.tag in new.tags)
        and (wanted.created_after is None or row.created_at >= wanted.created_after)
        and (wanted.created_before is None or row.created_at < wanted.created_before)
        and (wanted.stages or wanted.run_id is not None or new.run_id is None)
    )


def _holds(row: Row, text: str) -> bool:
    """Whether a task holds a text in lower case, or its id begins with it."""
    new, error = row.new, row.error or {}
    payload = json.dumps(new.payload, ensure_ascii=False)  # with the spaces that Postgres puts in, too
    texts = [
        new.task_type,
        new.project_id,
        new.kb_id,
        *new.tags,
        row.message,
        error.get("code"),
        error.get("message"),
        payload,
    ]
    whole = "\n".join(one for one in texts if one is not None).lower()
    return text in whole or str(new.id).startswith(text)


def _cursor_id(cursor: str) -> UUID:
    known = parse_id(cursor)
    if known is None:
        raise InvalidField.of("cursor", "is not a cursor of an earlier page; leave it out to begin")
    return known


def _as_asked(new: NewTask) -> NewTask:
    """A run as the flow sees it: when it was to begin, and after what, is over."""
    return NewTask(
        id=new.id,
        task_type=new.task_type,
        queue_name=new.queue_name,
        payload=as_json(new.payload),
        priority=new.priority,
        max_retries=new.max_retries,
        backoff=new.backoff,
        timeout=new.timeout,
        user_id=new.user_id,
        project_id=new.project_id,
        kb_id=new.kb_id,
        created_by=new.created_by,
        tags=new.tags,
        overrides=new.overrides,
    )


def _task(row: Row, wait: str | None) -> Task:
    new = row.new
    over, began = row.finished_at, row.started_at
    return Task(
        task_id=new.id,
        task_type=new.task_type,
        status=row.status,
        progress=round(row.progress, 2),
        phase=row.phase,
        message=row.message,
        details=row.details,
        queue_name=new.queue_name,
        priority=new.priority,
        payload=as_json(new.payload),
        result=as_json(row.result),
        error=row.error,
        attempts=row.attempt,
        max_retries=new.max_retries,
        timeout=new.timeout,
        user_id=new.user_id or None,
        project_id=new.project_id,
        kb_id=new.kb_id,
        created_by=new.created_by,
        tags=list(new.tags),
        parent_id=new.parent_id,
        run_id=new.run_id,
        stage=new.stage,
        depends_on=list(new.depends_on),
        run_at=row.run_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=began,
        completed_at=over,
        duration_ms=milliseconds(began, over),
        estimated_completion=None,
        wait_reason=wait,
    )
