"""Dependencies: what a task waits for when it is submitted, and the verb that unblocks it.

Submit locks what a task depends on, so that nothing of it can finish unseen: a finish comes before the lock,
and is seen, or after the commit, and sees the dependent. Whoever finishes looks at the dependents after its
commit: of two last dependencies that finish at once, the later commit sees both.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from tasks.errors import DependencyMissing
from tasks.ledger.dead_letters import BURIED
from tasks.ledger.transaction import SKIPPED, Transaction, as_array
from tasks.states import COMPLETED, FINAL
from tasks.values import NewTask

BATCH = 500


class Unlink(msgspec.Struct, frozen=True):
    """Forget what tasks needed that wait no more, because they were cancelled."""


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
        missing = needed - set(self._known)
        if missing:
            return DependencyMissing(next(task.id for task in tasks if missing & set(task.depends_on)))
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
_DEPENDENTS = "SELECT DISTINCT task_id FROM dependencies WHERE needs = ANY(%s::uuid[])"

# Which of the blocked tasks can move: all they need is completed, or something of it never will be. What is
# gone cannot even be replayed: to wait for it would be in vain.
_MOVABLE = """
SELECT s.id FROM task_state s JOIN tasks t USING (id)
WHERE s.status = 'blocked' AND {which} AND (
    NOT EXISTS (SELECT FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
        WHERE d.task_id = s.id AND n.status IS DISTINCT FROM 'completed')
    OR EXISTS (SELECT FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
        WHERE d.task_id = s.id AND (n.id IS NULL
            OR (t.on_dependency_failure = 'fail' AND n.status IN ('failed', 'cancelled')))))
ORDER BY s.id LIMIT %s"""
_ASKED_FOR = _MOVABLE.format(which="s.id = ANY(%s)")
_ANY = _MOVABLE.format(which="true")

# What was movable when it was looked for may not be any more when it is locked: it is judged again.
_UNBLOCK = f"""
WITH judged AS (
    SELECT s.*, greatest(s.ready_at, now()) AS due, (
        SELECT format('Task %%s, on which it depends, %%s.', d.needs,
            CASE WHEN n.id IS NULL THEN 'is gone' WHEN n.status = 'cancelled' THEN 'was cancelled'
            ELSE 'failed' END)
        FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
        WHERE d.task_id = s.id AND (n.id IS NULL
            OR (t.on_dependency_failure = 'fail' AND n.status IN ('failed', 'cancelled'))) LIMIT 1) AS blame,
        EXISTS (SELECT FROM dependencies d LEFT JOIN task_state n ON n.id = d.needs
            WHERE d.task_id = s.id AND n.status IS DISTINCT FROM 'completed') AS waits
    FROM task_state s JOIN tasks t USING (id) WHERE s.id = ANY(%s) AND s.status = 'blocked'
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), locked AS (
    SELECT *, CASE WHEN blame IS NOT NULL THEN 'failed' WHEN due > now() THEN 'scheduled' ELSE 'queued' END
        AS next, jsonb_build_object('code', 'dependency_failed', 'message', blame) AS why,
        'DependencyFailed' AS error_class, NULL AS traceback, NULL AS fingerprint
    FROM judged WHERE blame IS NOT NULL OR NOT waits
), told AS (
    INSERT INTO events (task_id, event_id, kind, status)
    SELECT id, events + 1, 'state', next FROM locked WHERE next <> 'failed'
), unlinked AS (
    DELETE FROM dependencies d USING locked WHERE d.task_id = locked.id
), {BURIED}
UPDATE task_state s SET status = next, events = s.events + 1, ready_at = due, updated_at = now(),
    rank = extract(epoch FROM due) - s.priority * %s,
    error = CASE WHEN next = 'failed' THEN why END,
    finished_at = CASE WHEN next = 'failed' THEN now() END
FROM locked WHERE s.id = locked.id RETURNING s.id, s.status"""

_UNLINK = """
DELETE FROM dependencies d
WHERE NOT EXISTS (SELECT FROM task_state s WHERE s.id = d.task_id AND s.status = 'blocked')"""


def lock_needs(tx: Transaction, tasks: Iterable[NewTask]) -> Needs:
    """Lock what these tasks depend on until the commit."""
    ids = sorted({need for task in tasks for need in task.depends_on})
    if not ids:
        return Needs({}, {})
    return Needs(dict(tx.rows(_KNOWN, ids)), dict(tx.rows(_LOCK, ids)))


def link(tx: Transaction, tasks: Sequence[NewTask], blocked: set[UUID], hopeless: Sequence[UUID]) -> None:
    """Record what blocked ones of new tasks wait for; the hopeless are looked at after the commit."""
    waiting = [task for task in tasks if task.id in blocked]
    if waiting:
        pairs = [(task.id, need) for task in waiting for need in task.depends_on]
        tx.execute(_LINK, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
        tx.execute(_TELL_BLOCKED, [task.id for task in waiting])
    _look_at(tx, hopeless)


def _look_at(tx: Transaction, ids: Sequence[UUID]) -> None:
    for at in range(0, len(ids), BATCH):
        part = tuple(ids[at : at + BATCH])
        tx.follow_up("unblock", Unblock(part), len(part))


def follow(tx: Transaction) -> None:
    """Have those looked at, after the commit, that wait for what has ended in this transaction."""
    if tx.ended:
        _look_at(tx, [row[0] for row in tx.rows(_DEPENDENTS, as_array(tx.ended))])


def unblock(tx: Transaction, items: Sequence[Unblock]) -> list[object]:
    """Move blocked tasks that need not wait any more: how many, or SKIPPED if one of them is locked."""
    return [_unblock(tx, item) for item in items]


def _unblock(tx: Transaction, item: Unblock) -> object:
    found = tx.rows(_ASKED_FOR, list(item.ids), len(item.ids)) if item.ids else tx.rows(_ANY, BATCH)
    movable = [row[0] for row in found]
    if not movable:
        return 0
    moved = tx.moves(_UNBLOCK, movable, tx.seconds_per_priority)
    tx.fell([task_id for task_id, status in moved if status == "failed"])
    tx.made_ready(len(moved))
    return len(moved) if len(moved) == len(movable) or not item.ids else SKIPPED


def unlink(tx: Transaction, items: Sequence[Unlink]) -> list[None]:
    """Forget the dependencies of tasks that wait no more."""
    tx.execute(_UNLINK)
    return [None for _ in items]
