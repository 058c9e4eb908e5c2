"""The outputs that are kept for the same input (see `actors.step_cache`), and the verb forget.

Whoever writes a key holds the lock on its name, so nobody waits for a row. An output whose key is locked is
not kept: another task keeps one for it just now.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import Transaction, as_json
from tasks.values import Complete

BATCH = 500


class Forget(msgspec.Struct, frozen=True):
    """Forget a batch of the outputs whose time is over."""


# The results are those that this transaction has just written.
_KEEP = """
INSERT INTO step_outputs AS o (key, result, task_id, expires_at)
SELECT decode(k.key, 'base64'), s.result, s.id, now() + make_interval(secs => k.seconds)
FROM jsonb_to_recordset(%s::jsonb) AS k(id uuid, key text, seconds float8) JOIN task_state s USING (id)
ON CONFLICT (key) DO UPDATE
SET result = excluded.result, task_id = excluded.task_id, expires_at = excluded.expires_at"""

_EXPIRED = "SELECT key FROM step_outputs WHERE expires_at <= now() ORDER BY expires_at LIMIT %s"
_DROP_EXPIRED = "DELETE FROM step_outputs WHERE key = ANY(%s) AND expires_at <= now() RETURNING key"

_OF_TASKS = "SELECT key FROM step_outputs WHERE task_id = ANY(%s)"
_DROP_OF_TASKS = "DELETE FROM step_outputs WHERE key = ANY(%s) AND task_id = ANY(%s)"


def keep(tx: Transaction, finished: Sequence[Complete]) -> None:
    """Keep the outputs of tasks that this transaction has completed, in the place of earlier ones."""
    by_key = {item.keep.key: item for item in finished if item.keep is not None}
    rows = [
        {"id": by_key[key].id, "key": key, "seconds": kept.seconds}
        for key in _lock(tx, list(by_key))
        if (kept := by_key[key].keep) is not None
    ]
    if rows:
        tx.execute(_KEEP, as_json(rows))


def forget(tx: Transaction, items: Sequence[Forget]) -> list[int]:
    """Remove a batch of what has expired: how many there were for each; fewer than BATCH if few are left."""
    return [_forget(tx) for _ in items]


def _forget(tx: Transaction) -> int:
    ours = _lock(tx, [row[0] for row in tx.rows(_EXPIRED, BATCH)])
    return len(tx.rows(_DROP_EXPIRED, ours)) if ours else 0


def forget_of(tx: Transaction, ids: Sequence[UUID]) -> None:
    """Remove the outputs of tasks that go from the record."""
    ours = _lock(tx, [row[0] for row in tx.rows(_OF_TASKS, list(ids))])
    if ours:
        tx.execute(_DROP_OF_TASKS, ours, list(ids))


def _lock(tx: Transaction, keys: Sequence[bytes]) -> list[bytes]:
    """The keys that are this transaction's now, in the order of their bytes."""
    ours = try_lock(tx, {name(key) for key in keys})
    return sorted(key for key in keys if name(key) in ours)


def name(key: bytes) -> str:
    """The name of the lock on a key."""
    return f"step output {key.hex()}"
