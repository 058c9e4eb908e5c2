"""What steered queues allow, judged under their locks: no two claims take the last place or token."""

from collections.abc import Collection, Mapping, Sequence

from tasks.allowances import Allowance, read_allowances
from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import Transaction, as_json

# Transactions do not begin in the order in which they get the lock: a bucket's clock never goes back.
_SPEND = """
INSERT INTO rate_buckets AS b (queue, tokens, refilled_at)
SELECT queue, tokens, now() FROM jsonb_to_recordset(%s::jsonb) AS left_over(queue text, tokens float8)
ON CONFLICT (queue) DO UPDATE
SET tokens = excluded.tokens, refilled_at = greatest(b.refilled_at, excluded.refilled_at)"""


def lock_allowances(tx: Transaction, queues: Collection[str]) -> dict[str, Allowance]:
    """The allowances of steered queues, locked until the commit; those that others have lack."""
    locked = try_lock(tx, {_lock_of(queue) for queue in queues})
    return look_up_allowances(tx, [queue for queue in queues if _lock_of(queue) in locked])


def look_up_allowances(tx: Transaction, queues: Collection[str]) -> dict[str, Allowance]:
    """The allowances of those of some queues that are steered, as they are without their locks."""
    return read_allowances(tx.planned, queues) if queues else {}


def spend(tx: Transaction, allowances: Mapping[str, Allowance], started: Sequence[str]) -> None:
    """Take a token for each task that was started, named by its queue, from the bucket of its queue."""
    left = [
        {"queue": name, "tokens": max(0.0, one.tokens - started.count(name))}
        for name, one in allowances.items()
        if one.tokens is not None and name in started
    ]
    if left:
        tx.execute(_SPEND, as_json(left))


def _lock_of(queue: str) -> str:
    return f"places of {queue}"
