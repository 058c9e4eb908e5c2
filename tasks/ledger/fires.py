"""The verbs that fire schedules: fire, run (now), backfill, and forget.

A fire is one transaction: the tasks, a row for the fire time, and the schedule's next time. Who fires holds
the schedule's row, and what it has planned counts only if the schedule still is of the version and at the
fire time that were planned for, so that any number of clocks fire each time once.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
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


class _Told(NamedTuple):
    """What became of a fire time."""

    fire: Fire
    outcome: str
    error: str | None = None

    def row(self, schedule: UUID) -> dict[str, Any]:
        has_task = self.outcome in (FIRED, MANUAL, BACKFILLED)
        return {
            "schedule": schedule,
            "fire_time": self.fire.fire_time,
            "outcome": self.outcome,
            "task_id": self.fire.tasks[0].id if has_task else None,
            "missed": self.fire.missed,
            "due_at": self.fire.due_at,
            "error": self.error or self.fire.error,
        }


# Whether the run before is unfinished matters only to those that do not simply queue the next one.
_LOCK = """
SELECT s.id, s.version, s.next_fire, s.overlap, s.last_task_id, t.status
FROM schedules s LEFT JOIN task_state t ON s.overlap <> 'queue' AND t.id = s.last_task_id
WHERE s.id = ANY(%s) AND s.is_active ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED"""
_KNOWN = """
SELECT f.schedule, f.fire_time, f.task_id
FROM unnest(%s::uuid[], %s::timestamptz[]) AS asked(schedule, fire_time)
JOIN fires f USING (schedule, fire_time)
WHERE f.task_id IS NOT NULL"""
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
    fired = s.fired + m.fired, skipped = s.skipped + m.skipped, missed = s.missed + m.missed
FROM jsonb_to_recordset(%s::jsonb) AS m(id uuid, next_fire timestamptz, next_run_at timestamptz,
    last_task_id uuid, fired integer, skipped integer, missed integer)
WHERE s.id = m.id"""
_COUNT = """
UPDATE schedules s SET fired = s.fired + %s, last_run_at = now(), last_task_id = %s WHERE id = %s"""
_FORGET = """
DELETE FROM fires WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM fires WHERE fired_at < now() - make_interval(secs => %s)
    ORDER BY fired_at LIMIT %s FOR UPDATE SKIP LOCKED))
RETURNING 1"""


def fire(tx: Transaction, items: Sequence[Firing]) -> list[bool]:
    """Fire schedules: True, or False if that is not to be done now (any more); who plans looks again."""
    held = {row[0]: row[1:] for row in tx.rows(_LOCK, [item.schedule for item in items])}
    ours = [item for item in items if held.get(item.schedule, ())[:2] == (item.version, item.expected)]
    known = set(_known(tx, [(one.schedule, each) for one in ours for each in one.fires]))
    cancelled = _cancel(tx, [held[one.schedule][3] for one in ours if _overlaps(held, one) == "cancel"])
    told: dict[UUID, list[_Told]] = {}
    for one in ours:
        fires = [each for each in one.fires if (one.schedule, each.fire_time) not in known]
        overlap = held[one.schedule][2]
        if _overlaps(held, one) != "cancel" or held[one.schedule][3] in cancelled:
            told[one.schedule] = _outcomes(fires, overlap, is_busy=_overlaps(held, one) == "skip")
    told = _submit(tx, told)
    done = [one for one in ours if one.schedule in told]
    if done:
        rows = [each.row(schedule) for schedule, fires in told.items() for each in fires]
        tx.execute(_TELL, as_json(rows))
        tx.execute(_MOVE, as_json([_move(one, told[one.schedule]) for one in done]))
    finished = {id(one) for one in done}
    return [id(item) in finished for item in items]


def _overlaps(held: dict[UUID, Any], item: Firing) -> str | None:
    """What the policy says of an item whose run before is unfinished; None if nothing is."""
    _, _, overlap, _, status = held[item.schedule]
    return overlap if any(one.tasks for one in item.fires) and status not in (None, *FINAL) else None


def _cancel(tx: Transaction, ids: Sequence[UUID]) -> set[UUID]:
    """Cancel what is to give way: those that are over now; somebody holds the others."""
    outcomes = endings.cancel(tx, ids) if ids else []
    return {one for one, outcome in zip(ids, outcomes, strict=True) if outcome is not SKIPPED}


def _outcomes(fires: Sequence[Fire], overlap: str, *, is_busy: bool) -> list[_Told]:
    """What is to become of the fire times of one schedule that are fired at once, several if it is late."""
    runs = [one for one in fires if one.tasks]
    chosen = runs
    if overlap == "skip":
        chosen = [] if is_busy else runs[:1]
    elif overlap == "cancel":
        chosen = runs[-1:]
    return [_Told(one, _outcome(one, one in chosen)) for one in fires]


