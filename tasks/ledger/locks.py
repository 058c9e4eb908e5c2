"""Locks on names until the commit, for what is no row yet. Nobody waits for one."""

from collections.abc import Collection

from tasks.ledger.transaction import Transaction

_TRY = """
SELECT name FROM unnest(%s::text[]) AS name WHERE pg_try_advisory_xact_lock(hashtextextended(name, 0))"""


def try_lock(tx: Transaction, names: Collection[str]) -> set[str]:
    """The names that are this transaction's now; waiting for the others could deadlock with their holders."""
    return {row[0] for row in tx.rows(_TRY, sorted(names))} if names else set()
