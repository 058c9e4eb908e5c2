"""Progress: history shows every step, in order, and stays within bounds. The same on both brokers."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from tasks.ledger.progress import KEPT, PRUNED_EVERY
from tasks.records import Event
from tests.support.processes import Installation, installation


@pytest.fixture(scope="module")
def board(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A clock and a worker, shared by the tests of this module."""
    with installation(postgres_url, broker_url, tmp_path_factory.mktemp("steps")) as board:
        board.start_clock()
        board.start_worker()
        yield board


@pytest.fixture(autouse=True)
def _logs(board: Installation) -> Iterator[None]:
    yield
    board.show_logs()


def events(board: Installation, task_id: UUID) -> list[Event]:
    board.finished(task_id)
    found = board.kit.queries.history(task_id)
    ids = [event.event_id for event in found]
    assert ids == sorted(set(ids))
    return found


def reports(board: Installation, task_id: UUID) -> list[Event]:
    return [event for event in events(board, task_id) if event.kind == "progress"]


@pytest.mark.parametrize("actor", ["staircase", "staircase_alone"])
def test_every_step_is_shown_however_fast_they_come(board: Installation, actor: str) -> None:
    # Given an actor that reports a hundred steps without a pause
    task_id = board.submit(actor, {"key": "all", "steps": 100})
    # Then each of them is in its history, in order, with its numbers
    shown = reports(board, task_id)
    assert [(event.data or {})["steps_done"] for event in shown] == list(range(1, 101))
    assert [event.progress for event in shown] == [float(step) for step in range(1, 101)]


def test_the_last_report_comes_before_the_end(board: Installation) -> None:
    # Given a task whose last step is reported just before it returns
    task_id = board.submit("staircase", {"key": "end", "steps": 3})
    # Then the report is there, and the end is the last event
    shown = events(board, task_id)
    assert [event.kind for event in shown][-2:] == ["progress", "state"]
    assert shown[-1].status == "completed"


def test_the_same_numbers_of_other_flights_are_other_steps(board: Installation) -> None:
    task_id = board.submit("staircase", {"key": "flights", "steps": 4, "flights": 5})
    expected = [(f"flight {flight}", step) for flight in range(5) for step in range(1, 5)]
    shown = [(event.phase, (event.data or {})["steps_done"]) for event in reports(board, task_id)]
    assert shown == expected


def test_reports_and_lines_stay_in_the_order_in_which_they_were_made(board: Installation) -> None:
    task_id = board.submit("staircase", {"key": "mixed", "steps": 20, "aloud": True})
    told = [
        (event.data or {}).get("steps_done") or event.message
        for event in events(board, task_id)
        if event.kind in ("progress", "log")
    ]
    assert told == [told for step in range(1, 21) for told in (step, f"step {step}")]


def test_only_the_newest_reports_are_kept(board: Installation) -> None:
    # Given a task that reports three times as many steps as are kept
    task_id = board.submit("staircase", {"key": "long", "steps": 100, "flights": 3 * KEPT // 100})
    # Then the newest of them are there, and hardly more
    shown = reports(board, task_id)
    assert KEPT <= len(shown) <= KEPT + 2 * PRUNED_EVERY
    assert (shown[-1].phase, shown[-1].progress) == (f"flight {3 * KEPT // 100 - 1}", 100.0)
    assert board.task(task_id).status == "completed"
