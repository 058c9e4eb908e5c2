"""The verb submit: record what callers ask for, each submission whole or not at all."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from tasks.ledger.dependencies import Needs, link, lock_needs
from tasks.ledger.idempotency import first_ids
from tasks.ledger.inserts import insert_tasks
from tasks.ledger.transaction import Transaction
from tasks.values import Accepted, NewTask, Once


class Submit(msgspec.Struct, frozen=True):
    """What one caller submits. ``once``: a repetition is answered with the tasks ``asked`` the first time."""

    tasks: Sequence[NewTask]
    once: Once | None = None
    asked: Sequence[UUID] = ()


_READ = """
SELECT t.id, s.status, t.created_at, t.run_at FROM tasks t JOIN task_state s USING (id)
WHERE t.id = ANY(%s)"""


def submit(tx: Transaction, items: Sequence[Submit]) -> list[object]:
    """Record submissions: the accepted tasks of each, an error, or SKIPPED while a dependency is locked."""
    needs = lock_needs(tx, [task for item in items for task in item.tasks])
    answers = [needs.objection(item.tasks) or _ids_to_answer(tx, item) for item in items]
    first = [
        task for item, ids in zip(items, answers, strict=True) if ids == _ids(item) for task in item.tasks
    ]
    accepted = _record(tx, first, needs)
    known = {one for ids in answers if isinstance(ids, list) for one in ids}
    repeated = known - set(accepted)
    if repeated:
        accepted |= {row[0]: Accepted(*row) for row in tx.rows(_READ, list(repeated))}
    return [
        [accepted[one] for one in ids if one in accepted] if isinstance(ids, list) else ids for ids in answers
    ]


def _ids(item: Submit) -> list[UUID]:
    return [task.id for task in item.tasks]


def _ids_to_answer(tx: Transaction, item: Submit) -> list[UUID] | object:
    """The tasks that a submission is answered with: its own, or those of the first one with its key."""
    if item.once is None:
        return _ids(item)
    first = first_ids(tx, item.once, item.asked)
    return _ids(item) if first == list(item.asked) else first


def _record(tx: Transaction, tasks: Sequence[NewTask], needs: Needs) -> dict[UUID, Accepted]:
    blocked = [task.id for task in tasks if not needs.are_met(task)]
    accepted = insert_tasks(tx, tasks, blocked)
    new = [task for task in tasks if task.id in accepted]
    hopeless = [task.id for task in new if needs.cannot_be_met(task)]
    link(tx, new, set(blocked), hopeless)
    return accepted
