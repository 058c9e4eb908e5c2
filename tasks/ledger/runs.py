"""The verbs that move a run: create what joins and follow-ups are due, end it, tell how far it is."""

from collections.abc import Sequence
from uuid import UUID

from tasks.ledger.inserts import insert_tasks
from tasks.ledger.transaction import (
    CANCEL_CHANNEL,
    PLACE,
    SKIPPED,
    Transaction,
    as_json,
    left_behind,
    skipped,
)
from tasks.values import Advance, HandOut, RunProgress

_LOCK = """
SELECT id, status, round FROM task_state WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""

_LOCK_HOLDERS = """
SELECT id, token FROM task_state WHERE id = ANY(%s) AND status = 'running'
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""

_EXISTS = "SELECT id FROM task_state WHERE id = ANY(%s)"

_END = """
UPDATE task_state SET status = %s, result = %s::jsonb, error = %s::jsonb,
    progress = CASE WHEN %s = 'completed' THEN 100 ELSE progress END,
    events = events + 1, finished_at = now(), updated_at = now(), started_at = coalesce(started_at, now())
WHERE id = %s RETURNING id"""

_RUN_PROGRESS = """
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS i(run_id uuid, progress real, phase text,
        details jsonb)
), best AS (
    SELECT DISTINCT ON (run_id) * FROM input ORDER BY run_id, progress DESC
), locked AS (
    SELECT s.id, s.events FROM task_state s JOIN best ON s.id = best.run_id
    WHERE s.status = 'running' AND s.progress < best.progress
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status, phase, progress, data)
    SELECT locked.id, locked.events + 1, 'progress', 'running', best.phase, best.progress,
        best.details
    FROM locked JOIN best ON best.run_id = locked.id
)
UPDATE task_state s SET progress = best.progress, phase = best.phase, details = best.details,
    events = s.events + 1, updated_at = now()
FROM locked, best WHERE s.id = locked.id AND best.run_id = s.id RETURNING s.id"""

# Without a version only where it is to be kept: a process that knew no pipeline began the run.
_PIN = """
UPDATE tasks SET overrides = coalesce(overrides, '{}') - 'version'
    || jsonb_strip_nulls(jsonb_build_object('version', %s::text))
WHERE id = %s AND (%s OR overrides->>'version' IS NULL)"""

_CLEAR = f"""
WITH locked AS (
    SELECT s.* FROM task_state s JOIN tasks t USING (id)
    WHERE t.run_id = %s AND s.status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying')
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, started_at, started_event, ended_event)
    SELECT id, attempt, 'cancelled', 'cancelled', worker, started_at, running_event, events + 1
    FROM locked WHERE status = 'running'
)
UPDATE task_state s SET status = 'cancelled', events = s.events + 1, finished_at = now(), updated_at = now(),
    dispatch = NULL
FROM locked WHERE s.id = locked.id RETURNING s.id, locked.status, {PLACE}"""

_UNFINISHED = ("scheduled", "blocked", "queued", "running", "retrying")


def advance(tx: Transaction, items: Sequence[Advance]) -> list[object]:
    """Apply decisions under the lock of each run: True, False for a run that is over, SKIPPED if locked.

    False too for what was decided about an older round: the run goes on, and is decided about anew.

    Two settlers of the same run do no harm: a stage is inserted once (unique run, stage, index), and only
    an unfinished run ends.
    """
    ids = [item.run_id for item in items]
    locked = {row[0]: (row[1], row[2]) for row in tx.rows(_LOCK, ids)}
    known = {row[0] for row in tx.rows(_EXISTS, ids)}
    return [_apply(tx, item, locked, known) for item in items]


def _apply(tx: Transaction, item: Advance, locked: dict[UUID, tuple[str, int]], known: set[UUID]) -> object:
    if item.run_id not in locked:
        return SKIPPED if item.run_id in known else False
    status, current_round = locked[item.run_id]
    going_on = status in _UNFINISHED
    if going_on and item.round != current_round:
        return False
    if going_on and item.status is None:
        insert_tasks(tx, item.successors)
        report_runs(tx, [item.progress] if item.progress is not None else [])
        if item.version is not None:
            pin(tx, item.run_id, item.version)
        return True
    if going_on and item.status is not None:
        _end(tx, item)
        locked[item.run_id] = (item.status, current_round)
    clear(tx, item.run_id)
    return going_on


def hand_out(tx: Transaction, items: Sequence[HandOut]) -> list[object]:
    """Insert what attempts hand out: True, False for a stale token, SKIPPED if locked."""
    held = dict(tx.rows(_LOCK_HOLDERS, [item.id for item in items]))
    insert_tasks(tx, [task for item in items if held.get(item.id) == item.token for task in item.tasks])
    left = left_behind(tx, "running", "token", [item.id for item in items if item.id not in held])
    return [held.get(item.id) == item.token or skipped(left.get(item.id) == item.token) for item in items]


def report_runs(tx: Transaction, items: Sequence[RunProgress]) -> list[object]:
    """Tell how far runs are, of each the farthest; what is locked is told by the next report."""
    if items:
        tx.moves(_RUN_PROGRESS, as_json(items))
    return [True for _ in items]


def pin(tx: Transaction, run_id: UUID, version: str | None, *, anew: bool = False) -> None:
    """Have a run go by a version of its pipeline from now on: by its first one, or ``anew`` by another.

    None leaves it to the process that begins it.
    """
    tx.execute(_PIN, version, run_id, anew)


def _end(tx: Transaction, item: Advance) -> None:
    result = None if item.status != "completed" else as_json(item.result)
    error = None if item.error is None else as_json(item.error)
    tx.moves(_END, item.status, result, error, item.status, item.run_id)
    tx.ended.add(item.run_id)


def clear(tx: Transaction, run_id: UUID) -> None:
    """Cancel what a finished run left behind; rows locked now are found by the next sweep."""
    for task_id, before, *_ in tx.freed_by(tx.moves(_CLEAR, run_id)):
        tx.ended.add(task_id)
        if before == "running":
            tx.notify(CANCEL_CHANNEL, str(task_id))
