"""The verb expire: remove what was over long ago, a batch at a time, whole runs at once.

A sweep goes through all old tasks in the order of their creation. Each batch looks at a bounded number of
them and says where the next one goes on, so that a sweep never takes long at a time.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from tasks.ledger.removals import Held, parts_of, remove
from tasks.ledger.transaction import Transaction
from tasks.states import FINAL

#: A batch looks at so many tasks, and removes about so many, stages included (one run may be larger).
EXAMINED, BATCH = 2_000, 500


class Retention(msgspec.Struct, frozen=True):
    """How many seconds after its end a task is kept: a ``failed`` one, or any other."""

    others: float
    failed: float


class Place(msgspec.Struct, frozen=True):
    """Where a sweep is: the task that it looked at last."""

    created_at: datetime
    task_id: UUID


class Expire(msgspec.Struct, frozen=True):
    """Go on with a sweep from a place, or begin one."""

    retention: Retention
    after: Place | None = None


class Expired(msgspec.Struct, frozen=True):
    """How many tasks a batch removed, stages included, and where to go on; None: the sweep is done."""

    removed: int
    place: Place | None


_OLD = """
SELECT t.created_at, t.id,
    s.status IN ('completed', 'failed', 'cancelled') AND s.finished_at < now() - make_interval(
        secs => CASE WHEN s.status = 'failed' THEN %(failed)s ELSE %(others)s END),
    (SELECT count(*) FROM tasks c WHERE c.run_id = t.id)
FROM (
    SELECT created_at, id FROM tasks
    WHERE created_at < now() - make_interval(secs => least(%(failed)s, %(others)s)) AND run_id IS NULL
    AND created_at >= %(at)s::timestamptz AND (created_at, id) > (%(at)s::timestamptz, %(id)s::uuid)
    ORDER BY created_at, id LIMIT %(examined)s
) AS t JOIN task_state s USING (id) ORDER BY t.created_at, t.id"""

_NEEDED = "SELECT DISTINCT needs FROM dependencies WHERE needs = ANY(%s)"


def expire(tx: Transaction, items: Sequence[Expire]) -> list[Expired]:
    """Remove what is over and old enough, unless an unfinished task depends on it or somebody holds it."""
    return [_expire(tx, item) for item in items]


def _expire(tx: Transaction, item: Expire) -> Expired:
    params = {
        "failed": item.retention.failed,
        "others": item.retention.others,
        "at": "-infinity" if item.after is None else item.after.created_at,
        "id": UUID(int=0) if item.after is None else item.after.task_id,
        "examined": EXAMINED,
    }
    rows = tx.named(_OLD, params)
    chosen: list[UUID] = []
    weight = passed = 0
    for _, task_id, is_over, stages in rows:
        if weight >= BATCH:
            break
        passed += 1
        if is_over:
            chosen.append(task_id)
            weight += 1 + stages
    is_done = passed == len(rows) < EXAMINED
    place = None if is_done or not passed else Place(rows[passed - 1][0], rows[passed - 1][1])
    return Expired(_remove(tx, chosen), place)


def _remove(tx: Transaction, ids: Sequence[UUID]) -> int:
    whole = parts_of(tx, ids)
    held = Held(tx, [part.id for parts in whole.values() for part in parts if part.status in FINAL])
    # Asked for under the locks: who is submitted from now on finds them gone.
    all_ids = [part.id for parts in whole.values() for part in parts]
    needed = {row[0] for row in tx.rows(_NEEDED, all_ids)} if all_ids else set()
    going = [
        part.id
        for parts in whole.values()
        if needed.isdisjoint(part.id for part in parts) and held.can_go([part.id for part in parts])
        for part in parts
    ]
    remove(tx, going)
    return len(going)
