"""The verbs that end an attempt: complete, fail and cancel."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.dead_letters import BURIED
from tasks.ledger.inserts import insert_tasks
from tasks.ledger.progress import Report, report
from tasks.ledger.runs import report_runs
from tasks.ledger.step_outputs import keep
from tasks.ledger.transaction import CANCEL_CHANNEL, PLACE, SKIPPED, Transaction, as_json
from tasks.plans import is_running
from tasks.step_outputs import told_of
from tasks.values import Complete


class Fail(msgspec.Struct, frozen=True):
    """A failed attempt; ``retry_in`` seconds until the next one, None if there is none.

    The last one has a ``fingerprint``.
    """

    id: UUID
    token: int
    code: str
    message: str
    traceback: str | None
    retry_in: float | None
    error_class: str = "Error"
    fingerprint: str | None = None


_COMPLETE = f"""
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS i(id uuid, token bigint, result jsonb)
), locked AS (
    SELECT one.id, i.result FROM (SELECT * FROM input ORDER BY id) AS i CROSS JOIN LATERAL (
        SELECT s.id FROM task_state s WHERE s.id = i.id AND {is_running()} AND s.token = i.token
        FOR NO KEY UPDATE SKIP LOCKED) AS one
)
UPDATE task_state s SET status = 'completed', result = locked.result, error = NULL, progress = 100,
    events = s.events + 1, finished_at = now(), updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id, {PLACE}"""

_FAIL = f"""
WITH input AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb)
    AS i(id uuid, token bigint, code text, message text, traceback text, retry_in float8, error_class text,
        fingerprint text)
), locked AS (
    SELECT s.*, i.traceback, i.retry_in, i.error_class, i.fingerprint,
        jsonb_build_object('code', i.code, 'message', i.message) AS why,
        CASE WHEN i.retry_in IS NULL THEN 'failed' ELSE 'retrying' END AS next,
        now() + make_interval(secs => coalesce(i.retry_in, 0)) AS due
    FROM task_state s JOIN input i USING (id)
    WHERE {is_running()} AND s.token = i.token ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, error, traceback, started_at,
        started_event, ended_event)
    SELECT id, attempt, 'error', next, worker, why, traceback, started_at, running_event, events + 1
    FROM locked
), {BURIED}
UPDATE task_state s SET status = locked.next, error = locked.why, failures = s.failures + 1,
    events = s.events + 1, dispatch = NULL, dispatched_at = NULL, ready_at = locked.due,
    rank = extract(epoch FROM locked.due) - s.priority * %s,
    finished_at = CASE WHEN locked.next = 'failed' THEN now() END, updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id, s.status, {PLACE}"""

_REREAD = "SELECT id, status, token FROM task_state WHERE id = ANY(%s)"

_CANCEL = f"""
WITH target AS (
    SELECT unnest(%s::uuid[]) AS id UNION SELECT id FROM tasks WHERE run_id = ANY(%s)
), locked AS (
    SELECT s.* FROM task_state s JOIN target USING (id)
    WHERE s.status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying')
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, started_at, started_event, ended_event)
    SELECT id, attempt, 'cancelled', 'cancelled', worker, started_at, running_event, events + 1
    FROM locked WHERE status = 'running' AND queue IS NOT NULL
)
UPDATE task_state s SET status = 'cancelled', events = s.events + 1, finished_at = now(), updated_at = now(),
    dispatch = NULL
FROM locked WHERE s.id = locked.id RETURNING s.id, locked.status, s.worker, {PLACE}"""

_LEFT = """
SELECT s.id, s.status, s.status NOT IN ('completed', 'failed', 'cancelled') OR EXISTS (
    SELECT FROM tasks c JOIN task_state u USING (id)
    WHERE c.run_id = s.id AND u.status NOT IN ('completed', 'failed', 'cancelled'))
FROM task_state s WHERE s.id = ANY(%s)"""


def complete(tx: Transaction, items: Sequence[Complete]) -> list[object]:
    """Finish attempts and create their successors: True, False for a stale token, SKIPPED if locked."""
    told = [
        Report(item.id, item.token, 100.0, None, told_of(item.reused), None)
        for item in items
        if item.reused is not None
    ]
    if told:
        report(tx, told)
    rows = [{"id": item.id, "token": item.token, "result": item.result} for item in items]
    done = {row[0] for row in tx.freed_by(tx.moves(_COMPLETE, as_json(rows)))}
    tx.ended |= done
    finished = [item for item in items if item.id in done]
    keep(tx, finished)
    insert_tasks(tx, [task for item in finished for task in item.successors])
    report_runs(tx, [item.run for item in finished if item.run is not None])
    return _outcomes(tx, items, done, expected=("completed",))


def fail(tx: Transaction, items: Sequence[Fail]) -> list[object]:
    """End attempts with an error: True, False for a stale token, SKIPPED if locked."""
    rows = tx.freed_by(tx.moves(_FAIL, as_json(items), tx.seconds_per_priority))
    tx.retried.update(row[0] for row in rows if row[1] == "retrying")
    tx.ended.update(row[0] for row in rows if row[1] == "failed")
    return _outcomes(tx, items, {row[0] for row in rows}, expected=("failed", "retrying"))


def cancel(tx: Transaction, items: Sequence[UUID]) -> list[object]:
    """Cancel tasks with the stages of their runs: "cancelled", "finished", "missing", or SKIPPED."""
    ids = list(items)
    moved = tx.freed_by(tx.moves(_CANCEL, ids, ids))
    for task_id, before, worker, *_ in moved:
        tx.ended.add(task_id)
        if before == "running" and worker is not None:
            tx.notify(CANCEL_CHANNEL, str(task_id))
    left = {row[0]: row[1:] for row in tx.rows(_LEFT, ids)}
    return [_cancelled(*left.get(item, ("missing", False))) for item in items]


def _cancelled(status: str, some_unfinished: bool) -> object:
    if some_unfinished:
        return SKIPPED
    return status if status in ("missing", "cancelled") else "finished"


def _outcomes(
    tx: Transaction, items: Sequence[Any], done: set[UUID], *, expected: Sequence[str]
) -> list[object]:
    """What became of each item. One that matched no row is read again before anybody acknowledges it."""
    missing = [item.id for item in items if item.id not in done]
    found = {row[0]: row[1:] for row in tx.rows(_REREAD, missing)} if missing else {}
    outcomes: list[object] = []
    for item in items:
        status, token = found.get(item.id, (None, None))
        if item.id in done or (status in expected and token == item.token):
            outcomes.append(True)
        else:
            outcomes.append(SKIPPED if status == "running" and token == item.token else False)
    return outcomes
