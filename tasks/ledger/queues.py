"""The verb that makes named queues and changes their settings."""

from collections.abc import Sequence

import msgspec

from tasks.ledger.locks import try_lock
from tasks.ledger.room import lock_of
from tasks.ledger.transaction import SKIPPED, Transaction, as_json
from tasks.records import Queue, RateLimit


class Define(msgspec.Struct, frozen=True):
    """Settings of a queue; what is None stays as it is, and is the default in a new queue."""

    name: str
    concurrency: int | None = None
    rate_limit: RateLimit | None = None
    max_size: int | None = None


class Defined(msgspec.Struct, frozen=True):
    """A queue as it is now, and whether it is new."""

    queue: Queue
    is_new: bool


# A row that was inserted has no xmax.
_DEFINE = """
INSERT INTO queues AS q (name, concurrency, rate_limit, max_size)
SELECT name, coalesce(concurrency, 5), rate_limit, max_size FROM jsonb_to_record(%s::jsonb)
    AS given(name text, concurrency integer, rate_limit jsonb, max_size integer)
ON CONFLICT (name) DO UPDATE SET
    concurrency = coalesce((%s::jsonb->>'concurrency')::integer, q.concurrency),
    rate_limit = coalesce(excluded.rate_limit, q.rate_limit),
    max_size = coalesce(excluded.max_size, q.max_size), updated_at = now()
RETURNING name, concurrency, rate_limit, max_size, paused, created_at, updated_at, xmax = 0"""


def define(tx: Transaction, items: Sequence[Define]) -> list[object]:
    """Make or change queues: a Defined for each, SKIPPED while others use the settings of one."""
    locked = try_lock(tx, {lock_of(item.name) for item in items})
    return [_define(tx, item) if lock_of(item.name) in locked else SKIPPED for item in items]


def _define(tx: Transaction, item: Define) -> Defined:
    given = msgspec.structs.asdict(item)
    ((*columns, is_new),) = tx.rows(_DEFINE, as_json(given), as_json(given))
    names = ("name", "concurrency", "rate_limit", "max_size", "paused", "created_at", "updated_at")
    return Defined(msgspec.convert(dict(zip(names, columns, strict=True)), Queue), is_new)
