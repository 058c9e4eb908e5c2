"""The verbs that fire schedules: fire, run (now), backfill, and forget.

A fire is one transaction: the tasks, a row for the fire time, and the schedule's next time. Who fires holds
the schedule's row, and what it has planned counts only if the schedule still is of the version and at the
fire time that were planned for, so that any number of clocks fire each time once.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tasks.errors import CallboardError
from tasks.ledger import endings, submissions
from tasks.ledger.schedules import Held
from tasks.ledger.submissions import Submit
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.schedule_records import BACKFILLED, FIRED, MANUAL, MISSED, REFUSED, SKIPPED_BY_OVERLAP
from tasks.states import FINAL
from tasks.values import Accepted, NewTask

FORGOTTEN_AT_ONCE = 5_000


class Fire(msgspec.Struct, frozen=True, kw_only=True):
    """A fire time with what it is to run: a task comes first, the first stages of a run follow it.

    Without ``tasks`` it was missed, or for an ``error`` refused. ``missed`` others went by before it.
    """

    fire_time: datetime
    due_at: datetime | None = None
    tasks: Sequence[NewTask] = ()
    missed: int = 0
    error: str | None = None


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """What is planned for a schedule of ``version`` that is at ``expected``, and when it is due again."""

    schedule: UUID
    version: int
    expected: datetime
    fires: Sequence[Fire]
    next_fire: datetime | None
    next_run_at: datetime | None


class RunNow(msgspec.Struct, frozen=True):
    """Run a schedule's task at once, whatever it says."""

    schedule: UUID
    fire: Fire


class Backfill(msgspec.Struct, frozen=True):
    """Run what a schedule did not run at these fire times."""

    schedule: UUID
    fires: Sequence[Fire]


class Forget(msgspec.Struct, frozen=True):
    """Forget what became of fire times more than so many seconds ago."""

    seconds: float


class _Row(msgspec.Struct):
    """What becomes of a fire time, as its row in ``fires``."""

    schedule: UUID
    fire_time: datetime
    outcome: str
    task_id: UUID | None
    missed: int
    due_at: datetime | None
    error: str | None


class _Case(msgspec.Struct):
    """A schedule that is fired here: its plan, which of its fire times run, and what becomes of all.

    ``gives_way`` is the unfinished task that is cancelled if one runs.
    """

    plan: Firing
    chosen: Sequence[Fire]
    gives_way: UUID | None = None
    rows: Sequence[_Row] = ()

    @property
    def is_fired(self) -> bool:
        """Whether a fire time has its task."""
        return any(row.outcome == FIRED for row in self.rows)


class _Move(msgspec.Struct):
    """Where a schedule is after its fires."""

    id: UUID
    next_fire: datetime | None
    next_run_at: datetime | None
    last_task_id: UUID | None
    fired: int
    skipped: int
    missed: int
    refused: int


