"""The verb expire_letters: forget what was resolved long ago, and the jobs that replayed it.

An open dead letter goes with its task, when that is removed (see `tasks.ledger.removals`); one that is of no
task of ours goes when it is as old, with its message.
"""

from collections.abc import Sequence

import msgspec

from tasks.ledger.transaction import Transaction

BATCH = 500


class ExpireLetters(msgspec.Struct, frozen=True):
    """Forget letters that are ``seconds`` old and resolved, or of no task of ours; and jobs that old."""

    seconds: float


# A message of others goes with its letter, but not while it is on its way back to its queue.
_EXPIRE = """
WITH old AS (
    SELECT id FROM dead_letters d
    WHERE failed_at < now() - make_interval(secs => %s) AND (resolution IS NOT NULL OR task_id IS NULL)
    AND dispatch IS NULL
    AND NOT EXISTS (SELECT FROM foreign_messages f WHERE f.dead_letter = d.id AND f.owed)
    ORDER BY failed_at LIMIT %s FOR UPDATE SKIP LOCKED
), messages AS (
    DELETE FROM foreign_messages f USING old WHERE f.dead_letter = old.id
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
