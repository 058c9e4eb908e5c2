"""Unique keys: of all tasks of an owner with the same key there is one, as long as it is on record."""

import zlib
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.values import NewTask

#: Keys share so many locks, since a transaction with a lock for each of 10,000 keys would fill Postgres's
#: table of locks.
LOCKS = 256

Key: TypeAlias = tuple[str, str]

_HOLDERS = """
SELECT t.user_id, t.unique_key, t.id
FROM unnest(%s::text[], %s::text[]) AS k(user_id, unique_key) JOIN tasks t USING (user_id, unique_key)"""

# Of all that moves a task only its removal conflicts with this lock.
_STAYING = "SELECT id FROM task_state WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE SKIP LOCKED"


class Holders:
    """Who has the unique keys of a transaction's submissions; nobody can take or remove them meanwhile."""

    def __init__(self, tx: Transaction, tasks: Iterable[NewTask]) -> None:
        keys = sorted({key for task in tasks if (key := _key(task)) is not None})
        self._locked = try_lock(tx, {_lock_of(key) for key in keys})
        self._known: dict[Key, UUID] = {}
        self._taken: set[Key] = set()
        if keys:
            rows = tx.rows(_HOLDERS, [user for user, _ in keys], [key for _, key in keys])
            self._known = {(user, key): task_id for user, key, task_id in rows}
        known = list(self._known.values())
        self._staying = {row[0] for row in tx.rows(_STAYING, known)} if known else set()

    def replacements(self, tasks: Sequence[NewTask]) -> dict[UUID, UUID] | object:
        """For each task of a submission whose key another task has: the id of that one.

        SKIPPED while another submission, here or in another process, has one of the keys in hand, or while
        the task that has it is being removed.
        """
        found: dict[UUID, UUID] = {}
        new: dict[Key, UUID] = {}
        for task in tasks:
            key = _key(task)
            if key is None:
                continue
            if _lock_of(key) not in self._locked or key in self._taken:
                return SKIPPED
            holder = self._known.get(key)
            if holder is not None and holder not in self._staying:
                return SKIPPED
            holder = holder or new.setdefault(key, task.id)
            if holder != task.id:
                found[task.id] = holder
        self._taken.update(new)
        return found


def _key(task: NewTask) -> Key | None:
    return None if task.unique_key is None else (task.user_id, task.unique_key)


def _lock_of(key: Key) -> str:
    return f"unique key {zlib.crc32(' '.join(key).encode()) % LOCKS}"
