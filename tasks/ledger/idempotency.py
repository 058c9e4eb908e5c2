"""Idempotency keys: a request that is repeated with its key gets the tasks of the first one, for a day."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.errors import Conflict
from tasks.ledger.transaction import Transaction
from tasks.values import Once

LIFETIME_HOURS = 24


class Prune(msgspec.Struct, frozen=True):
    """Forget the keys that are older than a day."""


# One that is over counts as absent, whether it was pruned or not.
_CLAIM = f"""
INSERT INTO idempotency_keys AS k (caller, route, key, fingerprint, task_ids) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (caller, route, key) DO UPDATE
SET fingerprint = excluded.fingerprint, task_ids = excluded.task_ids, created_at = now()
WHERE k.created_at < now() - interval '{LIFETIME_HOURS} hours'
RETURNING key"""

_FIRST = """
SELECT fingerprint, task_ids FROM idempotency_keys WHERE caller = %s AND route = %s AND key = %s"""

_PRUNE = f"DELETE FROM idempotency_keys WHERE created_at < now() - interval '{LIFETIME_HOURS} hours'"


def first_ids(tx: Transaction, once: Once, ids: Sequence[UUID]) -> list[UUID] | Conflict:
    """The tasks of the first request with this key: ``ids`` if this is the one, or a conflict of contents."""
    if tx.rows(_CLAIM, once.caller, once.route, once.key, once.fingerprint, list(ids)):
        return list(ids)
    ((fingerprint, first),) = tx.rows(_FIRST, once.caller, once.route, once.key)
    if fingerprint == once.fingerprint:
        return list(first)
    return Conflict(
        "This Idempotency-Key was used with another body: repeat that body, or take a new key.",
    )


def prune(tx: Transaction, items: Sequence[Prune]) -> list[None]:
    """Forget old keys."""
    tx.execute(_PRUNE)
    return [None for _ in items]
