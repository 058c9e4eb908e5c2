"""Stages that yield: what they have found is worked on while they look for more."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from actors.submission import Order
from pipelines.catalogue import collect
from pipelines.evaluation import WINDOW
from tests.support.processes import Installation
from tests.support.waiting import eventually

ACTORS = "tests.support.yielding_actors"


@pytest.fixture
def searching(board: Installation) -> Iterator[Installation]:
    """An installation with a clock that knows the pipelines."""
    clock = board.start_clock(ACTORS=ACTORS)
    yield board
    clock.kill()


def submit(board: Installation, name: str, payload: object) -> UUID:
    order = Order(task_type=name, payload=payload)
    prepared = board.kit.submission.prepare(order, collect([ACTORS]).get(name))
    board.kit.submission.record([prepared]).result(10)
    return order.id


@pytest.mark.parametrize("name", ["search", "search_alone"])
def test_what_a_stage_yields_is_worked_on_before_it_is_through(searching: Installation, name: str) -> None:
    # Given a stage that goes on only when its third item was read
    place = uuid4().hex
    searching.start_worker(ACTORS=ACTORS)

    task = searching.finished(submit(searching, name, place), 30)

    # Then that was so, and all that it yielded comes together in its order
    assert task.status == "completed", task.error
    assert task.result == " ".join(f"{place}-{one}".upper() for one in ("a", "b", "c", "first", "end"))


@pytest.mark.parametrize("name", ["search", "search_alone"])
def test_what_was_handed_out_before_a_death_is_not_worked_on_again(
    searching: Installation, name: str
) -> None:
    # Given a stage that dies when its third item was read
    place = uuid4().hex
    (searching.folder / f"{place}-die").touch()
    searching.start_workers(2, ACTORS=ACTORS)

    # When it runs again, and yields something else at its fourth place
    task = searching.finished(submit(searching, name, place), 30)

    # Then the list begins with what is on record, and nothing of that ran twice
    assert task.status == "completed", task.error
    assert task.result == " ".join(f"{place}-{one}".upper() for one in ("a", "b", "c", "again", "end"))
    assert len(searching.traces(place)) == 2
    for item in ("a", "b", "c"):
        assert len(searching.traces(f"{place}-{item}")) == 1


def test_in_batches_and_over_more_than_a_window_everything_is_worked_on_once(
    searching: Installation,
) -> None:
    searching.start_worker(ACTORS=ACTORS)

    run = submit(searching, "counting", 10 * WINDOW + 105)

    task = searching.finished(run, 60)
    most = 10 * WINDOW + 105
    assert task.result == [WINDOW + 11, sum(range(most))]
    eventually(lambda: len(searching.stages(run)) == WINDOW + 13)