def _outcome(fire: Fire, is_chosen: bool) -> str:
    if not fire.tasks:
        return MISSED if fire.error is None else REFUSED
    return FIRED if is_chosen else SKIPPED_BY_OVERLAP


def _submit(tx: Transaction, told: dict[UUID, list[_Told]]) -> dict[UUID, list[_Told]]:
    """Record the tasks of each schedule, all or nothing; without those of which it cannot be told yet."""
    orders = {
        schedule: _order([one.fire for one in fires if one.outcome == FIRED])
        for schedule, fires in told.items()
    }
    orders = {schedule: order for schedule, order in orders.items() if order.tasks}
    answers = dict(zip(orders, submissions.submit(tx, list(orders.values())), strict=True)) if orders else {}
    settled = {}
    for schedule, fires in told.items():
        answer = answers.get(schedule)
        if isinstance(answer, CallboardError):
            settled[schedule] = [_refused(one, answer) for one in fires]
        elif answer is not SKIPPED:
            settled[schedule] = fires
    return settled


def _refused(told: _Told, error: CallboardError) -> _Told:
    return _Told(told.fire, REFUSED, error.message) if told.outcome == FIRED else told


def _order(fires: Sequence[Fire]) -> Submit:
    tasks = [task for one in fires for task in one.tasks]
    return Submit(tasks, None, [one.tasks[0].id for one in fires])


def _move(item: Firing, told: Sequence[_Told]) -> dict[str, Any]:
    fired = [one for one in told if one.outcome == FIRED]
    return {
        "id": item.schedule,
        "next_fire": item.next_fire,
        "next_run_at": item.next_run_at,
        "last_task_id": fired[-1].fire.tasks[0].id if fired else None,
        "fired": len(fired),
        "skipped": sum(one.outcome == SKIPPED_BY_OVERLAP for one in told),
        "missed": sum(one.fire.missed + (one.outcome == MISSED) for one in told),
    }


def run(tx: Transaction, items: Sequence[RunNow]) -> list[object]:
    """Run schedules now: the Accepted task of each, why it is refused, "missing", or SKIPPED."""
    held = Held(tx, (item.schedule for item in items))
    return [_run(tx, item) if item.schedule in held else held.lack(item.schedule) for item in items]


def _run(tx: Transaction, item: RunNow) -> object:
    (answer,) = submissions.submit(tx, [_order([item.fire])])
    if not isinstance(answer, list):
        return answer
    accepted: Accepted = next(one for one in answer if one.id == item.fire.tasks[0].id)
    _tell(tx, item.schedule, [_Told(item.fire, MANUAL)])
    return accepted


def backfill(tx: Transaction, items: Sequence[Backfill]) -> list[object]:
    """Run what was not run: the fire times of each schedule that were, why not, "missing", or SKIPPED."""
    held = Held(tx, (item.schedule for item in items))
    return [_backfill(tx, item) if item.schedule in held else held.lack(item.schedule) for item in items]


def _backfill(tx: Transaction, item: Backfill) -> object:
    known = _known(tx, [(item.schedule, one) for one in item.fires])
    # After a commit of unknown outcome they are there already, with the same tasks.
    ours = [
        one
        for one in item.fires
        if known.get((item.schedule, one.fire_time), one.tasks[0].id) == one.tasks[0].id
    ]
    if ours:
        (answer,) = submissions.submit(tx, [_order(ours)])
        if not isinstance(answer, list):
            return answer
        _tell(tx, item.schedule, [_Told(one, BACKFILLED) for one in ours])
    return [one.fire_time for one in ours]


def _known(tx: Transaction, fires: Sequence[tuple[UUID, Fire]]) -> dict[tuple[UUID, datetime], UUID]:
    """Which fire times have a task already, and which one."""
    schedules, times = [one for one, _ in fires], [each.fire_time for _, each in fires]
    return {row[:2]: row[2] for row in tx.rows(_KNOWN, schedules, times)} if fires else {}


def _tell(tx: Transaction, schedule: UUID, told: Sequence[_Told]) -> None:
    new = tx.rows(_TELL, as_json([one.row(schedule) for one in told]))
    if new:
        tx.execute(_COUNT, len(new), told[-1].fire.tasks[0].id, schedule)


def forget(tx: Transaction, items: Sequence[Forget]) -> list[int]:
    """Forget a batch of what became of fire times long ago: how many each."""
    return [len(tx.rows(_FORGET, item.seconds, FORGOTTEN_AT_ONCE)) for item in items]
