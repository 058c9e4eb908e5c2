"""A user's pipeline with map, gather, when, on_failure and a nested one, while its workers are killed."""

import random
from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import pytest

from actors.submission import Order
from pipelines.catalogue import collect
from tests.support.processes import Installation
from tests.support.waiting import eventually

ACTORS = "tests.support.composed_actors"
KILLS = 2  # of the workers of one run: the third death of a task would be its end
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


def check_that_nothing_finished_ran_twice(board: Installation, run: UUID) -> None:
    """Every attempt but the last one of each stage has ended on record, and none came after its end."""
    begun = Counter(board.traces(run))
    state = board.kit.queries.run(run)
    assert state is not None
    for stage in state.stages:
        moves = board.moves(stage.id)
        assert moves.count("completed") + moves.count("failed") == 1, (stage.stage, moves)
        assert moves[-1] == stage.status
        assert 1 <= begun[str(stage.id)] <= moves.count("running"), (stage.stage, moves)
        assert moves.count("running") - 1 == len(board.ended_attempts(stage.id)) - (stage.status == "failed")


def kill_at_random_points(board: Installation, run: UUID, chance: random.Random) -> None:
    """Kill the worker after some of the stages have begun, and start another one; twice."""
    seen = 0
    for _ in range(KILLS):
        worker = board.start_worker(ACTORS=ACTORS, threads=3)
        seen += chance.randint(1, 8)
        eventually(
            lambda seen=seen: len(board.traces(run)) >= seen or board.task(run).status == "completed", 20
        )
        worker.kill()
    board.start_worker(ACTORS=ACTORS, threads=3)


@pytest.mark.parametrize("seeds", HARVESTS)
def test_a_run_comes_to_its_result_by_both_ways(garden: Installation, seeds: int) -> None:
    garden.start_worker(ACTORS=ACTORS)

    run = submit(garden, seeds)

    assert (garden.finished(run).status, garden.finished(run).result) == ("completed", HARVESTS[seeds])
    check_that_nothing_finished_ran_twice(garden, run)


@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="module")
@pytest.mark.parametrize("number", [1, *(pytest.param(one, marks=pytest.mark.slow) for one in range(2, 26))])
def test_a_run_whose_workers_are_killed_comes_to_the_same_result(garden: Installation, number: int) -> None:
    run = submit(garden, 9)

    kill_at_random_points(garden, run, random.Random(number))

    task = garden.finished(run, 40)
    assert (task.status, task.result) == ("completed", HARVESTS[9])
    check_that_nothing_finished_ran_twice(garden, run)
