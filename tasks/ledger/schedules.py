"""The verbs that make, change and remove schedules."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.schedule_records import Definition

#: What became of a verb about a schedule. CHANGED: it is another version by now.
DONE, EXISTS, CHANGED, MISSING = "done", "exists", "changed", "missing"


class Make(msgspec.Struct, frozen=True):
    """A new schedule; without a ``next_fire`` it is paused."""

    id: UUID
    definition: Definition
    next_fire: datetime | None
    next_run_at: datetime | None


class Change(msgspec.Struct, frozen=True):
    """A schedule as it is to be, if it still is of ``version`` and at the fire time ``expected``.

    Without a ``next_fire`` it is paused.
    """

    id: UUID
    version: int
    expected: datetime | None
    definition: Definition
    next_fire: datetime | None
    next_run_at: datetime | None


class Remove(msgspec.Struct):
    """Remove a schedule. A repetition takes absence for success."""

    id: UUID
    tried: bool = False


_MAKE = """
INSERT INTO schedules (id, name, definition, overlap, is_active, next_fire, next_run_at)
VALUES (%s, %s, %s::jsonb, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
_CHANGE = """
UPDATE schedules SET version = version + 1, definition = %s::jsonb, overlap = %s, is_active = %s,
    next_fire = %s, next_run_at = %s, updated_at = now()
WHERE id = %s"""
_NAMED = "SELECT id FROM schedules WHERE name = %s"
_THERE = "SELECT id FROM schedules WHERE id = ANY(%s)"
_LOCK = "SELECT id, version, next_fire FROM schedules WHERE id = ANY(%s) ORDER BY id FOR UPDATE SKIP LOCKED"


class Held:
    """The locks on some schedules, as far as nobody else has them."""

    def __init__(self, tx: Transaction, ids: Iterable[UUID]) -> None:
        wanted = sorted(set(ids))
        self._there = {row[0] for row in tx.rows(_THERE, wanted)}
        self._states = {row[0]: row[1:] for row in tx.rows(_LOCK, wanted)}

    def __contains__(self, schedule: UUID) -> bool:
        return schedule in self._states

    def is_at(self, schedule: UUID, version: int, next_fire: datetime | None) -> bool:
        """Whether a schedule that is held is still of a version and at a fire time; it is asked once."""
        return bool(self._states.pop(schedule, None) == (version, next_fire))

    def lack(self, schedule: UUID) -> object:
        """Why a schedule is not held: SKIPPED while somebody else holds it, MISSING if it is not there."""
        return SKIPPED if schedule in self._there else MISSING


def make(tx: Transaction, items: Sequence[Make]) -> list[object]:
    """Make schedules: "done", "exists" (another one has the name), or SKIPPED while one is being made."""
    locked = try_lock(tx, {_lock_of(item) for item in items})
    return [_make(tx, item) if _lock_of(item) in locked else SKIPPED for item in items]


def _make(tx: Transaction, item: Make) -> object:
    asked = item.definition
    is_active = item.next_fire is not None
    tx.execute(
        _MAKE,
        item.id,
        asked.name,
        as_json(asked),
        asked.overlap,
        is_active,
        item.next_fire,
        item.next_run_at,
    )
    found = tx.rows(_NAMED, asked.name)
    return DONE if found and found[0][0] == item.id else EXISTS


def _lock_of(item: Make) -> str:
    return f"schedule {item.definition.name}"


def change(tx: Transaction, items: Sequence[Change]) -> list[object]:
    """Change schedules: "done", "changed" (by somebody else meanwhile), "missing", or SKIPPED."""
    held = Held(tx, (item.id for item in items))
    return [_change(tx, item, held) for item in items]


def _change(tx: Transaction, item: Change, held: Held) -> object:
    if item.id not in held:
        return held.lack(item.id)
    if not held.is_at(item.id, item.version, item.expected):
        return CHANGED
    asked = item.definition
    tx.execute(
        _CHANGE,
        as_json(asked),
        asked.overlap,
        item.next_fire is not None,
        item.next_fire,
        item.next_run_at,
        item.id,
    )
    return DONE


def remove(tx: Transaction, items: Sequence[Remove]) -> list[object]:
    """Remove schedules: "done", "missing", or SKIPPED. What they have fired stays."""
    held = Held(tx, (item.id for item in items))
    outcomes: list[object] = []
    for item in items:
        lack = held.lack(item.id)
        outcomes.append(DONE if item.id in held or (item.tried and lack == MISSING) else lack)
        item.tried = True
    tx.execute("DELETE FROM schedules WHERE id = ANY(%s)", [item.id for item in items if item.id in held])
    return outcomes
