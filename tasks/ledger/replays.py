"""Replaying many dead letters: jobs that are recorded with all of their items and worked off by the clocks.

Whoever holds the lock of a job's row works on it; an item is replayed and marked in one transaction, so that
nothing is lost or done twice wherever a process dies. The verbs: open_replay, work_off, abort_replay and
resume_replay.

    pending -> canary -> running -> completed
    canary -> stopped: one of the first items did not complete
    pending, canary, running -> aborted
    aborted, stopped -> pending or running: resumed
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from tasks.ids import new_id
from tasks.ledger.dead_letters import REPLAYED, Edit, Replay, replay
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.letter_records import ACTIVE
from tasks.states import COMPLETED, FINAL

PENDING, CANARY, RUNNING = "pending", "canary", "running"
ABORTED, STOPPED, DONE = "aborted", "stopped", "completed"
#: More than any job has.
_ALL = 1 << 30
MISSING = "missing"
#: So many seconds of its rate a job may catch up on, after a pause of all clocks.
MOST_BURST = timedelta(seconds=1)


class OpenReplay(msgspec.Struct, frozen=True, kw_only=True):
    """A job for these letters, in this order; each with the id of its task, if it has one.

    The first ``canary`` that are replayed must complete before the others go. ``rate`` is items a second.
    """

    letters: Sequence[tuple[UUID, UUID | None]]
    filter: dict[str, Any]
    payload_patch: dict[str, Any] | None = None
    canary: int = 0
    rate: float | None = None
    most: int
    owner: str | None = None
    created_by: str
    id: UUID = msgspec.field(default_factory=new_id)


class Planned(msgspec.Struct, frozen=True):
    """The next item of a job; ``objection`` says why its letter is not to be replayed."""

    position: int
    dead_letter: UUID
    ticket: UUID
    edit: Edit | None = None
    objection: str | None = None


class WorkOff(msgspec.Struct, frozen=True):
    """Work on a job: on these items, as far as its state and its rate let it."""

    replay: UUID
    items: Sequence[Planned]


class Abort(msgspec.Struct, frozen=True):
    """Begin no more items of a job."""

    replay: UUID


class Resume(msgspec.Struct, frozen=True):
    """Go on with a job that was aborted or has stopped. A repetition takes what is active for success."""

    replay: UUID


class _Job(NamedTuple):
    status: str
    canary: int
    rate: float | None
    #: How long its rate has let the next item go already.
    waited: timedelta
    created_by: str


_OPEN = """
INSERT INTO replays (id, filter, payload_patch, canary, rate, most, size, owner, created_by)
SELECT id, filter, payload_patch, canary, rate, most, size, owner, created_by
FROM jsonb_to_record(%s::jsonb) AS r(id uuid, filter jsonb, payload_patch jsonb, canary integer, rate float8,
    most integer, size integer, owner text, created_by text)
ON CONFLICT DO NOTHING RETURNING id"""

_ITEMS = """
INSERT INTO replay_items (replay, position, dead_letter, task_id)
SELECT %s, i.position, i.dead_letter, i.task_id
FROM unnest(%s::uuid[], %s::uuid[]) WITH ORDINALITY AS i(dead_letter, task_id, position)"""

_LOCK = """
SELECT status, canary, rate, now() - next_at, created_by FROM replays WHERE id = %s
FOR NO KEY UPDATE SKIP LOCKED"""
_STATUS = "SELECT status FROM replays WHERE id = %s"

# Items that were replayed are the canary's until the first one goes that is none.
_LEFT = """
SELECT count(*) FILTER (WHERE status = 'replayed' AND is_canary),
    coalesce(bool_or(status = 'replayed' AND NOT is_canary), false),
    count(*) FILTER (WHERE status = 'pending')
FROM replay_items WHERE replay = %s"""

_STILL = "SELECT position FROM replay_items WHERE replay = %s AND position = ANY(%s) AND status = 'pending'"

# What is of no task of ours has done all it can when it was replayed.
_CANARIES = """
SELECT i.task_id, coalesce(i.outcome, CASE WHEN i.task_id IS NULL THEN 'completed'
        WHEN s.opened_by = i.ticket THEN s.status END),
    s.error->>'message'
FROM replay_items i LEFT JOIN task_state s ON s.id = i.task_id
WHERE i.replay = %s AND i.is_canary ORDER BY i.position"""

_MARK = """
UPDATE replay_items i SET status = m.status, reason = m.reason, is_canary = m.is_canary,
    replayed_at = CASE WHEN m.status = 'replayed' THEN now() END
