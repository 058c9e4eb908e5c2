"""The verb expire_letters: forget what was resolved long ago, and the jobs that replayed it.

An open dead letter goes with its task, when that is removed (see `tasks.ledger.removals`), one that is of no
task of ours with its message (`tasks.ledger.strays`).
"""

from collections.abc import Sequence

import msgspec

from tasks.ledger.transaction import Transaction

BATCH = 500


class ExpireLetters(msgspec.Struct, frozen=True):
    """Forget letters of tasks that are ``seconds`` old and resolved, and jobs that old."""

    seconds: float


_EXPIRE = """
WITH old AS (
    SELECT id FROM dead_letters
    WHERE failed_at < now() - make_interval(secs => %s) AND resolution IS NOT NULL AND task_id IS NOT NULL
    AND dispatch IS NULL ORDER BY failed_at LIMIT %s FOR UPDATE SKIP LOCKED
)
DELETE FROM dead_letters d USING old WHERE d.id = old.id RETURNING d.id"""

_EXPIRE_JOBS = """
WITH old AS (
    SELECT id FROM replays WHERE created_at < now() - make_interval(secs => %s)
    AND status NOT IN ('pending', 'canary', 'running') ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
), items AS (
    DELETE FROM replay_items i USING old WHERE i.replay = old.id
)
DELETE FROM replays r USING old WHERE r.id = old.id RETURNING r.id"""


def expire_letters(tx: Transaction, items: Sequence[ExpireLetters]) -> list[int]:
    """Forget a batch of old letters, or a job: how many; 0 if there is nothing left to forget."""
    return [
        len(tx.rows(_EXPIRE, item.seconds, BATCH)) + len(tx.rows(_EXPIRE_JOBS, item.seconds))
        for item in items
    ]
