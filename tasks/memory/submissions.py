"""Submitting in memory: all or nothing, and once for each key."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import msgspec

from tasks.errors import Conflict, DependencyMissing
from tasks.memory.store import Store
from tasks.values import Accepted, NewTask, Once

KEY_LIFETIME = timedelta(hours=24)


def submit(
    store: Store, tasks: Sequence[NewTask], once: Once | None, asked: Sequence[UUID]
) -> list[Accepted]:
    """Record tasks; those whose unique or idempotency key others have are answered with these.

    Raises:
      DependencyMissing: a task depends on one that does not exist.
      Conflict: the key of ``once`` was used for something else.
    """
    held = _held(store, tasks)
    wanted = [task for task in tasks if task.run_id not in held]
    new = [_with_needs(task, held) for task in wanted if task.id not in held]
    known = {task.id for task in new} | set(store.rows)
    for task in new:
        if not set(task.depends_on) <= known:
            raise DependencyMissing(task.id)
    first = _first(store, once, [held.get(one, one) for one in asked]) if once is not None else None
    if first is not None:
        return store.accepted(first)
    store.insert(new)
    return store.accepted(held.get(task.id, task.id) for task in wanted)


def _held(store: Store, tasks: Sequence[NewTask]) -> dict[UUID, UUID]:
    """For each task whose unique key another one of its owner has: the id of that one."""
    holders = {
        (row.new.user_id, row.new.unique_key): row.new.id
        for row in store.rows.values()
        if row.new.unique_key is not None
    }
    held: dict[UUID, UUID] = {}
    for task in tasks:
        if task.unique_key is not None:
            holder = holders.setdefault((task.user_id, task.unique_key), task.id)
            if holder != task.id:
                held[task.id] = holder
    return held


def _with_needs(task: NewTask, held: dict[UUID, UUID]) -> NewTask:
    needs = tuple(dict.fromkeys(held.get(need, need) for need in task.depends_on))
    return task if needs == task.depends_on else msgspec.structs.replace(task, depends_on=needs)


def _first(store: Store, once: Once, asked: list[UUID]) -> list[UUID] | None:
    """The tasks of the first submission with a key; None if this is the first."""
    key, now = (once.caller, once.route, once.key), store.clock.now()
    kept = store.keys.get(key)
    if kept is None or kept[0] < now - KEY_LIFETIME:
        store.keys[key] = now, once.fingerprint, asked
        return None
    if kept[1] != once.fingerprint:
        raise Conflict(
            "This Idempotency-Key was used with another body: repeat that body, or take a new key."
        )
    return kept[2]
