"""Graphs of tasks that depend on each other, run by real workers: each starts after all that it needs."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from actors.submission import Order
from tasks.errors import InvalidField
from tasks.ids import new_id
from tests.support.processes import Installation

WIDTH = 1_000


def order(key: str, *needs: Order) -> Order:
    return Order(task_type="work", payload={"key": key}, depends_on=tuple(need.id for need in needs))


def ran_in_order(board: Installation, orders: Sequence[Order]) -> None:
    """Every task is completed, ran once, and began after the end of each that it depends on."""
    traces = board.traces()
    keys: dict[UUID, str] = {one.id: one.payload["key"] for one in orders}
    assert sorted(traces) == sorted(f"{word} {key}" for key in keys.values() for word in ("start", "end"))
    place = {trace: at for at, trace in enumerate(traces)}
    for one in orders:
        for need in one.depends_on:
            assert place[f"end {keys[need]}"] < place[f"start {keys[one.id]}"]
    assert {task.status for task in board.kit.queries.tasks_by_id(list(keys))} == {"completed"}


def run(board: Installation, orders: Sequence[Order], timeout: float = 30.0) -> None:
    board.start_worker(threads=4)
    board.submit_all(orders)
    board.all_finished([one.id for one in orders], timeout)
    ran_in_order(board, orders)


def test_a_chain_runs_one_after_the_other(board: Installation) -> None:
    # Given a chain of ten tasks, handed in from its end
    chain = [order("0")]
    for number in range(1, 10):
        chain.append(order(str(number), chain[-1]))
    # When it runs, Then it runs in order
    run(board, list(reversed(chain)))


def test_both_sides_of_a_diamond_run_between_its_ends(board: Installation) -> None:
    top = order("top")
    left, right = order("left", top), order("right", top)
    run(board, [order("bottom", left, right), left, right, top])


def test_a_task_that_waits_for_a_thousand_others_runs_after_all_of_them(board: Installation) -> None:
    many = [order(f"one-{number}") for number in range(WIDTH)]
    last = order("last", *many)
    run(board, [last, *many], timeout=60)
    # Then what it waited for is still told
    assert len(board.task(last.id).depends_on) == WIDTH


def test_tasks_that_wait_for_each_other_in_a_circle_are_refused(board: Installation) -> None:
    # Given three tasks, each of which waits for the next, and one outside of the circle
    ids = [new_id() for _ in range(3)]
    circle = [
        Order(id=one, task_type="work", payload={"key": "circle"}, depends_on=(ids[at - 1],))
        for at, one in enumerate(ids)
    ]
    # When they are submitted together, Then all are refused and nothing is stored
    with pytest.raises(InvalidField, match="wait for each other"):
        board.submit_all([order("innocent"), *circle])
    assert board.kit.queries.tasks_by_id(ids) == []
