"""The verb submit: record what callers ask for, each submission whole or not at all."""

from collections.abc import Collection, Sequence
from typing import cast
from uuid import UUID

import msgspec

from tasks.ledger import idempotency
from tasks.ledger.dependencies import Needs, link, lock_needs
from tasks.ledger.inserts import insert_tasks
from tasks.ledger.room import NoLimits, Rooms, entered
from tasks.ledger.transaction import Transaction
from tasks.ledger.uniqueness import Holders
from tasks.values import Accepted, NewTask, Once


class Submit(msgspec.Struct, frozen=True):
    """What one caller submits. ``once``: a repetition is answered with the tasks ``asked`` the first time."""

    tasks: Sequence[NewTask]
    once: Once | None = None
    asked: Sequence[UUID] = ()


class _Plan(msgspec.Struct, frozen=True):
    """A submission whose unique keys are settled: what is new of it, and what it is answered with."""

    new: Sequence[NewTask]
    answer: list[UUID]
    asked: list[UUID]
    once: Once | None


_READ = """
SELECT t.id, s.status, t.created_at, t.run_at FROM tasks t JOIN task_state s USING (id)
WHERE t.id = ANY(%s)"""


def submit(tx: Transaction, items: Sequence[Submit]) -> list[object]:
    """Record submissions: the accepted tasks of each, an error, or SKIPPED while others are in the way."""
    holders = Holders(tx, (task for item in items for task in item.tasks))
    plans = [_plan(item, holders) for item in items]
    new = [task for plan in plans if isinstance(plan, _Plan) for task in plan.new]
    needs = lock_needs(tx, new)
    # Hardly any queue is limited: the insert itself looks whether one of these is, and then does nothing.
    answers, accepted = _record(tx, plans, needs, NoLimits(), entered(new))
    if not accepted:
        answers, accepted = _record(tx, plans, needs, Rooms(tx, new))
    known = {one for ids in answers if isinstance(ids, list) for one in ids}
    repeated = known - set(accepted)
    if repeated:
        accepted |= {row[0]: Accepted(*row) for row in tx.rows(_READ, list(repeated))}
    return [
        [accepted[one] for one in ids if one in accepted] if isinstance(ids, list) else ids for ids in answers
    ]


def _plan(item: Submit, holders: Holders) -> _Plan | object:
    """What is to be recorded: not the tasks whose unique key another one has, nor the stages of such runs."""
    settled = holders.replacements(item.tasks)
    if not isinstance(settled, dict):
        return settled
    replaced = cast(dict[UUID, UUID], settled)
    if not replaced:
        return _Plan(item.tasks, [task.id for task in item.tasks], list(item.asked), item.once)
    asked_for = [task for task in item.tasks if task.run_id not in replaced]
    new = [_with_needs(task, replaced) for task in asked_for if task.id not in replaced]
    answer = [replaced.get(task.id, task.id) for task in asked_for]
    return _Plan(new, answer, [replaced.get(one, one) for one in item.asked], item.once)


def _with_needs(task: NewTask, replaced: dict[UUID, UUID]) -> NewTask:
    if replaced.keys().isdisjoint(task.depends_on):
        return task
    needs = tuple(dict.fromkeys(replaced.get(need, need) for need in task.depends_on))
    return msgspec.structs.replace(task, depends_on=needs)


def _answer(tx: Transaction, plan: _Plan, needs: Needs, rooms: NoLimits) -> list[UUID] | object:
    """What a submission is answered with: its own answer (that itself) if it is to be recorded.

    Else the tasks of the first one with its idempotency key, or why it is not recorded now.
    """
    objection = needs.objection(plan.new)
    if objection is not None:
        return objection
    first = plan.asked if plan.once is None else idempotency.first_ids(tx, plan.once, plan.asked)
    if first != plan.asked:
        return first
    objection = rooms.objection(plan.new)
    if objection is None:
        return plan.answer
    if plan.once is not None:  # what is refused uses up no key
        idempotency.give_back(tx, plan.once)
    return objection


def _record(
    tx: Transaction,
    plans: Sequence[_Plan | object],
    needs: Needs,
    rooms: NoLimits,
    unlimited: Collection[str] = (),
) -> tuple[list[object], dict[UUID, Accepted]]:
    """What each plan is answered with, and the tasks that are new now.

    None are if ``unlimited`` names a queue that has a limit; to record the same plans again is safe.
    """
    answers = [_answer(tx, plan, needs, rooms) if isinstance(plan, _Plan) else plan for plan in plans]
    tasks = [
        task
        for plan, ids in zip(plans, answers, strict=True)
        if isinstance(plan, _Plan) and ids is plan.answer
        for task in plan.new
    ]
    blocked = [task.id for task in tasks if not needs.are_met(task)]
    accepted = insert_tasks(tx, tasks, blocked, unlimited=unlimited)
    new = [task for task in tasks if task.id in accepted]
    hopeless = [task.id for task in new if needs.cannot_be_met(task)]
    link(tx, new, set(blocked), hopeless)
    return answers, accepted
