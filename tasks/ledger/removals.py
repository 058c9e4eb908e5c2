"""Removing tasks that are over from the record: the verb delete."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from tasks.ledger import statistics, step_outputs
from tasks.ledger.rounds import keep_outcomes
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.states import FINAL

#: What a deletion may answer.
DELETED, UNFINISHED, MISSING, STAGE = "deleted", "unfinished", "missing", "stage"

#: Where the rows of a task are, by the column that names it. Its dependencies go by the verb unlink, and
#: idempotency keys by their age.
_ROWS = (
    ("dead_letters", "task_id"),
    ("deliveries", "task_id"),
    ("snapshots", "task_id"),
    ("events", "task_id"),
    ("attempts", "task_id"),
    ("task_state", "id"),
    ("tasks", "id"),
)


class Delete(msgspec.Struct):
    """Remove a task that is over. A repetition takes absence for success."""

    task_id: UUID
    tried: bool = False


class Part(NamedTuple):
    """A task that is to go, or a stage of it: ``whole`` is the task asked for."""

    whole: UUID
    id: UUID
    status: str
    is_stage: bool


_PARTS = """
SELECT w.id, t.id, s.status, w.run_id IS NOT NULL FROM tasks w
JOIN LATERAL (SELECT w.id UNION ALL SELECT c.id FROM tasks c WHERE c.run_id = w.id) AS t ON true
JOIN task_state s ON s.id = t.id WHERE w.id = ANY(%s)"""

_LOCK = """
SELECT id FROM task_state WHERE id = ANY(%s) AND status IN ('completed', 'failed', 'cancelled')
ORDER BY id FOR UPDATE SKIP LOCKED"""

_LETTERS = "SELECT id, task_id FROM dead_letters WHERE task_id = ANY(%s)"
_LOCK_LETTERS = _LETTERS + " ORDER BY id FOR UPDATE SKIP LOCKED"

_KEEP_PAYLOADS = """
UPDATE dead_letters d SET payload = t.payload FROM tasks t
WHERE t.id = ANY(%s) AND d.task_id = t.id AND d.payload IS NULL"""

# What has completed goes on counting as completed for those that also wait for something else. A row that is
# locked belongs to one that is being unblocked or unlinked just now.
_MET = """
WITH met AS (
    SELECT d.task_id, d.needs FROM dependencies d JOIN task_state s ON s.id = d.needs
    WHERE d.needs = ANY(%s) AND s.status = 'completed' FOR UPDATE OF d SKIP LOCKED
)
DELETE FROM dependencies d USING met WHERE (d.task_id, d.needs) = (met.task_id, met.needs)"""


def delete(tx: Transaction, items: Sequence[Delete]) -> list[object]:
    """Remove whole tasks that are over, runs with all their stages.

    "deleted", "unfinished" (it, or a stage of it), "missing", "stage" (its run is to be deleted), or SKIPPED.
    """
    parts = parts_of(tx, [item.task_id for item in items])
    final = [part.id for found in parts.values() for part in found if part.status in FINAL]
    held = Held(tx, final)
    outcomes = [_outcome(item, parts.get(item.task_id, []), held) for item in items]
    going = {item.task_id for item, outcome in zip(items, outcomes, strict=True) if outcome == DELETED}
    remove(tx, [part.id for one in going for part in parts.get(one, [])])
    for item in items:
        item.tried = True
    return outcomes


def _outcome(item: Delete, parts: Sequence[Part], held: "Held") -> object:
    if not parts:
        return DELETED if item.tried else MISSING
    if parts[0].is_stage:
        return STAGE
    if any(part.status not in FINAL for part in parts):
        return UNFINISHED
    return DELETED if held.can_go([part.id for part in parts]) else SKIPPED


def parts_of(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, list[Part]]:
    """The tasks of these ids with all their stages, by the id asked for; the task itself comes first."""
    found: dict[UUID, list[Part]] = {}
    for row in tx.rows(_PARTS, list(ids)) if ids else ():
        found.setdefault(row[0], []).append(Part(*row))
    return found


class Held:
    """The locks on tasks that are over and on their dead letters, as far as nobody else has them."""

    def __init__(self, tx: Transaction, ids: Sequence[UUID]) -> None:
        self._locked = {row[0] for row in tx.rows(_LOCK, list(ids))} if ids else set()
        locked = list(self._locked)
        letters = set(tx.rows(_LETTERS, locked)) if locked else set()
        free = set(tx.rows(_LOCK_LETTERS, locked)) if letters else set()
        self._locked -= {task_id for _, task_id in letters - free}  # the copy of one is being sent

    def can_go(self, ids: Sequence[UUID]) -> bool:
        """Whether all of these are ours to remove."""
        return self._locked.issuperset(ids)


def remove(tx: Transaction, ids: Sequence[UUID], *, with_letters: bool = True) -> None:
    """Remove tasks with all they had. The caller holds their locks (see `Held`), and names whole runs.

    Their outputs answer for no other task any more. Without ``with_letters`` their dead letters stay: the
    caller has resolved them.

    A blocked task that depends on one of them goes on if that had completed, else it fails.
    """
    if not ids:
        return
    gone = list(ids)
    statistics.forget(tx, gone)
    tx.execute(_MET, gone)
    step_outputs.forget_of(tx, gone)
    keep_outcomes(tx, gone)
    if not with_letters:
        tx.execute(_KEEP_PAYLOADS, gone)
    for table, column in _ROWS if with_letters else _ROWS[1:]:
        tx.execute(f"DELETE FROM {table} WHERE {column} = ANY(%s)", gone)
    tx.ended.update(gone)
