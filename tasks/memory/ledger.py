"""The verbs of the record in memory. Each is over when it returns; its future only carries the answer."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from tasks.errors import CallboardError
from tasks.ids import new_id
from tasks.memory import rounds, submissions
from tasks.memory.store import Row, Store, as_json
from tasks.states import (
    BLOCKED,
    CANCELLED,
    COMPLETED,
    FAILED,
    QUEUED,
    RETRYING,
    RUNNING,
    SCHEDULED,
)
from tasks.step_outputs import told_of
from tasks.values import (
    Accepted,
    Advance,
    Claimed,
    Complete,
    Json,
    NewTask,
    Once,
    Reusable,
    RunProgress,
    TaskError,
)

T = TypeVar("T")
KEPT_VERSIONS = 20


class MemoryLedger:
    """The verbs of a record in memory, for one process. See `tasks.ledger.Ledger`."""

    def __init__(self, store: Store, *, owner: UUID | None = None) -> None:
        self.owner = owner or new_id()
        self._store = store

    # --- asking for work -------------------------------------------------------------------------

    def submit(
        self,
        tasks: Sequence[NewTask],
        *,
        once: Once | None = None,
        asked: Sequence[UUID] = (),
        patience: float | None = None,
    ) -> Future[list[Accepted]]:
        """Record tasks, all or nothing."""
        return self._do(lambda: submissions.submit(self._store, tasks, once, asked))

    def cancel(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Cancel a task and, if it is a run, its stages: "cancelled", "finished" or "missing"."""
        return self._do(lambda: self._cancel(task_id))

    def _cancel(self, task_id: UUID) -> str:
        row = self._store.rows.get(task_id)
        if row is None:
            return "missing"
        cleared = self._store.clear([row, *self._store.stages(task_id)])
        self._store.follow(cleared)
        return CANCELLED if row.status == CANCELLED else "finished"

    def retry(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Run a failed task again with a new budget: "retried", or why not (see `tasks.memory.rounds`)."""
        return self._do(lambda: rounds.retry(self._store, task_id))

    def delete(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Remove a task that is over, with its stages: "deleted", "unfinished", "missing" or "stage"."""
        return self._do(lambda: rounds.delete(self._store, task_id))

    # --- working ---------------------------------------------------------------------------------

    def fetch(self, queues: Sequence[str], types: Sequence[str], limit: int) -> Future[list[Claimed]]:
        """Claim up to ``limit`` ready tasks, best rank first."""
        return self._do(lambda: self._fetch(set(queues), set(types), limit))

    def _fetch(self, queues: set[str], types: set[str], limit: int) -> list[Claimed]:
        ready = [
            row
            for row in self._store.rows.values()
            if row.status == QUEUED
            and not row.new.is_run
            and row.new.queue_name in queues
            and row.new.task_type in types
            and not self._store.run_is_over(row)
        ]
        token = secrets.randbits(62)
        claims: list[Claimed] = []
        for row in sorted(ready, key=lambda row: row.rank):
            if len(claims) < limit and self._store.has_place(row):
                claims.append(self._claim(row, token))
        return claims

    def _claim(self, row: Row, token: int) -> Claimed:
        now = self._store.clock.now()
        row.status, row.worker, row.token, row.attempt = RUNNING, self.owner, token, row.attempt + 1
        row.started_at, row.updated_at, row.finished_at = now, now, None
        row.progress, row.phase, row.message, row.details = 0.0, None, None, None
        row.events += 1
        row.running_event = row.events
        run = self._store.rows.get(row.new.run_id) if row.new.run_id else None
        if run is not None and run.status in (SCHEDULED, QUEUED):
            run.status, run.started_at, run.updated_at = RUNNING, now, now
            run.events += 1
            run.running_event = run.events
        return _claimed(row, token)

    def release(self, claim: Claimed, seconds: float = 0.0) -> Future[bool]:
        """Give a claim back without using up an attempt; it may be claimed again after ``seconds``."""

        def release(row: Row) -> None:
            now = self._store.clock.now()
            row.end_attempt("released", QUEUED, now)
            row.status, row.token, row.worker, row.attempt = QUEUED, None, None, row.attempt - 1
            row.started_at, row.running_event, row.updated_at = None, None, now
            row.events += 1
            if seconds:
                row.status, row.ready_at = SCHEDULED, now + timedelta(seconds=seconds)
                row.tell("state", SCHEDULED, now, message="waits for a worker that knows its version")

        return self._do(lambda: self._if_held(claim, release))

    def report(
        self,
        claim: Claimed,
        progress_: float,
        phase: str | None,
        message: str | None,
        details: dict[str, Any] | None = None,
    ) -> Future[bool]:
        """Record how far an attempt is (0-100)."""

        def report(row: Row) -> None:
            now = self._store.clock.now()
            data = None if details is None else as_json(details)
            row.tell("progress", RUNNING, now, phase=phase, progress=progress_, message=message, data=data)
            row.progress, row.message, row.updated_at = progress_, message, now
            row.phase = row.phase if phase is None else phase
            row.details = row.details if data is None else data

        return self._do(lambda: self._if_held(claim, report))

    def log(self, claim: Claimed, level: str, logger: str, message: str) -> Future[bool] | None:
        """Record a line that an attempt logged."""

        def log(row: Row) -> None:
            now = self._store.clock.now()
            row.tell("log", RUNNING, now, message=message, data={"level": level, "logger": logger})
            row.updated_at = now

        return self._do(lambda: self._if_held(claim, log))

    def checkpoint(self, claim: Claimed, version: int, state: Any) -> Future[bool]:
        """Save a state for the next attempt; False: the token was stale and nothing was written."""

        def save(row: Row) -> None:
            if row.snapshot >= version:
                return
            now = self._store.clock.now()
            row.snapshots[version] = as_json(state)
            row.snapshots.pop(version - KEPT_VERSIONS, None)
            row.tell("checkpoint", RUNNING, now, data={"version": version})
            row.snapshot, row.updated_at = version, now

        return self._do(lambda: self._if_held(claim, save))

    def complete(self, claim: Claimed, completion: Complete) -> Future[bool]:
        """Finish an attempt with its successors; False: the token was stale and nothing was written."""

        def complete(row: Row) -> None:
            now = self._store.clock.now()
            if completion.reused is not None:
                row.message = told_of(completion.reused)
                row.tell("progress", RUNNING, now, progress=100.0, message=row.message)
            row.result, row.error, row.progress = as_json(completion.result), None, 100.0
            row.end(COMPLETED, now)
            if completion.keep is not None:
                until = now + timedelta(seconds=completion.keep.seconds)
                self._store.outputs[completion.keep.key] = until, Reusable(row.new.id, row.result)
            self._store.insert(completion.successors)
            if completion.run is not None:
                self._report_run(completion.run)
            self._store.follow([row.new.id])

        return self._do(lambda: self._if_held(claim, complete, done=(COMPLETED,)))

    def hand_out(self, claim: Claimed, tasks: Sequence[NewTask]) -> Future[bool]:
        """Record tasks that an attempt hands out while it runs; False: the token was stale."""
        return self._do(lambda: self._if_held(claim, lambda _: self._store.insert(tasks)))

    def _report_run(self, told: RunProgress) -> None:
        run = self._store.rows.get(told.run_id)
        if run is not None and run.status == RUNNING and run.progress < told.progress:
            now = self._store.clock.now()
            data = None if told.details is None else as_json(told.details)
            run.tell("progress", RUNNING, now, phase=told.phase, progress=told.progress, data=data)
            run.progress, run.phase, run.details, run.updated_at = told.progress, told.phase, data, now

    def fail(self, claim: Claimed, error: TaskError, *, retry_in: float | None) -> Future[bool]:
        """End an attempt with an error and retry in so many seconds, or never; False: stale token."""

        def fail(row: Row) -> None:
            now = self._store.clock.now()
            row.error = {"code": error.code, "message": error.message}
            next_ = FAILED if retry_in is None else RETRYING
            row.end_attempt("error", next_, now, error.traceback, why=True)
            row.failures += 1
            row.ready_at = now + timedelta(seconds=retry_in or 0.0)
            row.rank_by(row.ready_at)
            if next_ == FAILED:
                row.end(FAILED, now)
                self._store.follow([row.new.id])
            else:
                row.status, row.updated_at, row.finished_at = RETRYING, now, None
                row.events += 1

        return self._do(lambda: self._if_held(claim, fail, done=(FAILED, RETRYING)))

    def lose(self, claim: Claimed, how: str) -> Future[bool]:
        """The process of its own that ran an attempt died: a death for its task; False: stale token."""
        return self._do(lambda: self._if_held(claim, lambda row: self._store.lose(row, how, blame=True)))

    def advance(self, decision: Advance) -> Future[bool]:
        """Apply what the flow decided for a run; False: the run is over."""
        return self._do(lambda: self._advance(decision))

    def _advance(self, decision: Advance) -> bool:
        run = self._store.rows.get(decision.run_id)
        if run is None:
            return False
        goes_on = not run.is_over
        if goes_on and decision.round != run.round:
            return False
        if goes_on and decision.status is None:
            self._store.insert(decision.successors)
            return True
        if goes_on and decision.status is not None:
            now = self._store.clock.now()
            completed = decision.status == COMPLETED
            run.result = as_json(decision.result) if completed else None
            run.error = None if decision.error is None else as_json(decision.error)
            run.progress = 100.0 if completed else run.progress
            run.started_at = run.started_at or now
            run.end(decision.status, now)
        ended = self._store.clear(self._store.stages(decision.run_id))
        self._store.follow([decision.run_id, *ended])
        return goes_on

    # --- the clock -------------------------------------------------------------------------------

    def promote(self) -> Future[int]:
        """Make due tasks ready."""
        return self._do(self._promote)

    def _promote(self) -> int:
        now = self._store.clock.now()
        due = [
            row
            for row in self._store.rows.values()
            if row.status in (SCHEDULED, RETRYING) and row.ready_at <= now
        ]
        for row in due:
            row.status, row.token, row.updated_at = QUEUED, None, now
            row.tell("state", QUEUED, now)
        return len(due)

    def rescue(self, worker: UUID, *, died: bool = True) -> Future[int]:
        """Take everything back from a process that died; one that only froze is no death for its tasks."""
        how = "The worker process died" if died else "The worker process stopped answering"
        return self._do(lambda: self._rescue(worker, f"{how} while the task was running", died))

    def _rescue(self, worker: UUID, how: str, died: bool) -> int:
        held = [
            row
            for row in self._store.rows.values()
            if row.worker == worker and row.status == RUNNING and not row.new.is_run
        ]
        for row in held:
            self._store.lose(row, how, blame=died)
        return len(held)

    def unblock(self) -> Future[int]:
        """Move blocked tasks that nothing holds back any more."""
        return self._do(lambda: _count(self._store.unblock(row) for row in self._blocked()))

    def _blocked(self) -> list[Row]:
        return [row for row in self._store.rows.values() if row.status == BLOCKED]

    # --- how it is done --------------------------------------------------------------------------

    def _if_held(self, claim: Claimed, move: Callable[[Row], None], done: tuple[str, ...] = ()) -> bool:
        """Make a move under a claim that holds; True too if it is the one that made it before."""
        row = self._store.rows.get(claim.id)
        if row is None:
            return False
        if not row.holds(claim):
            return row.status in done and row.token == claim.token
        move(row)
        return True

    def _do(self, verb: Callable[[], T]) -> Future[T]:
        answer: Future[T] = Future()
        try:
            with self._store.lock:
                answer.set_result(verb())
        except (CallboardError, TypeError, ValueError) as error:
            answer.set_exception(error)
        return answer


def _count(moved: Iterable[bool]) -> int:
    return sum(list(moved))


def _claimed(row: Row, token: int) -> Claimed:
    new = row.new
    state = Json(msgspec.json.encode(row.snapshots[row.snapshot])) if row.snapshot else None
    return Claimed(
        id=new.id,
        token=token,
        attempt=row.attempt,
        failures=row.failures,
        deaths=row.deaths,
        task_type=new.task_type,
        queue=new.queue_name,
        payload=Json(msgspec.json.encode(new.payload)),
        max_retries=new.max_retries,
        backoff=new.backoff,
        timeout=new.timeout,
        priority=new.priority,
        user_id=new.user_id,
        project_id=new.project_id,
        kb_id=new.kb_id,
        tags=list(new.tags),
        run_id=new.run_id,
        stage=new.stage,
        stage_index=new.stage_index,
        suspect=row.suspect,
        snapshot=row.snapshot,
        overrides=new.overrides,
        state=state,
    )