# Whether the run before is unfinished matters only to those that do not simply queue the next one.
_LOCK = """
SELECT s.id, s.version, s.next_fire, s.overlap, s.last_task_id, t.status
FROM schedules s LEFT JOIN task_state t ON s.overlap <> 'queue' AND t.id = s.last_task_id
WHERE s.id = ANY(%s) AND s.is_active ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED"""
_KNOWN = """
SELECT fire_time, task_id FROM fires WHERE schedule = %s AND fire_time = ANY(%s) AND task_id IS NOT NULL"""
_NEXT = "SELECT next_fire FROM schedules WHERE id = %s"
_TELL = """
INSERT INTO fires (schedule, fire_time, outcome, task_id, missed, late, error)
SELECT schedule, fire_time, outcome, task_id, missed, extract(epoch FROM now() - due_at)::float8, error
FROM jsonb_to_recordset(%s::jsonb) AS f(schedule uuid, fire_time timestamptz, outcome text, task_id uuid,
    missed integer, due_at timestamptz, error text)
ON CONFLICT (schedule, fire_time) DO UPDATE SET outcome = excluded.outcome, task_id = excluded.task_id,
    late = excluded.late, error = excluded.error, fired_at = now()
WHERE fires.task_id IS NULL AND excluded.task_id IS NOT NULL
RETURNING schedule, fire_time"""
_MOVE = """
UPDATE schedules s SET next_fire = m.next_fire, next_run_at = m.next_run_at,
    last_run_at = CASE WHEN m.fired > 0 THEN now() ELSE s.last_run_at END,
    last_task_id = coalesce(m.last_task_id, s.last_task_id),
    fired = s.fired + m.fired, skipped = s.skipped + m.skipped, missed = s.missed + m.missed,
    refused = s.refused + m.refused
FROM jsonb_to_recordset(%s::jsonb) AS m(id uuid, next_fire timestamptz, next_run_at timestamptz,
    last_task_id uuid, fired integer, skipped integer, missed integer, refused integer)
WHERE s.id = m.id"""
# A run that somebody asks for must not hide the one before, if that is unfinished: the next fire looks at it.
_COUNT = """
UPDATE schedules s SET fired = s.fired + %s, last_run_at = now(),
    last_task_id = CASE WHEN EXISTS (SELECT FROM task_state t WHERE t.id = s.last_task_id
        AND t.status NOT IN ('completed', 'failed', 'cancelled')) THEN s.last_task_id ELSE %s END
WHERE id = %s"""
_FORGET = """
DELETE FROM fires WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM fires WHERE fired_at < now() - make_interval(secs => %s)
    ORDER BY fired_at LIMIT %s FOR UPDATE SKIP LOCKED))
RETURNING 1"""


def fire(tx: Transaction, items: Sequence[Sequence[Firing]]) -> list[int]:
    """Fire schedules: how many of each item. The plan of the others does not hold any more, or not now."""
    plans = [one for item in items for one in item]
    held = {row[0]: row[1:] for row in tx.rows(_LOCK, [one.schedule for one in plans])}
    cases = [_case(one, held.pop(one.schedule, None)) for one in plans]
    done = _submitted(tx, [case for case in cases if case is not None])
    _cancel(tx, [case.gives_way for case in done if case.gives_way is not None and case.is_fired])
    if done:
        tx.execute(_TELL, as_json([row for case in done for row in case.rows]))
        tx.execute(_MOVE, as_json([_move(case) for case in done]))
    fired = {id(case.plan) for case in done}
    return [sum(id(one) in fired for one in item) for item in items]


def _case(plan: Firing, held: Sequence[Any] | None) -> _Case | None:
    """A schedule that is to be fired as planned; None if it is not."""
    if held is None:
        return None
    version, next_fire, overlap, last_task, status = held
    if (version, next_fire) != (plan.version, plan.expected):
        return None
    chosen = [one for one in plan.fires if one.tasks]
    is_busy = status is not None and status not in FINAL
    if overlap == "skip":
        return _Case(plan, [] if is_busy else chosen[:1])
    if overlap == "cancel":
        return _Case(plan, chosen[-1:], last_task if is_busy else None)
    return _Case(plan, chosen)


def _cancel(tx: Transaction, ids: Sequence[UUID]) -> None:
    """Cancel what gives way to tasks that were recorded; what somebody holds now, after the commit."""
    outcomes = endings.cancel(tx, ids) if ids else []
    for one, outcome in zip(ids, outcomes, strict=True):
        if outcome is SKIPPED:
            tx.follow_up("cancel", one, 1)


def _submitted(tx: Transaction, cases: Sequence[_Case]) -> list[_Case]:
    """Record the tasks of each schedule, all or nothing; without those of which it cannot be told yet."""
    orders = [_order(case.chosen) for case in cases if case.chosen]
    answers = iter(submissions.submit(tx, orders) if orders else ())
    settled = []
    for case in cases:
        answer = next(answers) if case.chosen else None
        if answer is not SKIPPED:
            case.rows = _rows(case, answer.message if isinstance(answer, CallboardError) else None)
            settled.append(case)
    return settled


