"""The verb mark: dead letters get their fingerprint that were buried without one.

Who knows an error makes its fingerprint (`Ledger.fail`). Of errors that statements find themselves (a lost
worker, a dependency that failed) it is made in the same transaction; of earlier versions' the clock makes it.
"""

from collections.abc import Sequence

import msgspec

from tasks.fingerprints import fingerprint
from tasks.ledger.transaction import Transaction, as_json

BATCH = 500


class Mark(msgspec.Struct, frozen=True):
    """Give up to ``limit`` letters their fingerprint that have none."""

    limit: int = BATCH


_UNMARKED = """
SELECT id, error_class, message, traceback FROM dead_letters WHERE fingerprint IS NULL
ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"""

_MARK = """
UPDATE dead_letters d SET fingerprint = m.fingerprint
FROM jsonb_to_recordset(%s::jsonb) AS m(id uuid, fingerprint text) WHERE d.id = m.id"""


def mark(tx: Transaction, items: Sequence[Mark]) -> list[int]:
    """Give letters their fingerprint: how many."""
    return [_mark(tx, item.limit) for item in items]


def follow(tx: Transaction) -> None:
    """Mark what was buried in this transaction; of very much the clock marks the rest."""
    if tx.has_unmarked:
        _mark(tx, BATCH)


def _mark(tx: Transaction, limit: int) -> int:
    rows = tx.rows(_UNMARKED, limit)
    if rows:
        marks = [{"id": row[0], "fingerprint": fingerprint(*row[1:])} for row in rows]
        tx.execute(_MARK, as_json(marks))
    return len(rows)
