"""A user's pipeline with map, gather, when, on_failure and a nested one, while its workers are killed."""

import random
from collections.abc import Iterator
from uuid import UUID

import pytest

from actors.submission import Order
from pipelines.catalogue import collect
from tests.support.killing import check_that_nothing_finished_ran_twice, kill_at_random_points
from tests.support.processes import Installation

ACTORS = "tests.support.composed_actors"
HARVESTS = {9: "450 in 9", 2: "refuse: [30, 2]"}


@pytest.fixture
def garden(board: Installation) -> Iterator[Installation]:
    """An installation with a clock that knows the pipeline."""
    clock = board.start_clock(ACTORS=ACTORS)
    yield board
    clock.kill()


def submit(board: Installation, seeds: int) -> UUID:
    order = Order(task_type="garden", payload=seeds)
    prepared = board.kit.submission.prepare(order, collect([ACTORS]).get("garden"))
    board.kit.submission.record([prepared]).result(10)
    return order.id


@pytest.mark.parametrize("seeds", HARVESTS)
def test_a_run_comes_to_its_result_by_both_ways(garden: Installation, seeds: int) -> None:
    garden.start_worker(ACTORS=ACTORS)

    run = submit(garden, seeds)

    assert (garden.finished(run).status, garden.finished(run).result) == ("completed", HARVESTS[seeds])
    check_that_nothing_finished_ran_twice(garden, run, garden.traces(run))


@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="module")
@pytest.mark.parametrize("number", [1, *(pytest.param(one, marks=pytest.mark.slow) for one in range(2, 26))])
def test_a_run_whose_workers_are_killed_comes_to_the_same_result(garden: Installation, number: int) -> None:
    run = submit(garden, 9)

    kill_at_random_points(garden, [run], ACTORS, lambda: len(garden.traces(run)), random.Random(number))

    task = garden.finished(run, 40)
    assert (task.status, task.result) == ("completed", HARVESTS[9])
    check_that_nothing_finished_ran_twice(garden, run, garden.traces(run))