def _rows(case: _Case, refused: str | None) -> list[_Row]:
    chosen = {one.fire_time for one in case.chosen}
    rows = []
    for one in case.plan.fires:
        outcome, error, task_id = SKIPPED_BY_OVERLAP, one.error, None
        if not one.tasks:
            outcome = MISSED if one.error is None else REFUSED
        elif one.fire_time in chosen:
            outcome, error = (FIRED, None) if refused is None else (REFUSED, refused)
            task_id = one.tasks[0].id if refused is None else None
        rows.append(_Row(case.plan.schedule, one.fire_time, outcome, task_id, one.missed, one.due_at, error))
    return rows


def _move(case: _Case) -> _Move:
    plan, outcomes = case.plan, [row.outcome for row in case.rows]
    return _Move(
        plan.schedule,
        plan.next_fire,
        plan.next_run_at,
        next((row.task_id for row in reversed(case.rows) if row.task_id is not None), None),
        outcomes.count(FIRED),
        outcomes.count(SKIPPED_BY_OVERLAP),
        outcomes.count(MISSED) + sum(row.missed for row in case.rows),
        outcomes.count(REFUSED),
    )


def _order(fires: Sequence[Fire]) -> Submit:
    tasks = [task for one in fires for task in one.tasks]
    return Submit(tasks, None, [one.tasks[0].id for one in fires])


def run(tx: Transaction, items: Sequence[RunNow]) -> list[object]:
    """Run schedules now: the Accepted task of each, why it is refused, "missing", or SKIPPED."""
    held = Held(tx, (item.schedule for item in items))
    return [_run(tx, item) if item.schedule in held else held.lack(item.schedule) for item in items]


def _run(tx: Transaction, item: RunNow) -> object:
    (answer,) = submissions.submit(tx, [_order([item.fire])])
    if not isinstance(answer, list):
        return answer
    accepted: Accepted = next(one for one in answer if one.id == item.fire.tasks[0].id)
    _tell(tx, item.schedule, [item.fire], MANUAL)
    return accepted


def backfill(tx: Transaction, items: Sequence[Backfill]) -> list[object]:
    """Run what was not run: the fire times of each schedule that were, why not, "missing", or SKIPPED."""
    held = Held(tx, (item.schedule for item in items))
    return [_backfill(tx, item) if item.schedule in held else held.lack(item.schedule) for item in items]


def _backfill(tx: Transaction, item: Backfill) -> object:
    known = dict(tx.rows(_KNOWN, item.schedule, [one.fire_time for one in item.fires]))
    ((next_fire,),) = tx.rows(_NEXT, item.schedule)
    # After a commit of unknown outcome they are there already, with the same tasks. What is due is fired by
    # the clock.
    ours = [
        one
        for one in item.fires
        if known.get(one.fire_time, one.tasks[0].id) == one.tasks[0].id
        and (next_fire is None or one.fire_time < next_fire)
    ]
    if ours:
        (answer,) = submissions.submit(tx, [_order(ours)])
        if not isinstance(answer, list):
            return answer
        _tell(tx, item.schedule, ours, BACKFILLED)
    return [one.fire_time for one in ours]


def _tell(tx: Transaction, schedule: UUID, fires: Sequence[Fire], outcome: str) -> None:
    rows = [_Row(schedule, one.fire_time, outcome, one.tasks[0].id, 0, None, None) for one in fires]
    new = tx.rows(_TELL, as_json(rows))
    if new:
        tx.execute(_COUNT, len(new), rows[-1].task_id, schedule)


def forget(tx: Transaction, items: Sequence[Forget]) -> list[int]:
    """Forget a batch of what became of fire times long ago: how many each."""
    return [len(tx.rows(_FORGET, item.seconds, FORGOTTEN_AT_ONCE)) for item in items]
