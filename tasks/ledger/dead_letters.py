"""Dead letters: how a final failure becomes one, and the verb replay, which opens a new round of its task."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.ledger.inserts import SECONDS_PER_PRIORITY
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.states import CANCELLED, COMPLETED, FAILED, QUEUED, RUNNING

#: A part of a statement whose rows ``locked`` end with ``next``; it buries those that fail for good. They
#: bring ``why`` (code and message), ``error_class`` and ``traceback``.
BURIED = """
buried AS (
    INSERT INTO dead_letters (task_id, task_type, queue_name, user_id, attempt, error_class, code, message,
        traceback)
    SELECT l.id, t.task_type, l.queue, t.user_id, l.attempt, l.error_class, l.why->>'code',
        l.why->>'message', l.traceback
    FROM locked l JOIN tasks t USING (id) WHERE l.next = 'failed'
)"""


class Replay(msgspec.Struct, frozen=True):
    """Run the task of a dead letter again, with a new budget of attempts."""

    dead_letter: UUID


#: What a replay may answer.
REPLAYED, MISSING, RESOLVED, NOT_FAILED, RUN_IS_OVER = (
    "replayed",
    "missing",
    "resolved",
    "not_failed",
    "run_is_over",
)

_ASKED = """
SELECT d.id, d.task_id, t.run_id FROM dead_letters d JOIN tasks t ON t.id = d.task_id WHERE d.id = ANY(%s)"""

# With the failed stage its run is reopened, and so is what the failure of the run had cancelled.
_LOCK = """
SELECT s.id, s.status FROM task_state s
WHERE s.id = ANY(%s) OR s.id IN (
    SELECT c.id FROM tasks c JOIN task_state u USING (id) WHERE c.run_id = ANY(%s) AND u.status = 'cancelled')
ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED"""

_SIBLINGS = """
SELECT c.run_id, c.id FROM tasks c JOIN task_state u USING (id)
WHERE c.run_id = ANY(%s) AND u.status = 'cancelled'"""

_RESOLVE = """
UPDATE dead_letters SET resolution = 'replayed', resolved_at = now()
WHERE id = %s AND resolution IS NULL RETURNING id"""

# Final events are derived from columns that are cleared now: they become rows.
_REOPEN = f"""
WITH old AS (SELECT * FROM task_state WHERE id = ANY(%s)), told AS (
    INSERT INTO events (task_id, event_id, kind, status, message, at)
    SELECT id, events, 'state', status, CASE WHEN status = 'failed' THEN error->>'message' END, finished_at
    FROM old
    UNION ALL
    SELECT id, events + 1, 'state', CASE WHEN queue IS NULL THEN 'running' ELSE 'queued' END, NULL, now()
    FROM old
)
UPDATE task_state s SET status = CASE WHEN s.queue IS NULL THEN 'running' ELSE 'queued' END,
    failures = 0, deaths = 0, suspect = false, token = NULL, worker = NULL, dispatch = NULL,
    dispatched_at = NULL, error = NULL, finished_at = NULL, ready_at = now(), events = s.events + 1,
    rank = extract(epoch FROM now()) - t.priority * {SECONDS_PER_PRIORITY}, updated_at = now(),
    started_at = CASE WHEN s.queue IS NULL THEN s.started_at END,
    running_event = CASE WHEN s.queue IS NULL THEN s.running_event END
FROM tasks t WHERE t.id = s.id AND s.id = ANY(%s)"""


def replay(tx: Transaction, items: Sequence[Replay]) -> list[object]:
    """Open a new round for the tasks of dead letters: what became of each, or SKIPPED if locked.

    A dead letter is replayed once, however many ask for it at the same time.
    """
    asked = {row[0]: row[1:] for row in tx.rows(_ASKED, [item.dead_letter for item in items])}
    runs = [run_id for _, run_id in asked.values() if run_id is not None]
    wanted = [task_id for task_id, _ in asked.values()] + runs
    locked = dict(tx.rows(_LOCK, wanted, runs))
    siblings: dict[UUID, list[UUID]] = {}
    for run_id, task_id in tx.rows(_SIBLINGS, runs) if runs else []:
        siblings.setdefault(run_id, []).append(task_id)
    return [_replay_one(tx, item, asked.get(item.dead_letter), locked, siblings) for item in items]


def _replay_one(
    tx: Transaction,
    item: Replay,
    asked: Sequence[Any] | None,
    locked: dict[UUID, str],
    siblings: dict[UUID, list[UUID]],
) -> object:
    if asked is None:
        return MISSING
    task_id, run_id = asked
    if task_id not in locked or (run_id is not None and run_id not in locked):
        return SKIPPED
    if run_id is not None and locked[run_id] in (CANCELLED, COMPLETED):
        return RUN_IS_OVER
    if locked[task_id] != FAILED:
        return NOT_FAILED
    reopened = [task_id]
    if run_id is not None and locked[run_id] == FAILED:
        reopened += [run_id, *siblings.get(run_id, [])]
    if not all(one in locked for one in reopened):
        return SKIPPED
    if not tx.rows(_RESOLVE, item.dead_letter):
        return RESOLVED
    tx.execute(_REOPEN, reopened, reopened)
    locked.update((one, RUNNING if one == run_id else QUEUED) for one in reopened)
    tx.made_ready(len(reopened))
    return REPLAYED