FROM jsonb_to_recordset(%s::jsonb) AS m(position integer, status text, reason text, is_canary boolean)
WHERE i.replay = %s AND i.position = m.position"""

_SET = """
UPDATE replays SET status = %s, reason = %s,
    started_at = CASE WHEN %s THEN coalesce(started_at, now()) ELSE started_at END,
    ended_at = CASE WHEN %s THEN now() END WHERE id = %s"""
_PACE = """
UPDATE replays SET next_at = greatest(next_at, now() - %s) + make_interval(secs => %s) WHERE id = %s"""


def open_replay(tx: Transaction, items: Sequence[OpenReplay]) -> list[UUID]:
    """Record jobs with all of their items; their ids."""
    for item in items:
        fields = {name: getattr(item, name) for name in item.__struct_fields__ if name != "letters"}
        if tx.rows(_OPEN, as_json({**fields, "size": len(item.letters)})):
            letters, tasks = [one[0] for one in item.letters], [one[1] for one in item.letters]
            tx.execute(_ITEMS, item.id, letters, tasks)
    return [item.id for item in items]


def work_off(tx: Transaction, items: Sequence[WorkOff]) -> list[int]:
    """Work on jobs: how many items of each have their result now. Who comes second leaves a job alone."""
    return [_work_off(tx, item) for item in items]


def _work_off(tx: Transaction, item: WorkOff) -> int:
    found = tx.rows(_LOCK, item.replay)
    if not found or found[0][0] not in ACTIVE:
        return 0
    job = _Job(*found[0])
    ((canaries, is_past, pending),) = tx.rows(_LEFT, item.replay)
    room = len(item.items)
    if job.status != RUNNING and is_past:
        job = _turned(tx, item.replay, job, RUNNING)
    elif job.status != RUNNING:
        job, room = _with_canary(tx, item.replay, job, min(job.canary - canaries, pending))
    if job.status == RUNNING and not pending:
        _set(tx, item.replay, DONE)
        return 0
    if job.status == STOPPED or room == 0:
        return 0
    still = {row[0] for row in tx.rows(_STILL, item.replay, [one.position for one in item.items])}
    planned = [one for one in item.items if one.position in still]
    done = _work_on(tx, item.replay, job, planned[: min(room, _allowed(job))])
    if job.status == RUNNING and done == pending:
        _set(tx, item.replay, DONE)
    return done


def _with_canary(tx: Transaction, replay_id: UUID, job: _Job, room: int) -> tuple[_Job, int]:
    """The job as it is now that its canaries were looked at, and how many items may go.

    ``room`` is how many more canaries there are to be.
    """
    outcomes = tx.rows(_CANARIES, replay_id)
    fallen = [row for row in outcomes if row[1] != COMPLETED and (row[1] is None or row[1] in FINAL)]
    if fallen:
        task_id, outcome, message = fallen[0]
        said = f": {message}" if outcome == "failed" and message else ""
        _set(tx, replay_id, STOPPED, f"canary: task {task_id} {outcome or 'is gone'}{said}")
        return job._replace(status=STOPPED), 0
    if room > 0:
        return _turned(tx, replay_id, job, CANARY), room
    if any(row[1] != COMPLETED for row in outcomes):
        return _turned(tx, replay_id, job, CANARY), 0
    return _turned(tx, replay_id, job, RUNNING), _ALL


def _turned(tx: Transaction, replay_id: UUID, job: _Job, status: str) -> _Job:
    if job.status != status:
        _set(tx, replay_id, status)
    return job._replace(status=status)


def _allowed(job: _Job) -> int:
    """How many items the rate lets go now."""
    if job.rate is None:
        return _ALL
    if job.waited < timedelta():
        return 0
    return 1 + int(min(job.waited, MOST_BURST).total_seconds() * job.rate)


def _work_on(tx: Transaction, replay_id: UUID, job: _Job, planned: Sequence[Planned]) -> int:
    """Replay these items and mark them; what somebody else holds stays pending."""
    by = f"replay:{replay_id}"
    wanted = [one for one in planned if one.objection is None]
    asked = [Replay(one.dead_letter, one.ticket, one.edit, by) for one in wanted]
    answers: dict[int, object] = {one.position: one.objection for one in planned}
    answers |= zip((one.position for one in wanted), replay(tx, asked) if asked else (), strict=True)
    marks = [
        {
            "position": position,
            "status": "replayed" if answer == REPLAYED else "skipped",
            "reason": None if answer == REPLAYED else answer,
            "is_canary": job.status == CANARY and answer == REPLAYED,
        }
        for position, answer in answers.items()
        if answer is not SKIPPED
    ]
    if marks:
        tx.execute(_MARK, as_json(marks), replay_id)
    replayed = sum(mark["status"] == "replayed" for mark in marks)
    if job.rate is not None and replayed:
        tx.execute(_PACE, MOST_BURST, replayed / job.rate, replay_id)
    return len(marks)


def abort_replay(tx: Transaction, items: Sequence[Abort]) -> list[object]:
    """Stop jobs: "aborted", "missing", the state of one that is over, or SKIPPED while it is worked on."""
    return [_change(tx, item.replay, ACTIVE, ABORTED) for item in items]


def resume_replay(tx: Transaction, items: Sequence[Resume]) -> list[object]:
    """Go on with jobs: "pending" or "running", "missing", "completed", or SKIPPED while others hold one.

    What had stopped goes on without its canary; what was aborted goes on where it was.
    """
    answers = []
    for item in items:
        answer = _change(tx, item.replay, (STOPPED,), RUNNING)
        answers.append(_change(tx, item.replay, (ABORTED,), PENDING) if answer == ABORTED else answer)
    return answers


def _change(tx: Transaction, replay_id: UUID, leaves: Sequence[str], status: str) -> object:
    """Turn a job that is in one of the states ``leaves``; what it is then, or what it is all the same."""
    found = tx.rows(_LOCK, replay_id)
    if not found:
        return SKIPPED if tx.rows(_STATUS, replay_id) else MISSING
    if found[0][0] in leaves:
        _set(tx, replay_id, status)
        return status
    return found[0][0]


def _set(tx: Transaction, replay_id: UUID, status: str, reason: str | None = None) -> None:
    tx.execute(_SET, status, reason, status in (CANARY, RUNNING), status not in ACTIVE, replay_id)
