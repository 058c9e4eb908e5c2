"""Dead letters: how a final failure becomes one, and the verb replay, which opens a new round of its task."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.ids import new_id
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
    """Run the task of a dead letter again, with a new budget. Repeated, it knows its ``ticket`` again."""

    dead_letter: UUID
    ticket: UUID = msgspec.field(default_factory=new_id)


#: What a replay may answer.
REPLAYED, MISSING, RESOLVED, NOT_FAILED, RUN_IS_OVER = (
    "replayed",
    "missing",
    "resolved",
    "not_failed",
    "run_is_over",
)

_ASKED = """
SELECT d.id, d.task_id, t.run_id, d.resolved_by
FROM dead_letters d JOIN tasks t ON t.id = d.task_id WHERE d.id = ANY(%s)"""

_LOCK = """
SELECT s.id, s.status FROM task_state s
WHERE s.id IN (SELECT unnest(%s::uuid[]) UNION SELECT c.id FROM tasks c WHERE c.run_id = ANY(%s))
AND (s.status IN ('failed', 'cancelled') OR s.id = ANY(%s))
ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED"""

_FALLEN = """
SELECT c.run_id, c.id, u.status FROM tasks c JOIN task_state u USING (id)
WHERE c.run_id = ANY(%s) AND u.status IN ('failed', 'cancelled')"""

_OPEN = """
SELECT id FROM dead_letters WHERE task_id = ANY(%s) AND resolution IS NULL"""
_OPEN_LOCKED = _OPEN + " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"

_RESOLVE = """
UPDATE dead_letters SET resolution = 'replayed', resolved_at = now(), resolved_by = %s WHERE id = ANY(%s)"""

_NEXT_ROUND = "UPDATE task_state SET round = round + 1 WHERE id = ANY(%s)"

# Final events are derived from columns that are cleared now: they become rows.
_REOPEN = """
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
    rank = extract(epoch FROM now()) - t.priority * %s, updated_at = now(),
    started_at = CASE WHEN s.queue IS NULL THEN s.started_at END,
    running_event = CASE WHEN s.queue IS NULL THEN s.running_event END
FROM tasks t WHERE t.id = s.id AND s.id = ANY(%s)"""


class _Scene:
    """What the replays of a transaction are about, locked as far as nobody else holds it."""

    def __init__(self, tx: Transaction, items: Sequence[Replay]) -> None:
        self.asked = {row[0]: row[1:] for row in tx.rows(_ASKED, [item.dead_letter for item in items])}
        runs = [run_id for _, run_id, _ in self.asked.values() if run_id is not None]
        wanted = [task_id for task_id, _, _ in self.asked.values()] + runs
        self.locked: dict[UUID, str] = dict(tx.rows(_LOCK, wanted, runs, wanted))
        self._fallen: list[tuple[UUID, UUID, str]] = tx.rows(_FALLEN, runs) if runs else []

    def to_reopen(self, task_id: UUID, run_id: UUID | None) -> list[UUID]:
        """The task; with a stage all that failed beside it, its failed run, and what that had cancelled."""
        if run_id is None:
            return [task_id]
        run_failed = self.locked[run_id] == FAILED
        beside = [
            one
            for of_run, one, status in self._fallen
            if of_run == run_id and one != task_id and (status == FAILED or run_failed)
        ]
        return [task_id, *beside, *([run_id] if run_failed else [])]


def replay(tx: Transaction, items: Sequence[Replay]) -> list[object]:
    """Open a new round for the tasks of dead letters: what became of each, or SKIPPED if locked.

    A dead letter is replayed once, however many ask for it at the same time.
    """
    scene = _Scene(tx, items)
    return [_replay_one(tx, item, scene) for item in items]


def _replay_one(tx: Transaction, item: Replay, scene: _Scene) -> object:
    if item.dead_letter not in scene.asked:
        return MISSING
    task_id, run_id, resolved_by = scene.asked[item.dead_letter]
    if resolved_by == item.ticket:  # an earlier commit of unknown outcome went through
        return REPLAYED
    if task_id not in scene.locked or (run_id is not None and run_id not in scene.locked):
        return SKIPPED
    if run_id is not None and scene.locked[run_id] in (CANCELLED, COMPLETED):
        return RUN_IS_OVER
    if scene.locked[task_id] != FAILED:
        return NOT_FAILED
    reopened = scene.to_reopen(task_id, run_id)
    if not all(one in scene.locked for one in reopened):
        return SKIPPED
    letters = {row[0] for row in tx.rows(_OPEN_LOCKED, reopened)}
    if letters != {row[0] for row in tx.rows(_OPEN, reopened)}:  # its copy is being sent
        return SKIPPED
    if item.dead_letter not in letters:
        return RESOLVED
    tx.execute(_RESOLVE, item.ticket, list(letters))
    tx.execute(_REOPEN, reopened, tx.seconds_per_priority, reopened)
    tx.execute(_NEXT_ROUND, [task_id] if run_id is None else [task_id, run_id])
    scene.locked.update((one, RUNNING if one == run_id else QUEUED) for one in reopened)
    tx.made_ready(len(reopened))
    return REPLAYED
