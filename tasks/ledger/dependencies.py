"""Dependencies: what a task waits for when it is submitted, and the verb that unblocks it.

Submit locks what a task depends on, so that nothing of it can finish unseen: a finish comes before the lock,
and is seen, or after the commit, and sees the dependent. Whoever finishes looks at the dependents after its
commit: of two last dependencies that finish at once, the later commit sees both.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from tasks.errors import InvalidField
from tasks.ledger.inserts import SECONDS_PER_PRIORITY
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.states import COMPLETED, FINAL
from tasks.values import NewTask

BATCH = 500


class Unblock(msgspec.Struct, frozen=True):
    """Look whether these blocked tasks may go on, or cannot any more; without ids at some that can move."""

    ids: tuple[UUID, ...] = ()


class Needs:
    """What the tasks of a transaction depend on, locked against finishing."""

    def __init__(self, known: dict[UUID, str], locked: dict[UUID, str]) -> None:
        self._known = known
        self._locked = locked

    def objection(self, tasks: Sequence[NewTask]) -> object | None:
        """Why a submission cannot be recorded now: an error, or SKIPPED while a dependency is locked."""
        own = {task.id for task in tasks}
        needed = {need for task in tasks for need in task.depends_on} - own
        missing = sorted(str(need) for need in needed - set(self._known))
        if missing:
            return InvalidField.of("depends_on", f"there is no task {missing[0]}: depend on tasks that exist")
        return SKIPPED if needed - set(self._locked) else None

    def are_met(self, task: NewTask) -> bool:
        """Whether a task has nothing to wait for."""
        return all(self._locked.get(need) == COMPLETED for need in task.depends_on)

    def cannot_be_met(self, task: NewTask) -> bool:
        """Whether a dependency of a task has already ended badly."""
        return any(self._locked.get(need, "") in FINAL - {COMPLETED} for need in task.depends_on)


_LOCK = "SELECT id, status FROM task_state WHERE id = ANY(%s) ORDER BY id FOR SHARE SKIP LOCKED"
_KNOWN = "SELECT id, status FROM task_state WHERE id = ANY(%s)"
_LINK = """
INSERT INTO dependencies (task_id, needs) SELECT * FROM unnest(%s::uuid[], %s::uuid[])
ON CONFLICT DO NOTHING"""
_TELL_BLOCKED = """
INSERT INTO events (task_id, event_id, kind, status, at)
SELECT id, 1, 'state', 'blocked', created_at FROM tasks WHERE id = ANY(%s) ON CONFLICT DO NOTHING"""
_DEPENDENTS = "SELECT DISTINCT task_id FROM dependencies WHERE needs = ANY(%s)"

# Which of the blocked tasks can move: all they need is completed, or something of it never will be.
_MOVABLE = """
SELECT s.id FROM task_state s JOIN tasks t USING (id)
WHERE s.status = 'blocked' AND {which} AND (
    NOT EXISTS (SELECT FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
        WHERE d.task_id = s.id AND n.status IS DISTINCT FROM 'completed')
    OR (t.on_dependency_failure = 'fail' AND EXISTS (
        SELECT FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
        WHERE d.task_id = s.id AND (n.status IN ('failed', 'cancelled') OR n.id IS NULL))))
ORDER BY s.id LIMIT %s"""
_ASKED_FOR = _MOVABLE.format(which="s.id = ANY(%s)")
_ANY = _MOVABLE.format(which="true")

_UNBLOCK = f"""
WITH locked AS (
    SELECT s.id, s.events, t.priority, greatest(s.ready_at, now()) AS due, (
        SELECT format('Task %%s, on which it depends, %%s.', d.needs,
            CASE WHEN n.id IS NULL THEN 'is gone' WHEN n.status = 'cancelled' THEN 'was cancelled'
            ELSE 'failed' END)
        FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
        WHERE d.task_id = s.id AND n.status IS DISTINCT FROM 'completed' LIMIT 1) AS why
    FROM task_state s JOIN tasks t USING (id) WHERE s.id = ANY(%s) AND s.status = 'blocked'
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), moved AS (
    SELECT *, CASE WHEN why IS NOT NULL THEN 'failed' WHEN due > now() THEN 'scheduled' ELSE 'queued' END
        AS next
    FROM locked
), told AS (
    INSERT INTO events (task_id, event_id, kind, status)
    SELECT id, events + 1, 'state', next FROM moved WHERE next <> 'failed'
)
UPDATE task_state s SET status = next, events = s.events + 1, ready_at = due, updated_at = now(),
    rank = extract(epoch FROM due) - priority * {SECONDS_PER_PRIORITY},
    error = CASE WHEN next = 'failed'
        THEN jsonb_build_object('code', 'dependency_failed', 'message', why) END,
    finished_at = CASE WHEN next = 'failed' THEN now() END
FROM moved WHERE s.id = moved.id RETURNING s.id, s.status"""


def lock_needs(tx: Transaction, tasks: Iterable[NewTask]) -> Needs:
    """Lock what these tasks depend on until the commit."""
    ids = sorted({need for task in tasks for need in task.depends_on})
    if not ids:
        return Needs({}, {})
    return Needs(dict(tx.rows(_KNOWN, ids)), dict(tx.rows(_LOCK, ids)))


def link(
    tx: Transaction, tasks: Sequence[NewTask], blocked: Sequence[UUID], hopeless: Sequence[UUID]
) -> None:
    """Record what tasks depend on; those that cannot be met any more are looked at after the commit."""
    pairs = [(task.id, need) for task in tasks for need in task.depends_on]
    if pairs:
        tx.execute(_LINK, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if blocked:
        tx.execute(_TELL_BLOCKED, list(blocked))
    if hopeless:
        tx.follow_up("unblock", Unblock(tuple(hopeless)))


def follow(tx: Transaction) -> None:
    """Have those looked at, after the commit, that wait for what has ended in this transaction."""
    if tx.ended:
        dependents = tuple(row[0] for row in tx.rows(_DEPENDENTS, list(tx.ended)))
        if dependents:
            tx.follow_up("unblock", Unblock(dependents))


def unblock(tx: Transaction, items: Sequence[Unblock]) -> list[object]:
    """Move blocked tasks that need not wait any more: how many, or SKIPPED if one of them is locked."""
    return [_unblock(tx, item) for item in items]


def _unblock(tx: Transaction, item: Unblock) -> object:
    found = tx.rows(_ASKED_FOR, list(item.ids), len(item.ids)) if item.ids else tx.rows(_ANY, BATCH)
    movable = [row[0] for row in found]
    if not movable:
        return 0
    moved = tx.rows(_UNBLOCK, movable)
    tx.ended.update(task_id for task_id, status in moved if status == "failed")
    tx.made_ready(len(moved))
    return len(moved) if len(moved) == len(movable) or not item.ids else SKIPPED
