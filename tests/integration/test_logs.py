"""Logs: what an actor logs is kept with its task, cleaned and bounded. The same on both brokers."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from actors.lines import MOST_A_SECOND, MOST_TEXT
from tasks.records import Event
from tests.support.processes import Installation, installation


@pytest.fixture(scope="module")
def board(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A clock and a worker, shared by the tests of this module."""
    with installation(postgres_url, broker_url, tmp_path_factory.mktemp("logs")) as board:
        board.start_clock()
        board.start_worker()
        yield board


@pytest.fixture(autouse=True)
def _logs(board: Installation) -> Iterator[None]:
    yield
    board.show_logs()


def lines(board: Installation, task_id: UUID) -> list[Event]:
    """What a task has logged, once it is over."""
    board.finished(task_id)
    return [event for event in board.kit.queries.history(task_id) if event.kind == "log"]


@pytest.mark.parametrize("actor", ["speaker", "speaker_alone"])
def test_what_an_actor_logs_is_kept_with_its_task(board: Installation, actor: str) -> None:
    # Given two tasks that log at the same time
    ids = [board.submit(actor, {"key": key, "lines": 20}) for key in ("one", "other")]
    # Then each has its own lines, in order, with level and logger
    for task_id, key in zip(ids, ("one", "other"), strict=True):
        found = lines(board, task_id)
        assert [line.message for line in found] == [f"line {n} about {key}" for n in range(1, 21)]
        assert {line.data["level"] for line in found if line.data} == {"info"}
        assert {line.data["logger"] for line in found if line.data} == {"the.users.own"}
    # And they are on standard error as before
    assert board.any_log_says("line 20 about one")


def test_lines_are_cleaned_and_shortened_and_only_the_tasks_own_are_kept(board: Installation) -> None:
    # Given an actor that logs all that can be wrong
    found = lines(board, board.submit("gossip", {"key": "gossip"}))
    # Then what can be kept is kept, and nothing of ours
    texts = [line.message or "" for line in found]
    assert texts[0] == "a NUL � and half a pair ?"
    assert texts[1] == "x" * MOST_TEXT
    assert texts[2].startswith("it went wrong\nTraceback ")
    assert texts[2].endswith("RuntimeError: caught")
    assert texts[3] == "the last word about gossip"
    assert [line.data["level"] for line in found if line.data] == ["warning", "info", "error", "error"]


@pytest.mark.parametrize("actor", ["speaker", "speaker_alone"])
def test_a_flood_is_cut_off_and_says_so(board: Installation, actor: str) -> None:
    # Given an actor that logs far more lines at once than are taken
    found = lines(board, board.submit(actor, {"key": "flood", "lines": 20 * MOST_A_SECOND}))
    # Then some are there, and with those that were left out they are all
    texts = [line.message or "" for line in found]
    assert texts[:MOST_A_SECOND] == [f"line {n} about flood" for n in range(1, MOST_A_SECOND + 1)]
    said = [int(text.split()[1]) for text in texts if text.endswith(" lines left out")]
    assert sum(said) + len(texts) - len(said) == 20 * MOST_A_SECOND


def test_lines_of_a_failed_attempt_stay_with_its_task(board: Installation) -> None:
    task_id = board.submit("loud_failure", {"key": "failed"})
    assert [line.message for line in lines(board, task_id)] == ["about to fail"]
    assert board.task(task_id).status == "failed"
