"""Idempotency keys: a request that is repeated with its key gets the tasks of the first one, for a day."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.errors import Conflict
from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.values import Once

LIFETIME_HOURS = 24
BATCH = 5_000


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

_GIVE_BACK = "DELETE FROM idempotency_keys WHERE caller = %s AND route = %s AND key = %s"

_PRUNE = f"""
WITH old AS (
    SELECT caller, route, key FROM idempotency_keys
    WHERE created_at < now() - interval '{LIFETIME_HOURS} hours' LIMIT {BATCH} FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_keys k USING old
WHERE (k.caller, k.route, k.key) = (old.caller, old.route, old.key)"""


def first_ids(tx: Transaction, once: Once, ids: Sequence[UUID]) -> list[UUID] | object:
    """The tasks of the first request with this key: ``ids`` if this is the one.

    Else SKIPPED while another process has the key in hand, or a Conflict of contents.
    """
    if not try_lock(tx, [f"{once.caller} {once.route} {once.key}"]):
        return SKIPPED
    if tx.rows(_CLAIM, once.caller, once.route, once.key, once.fingerprint, list(ids)):
        return list(ids)
    ((fingerprint, first),) = tx.rows(_FIRST, once.caller, once.route, once.key)
    if fingerprint == once.fingerprint:
        return list(first)
    return Conflict(
        "This Idempotency-Key was used with another body: repeat that body, or take a new key.",
    )


def give_back(tx: Transaction, once: Once) -> None:
    """Forget a key that this transaction has just taken: its submission is not recorded."""
    tx.execute(_GIVE_BACK, once.caller, once.route, once.key)


def prune(tx: Transaction, items: Sequence[Prune]) -> list[None]:
    """Forget old keys."""
    tx.execute(_PRUNE)
    return [None for _ in items]
