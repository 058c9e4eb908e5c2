"""What operators have run again goes on by itself, with real workers, on both brokers."""

from typing import Any
from uuid import UUID

from pipelines.recovery import Recovery
from tasks.states import is_legal
from tests.support.actors_for_tests import Climb, Work
from tests.support.processes import Installation, payload_of
from tests.support.waiting import eventually


def recover(board: Installation, task_id: UUID, **asked: Any) -> None:
    how = board.kit.recoverer.decide(task_id, Recovery(**asked))
    assert board.kit.ledger.recover(how).result(10) == "recovered"


def moves(board: Installation, task_id: UUID) -> list[str]:
    events = board.kit.queries.history(task_id)
    assert [event.event_id for event in events] == list(range(1, len(events) + 1))
    states = [event.status for event in events if event.kind == "state"]
    pairs = zip([None, *states], states, strict=False)
    assert all(is_legal(before, after, by_operators=True) for before, after in pairs), states
    return states


def test_a_failed_task_is_retried_and_succeeds(board: Installation) -> None:
    flag = board.raise_flag("k")
    board.start_worker()
    task_id = board.submit("moody", payload_of(Work("k")))
    assert board.finished(task_id).status == "failed"
    flag.unlink()
    assert board.kit.ledger.retry(task_id).result(10) == "retried"
    assert board.has_status(task_id, "completed").result == "in a good mood"
    assert moves(board, task_id) == ["queued", "running", "failed", "queued", "running", "completed"]


def test_a_cancelled_task_goes_on_at_its_last_checkpoint(board: Installation) -> None:
    # Given a task that was cancelled at its third step
    board.start_worker()
    task_id = board.submit("climber", payload_of(Climb("k", steps=4, wait_at=3)))
    board.has_status(task_id, "running")
    eventually(lambda: "step-3" in board.traces("k"))
    board.kit.ledger.cancel(task_id).result(10)
    # When it is recovered, then it goes on there
    recover(board, task_id)
    assert board.has_status(task_id, "completed").result == {"first": [1, 3], "steps": 4}


def test_a_run_goes_on_from_a_stage_and_no_other_stage_that_finished_runs_again(board: Installation) -> None:
    # Given a run that completed
    board.start_worker(queues=["default", "squares"])
    run_id = board.submit("numbers", 4)
    assert board.finished(run_id).result == 30
    before = board.traces(run_id)
    assert sorted(before) == ["make_list", "square-1", "square-3", "total"]
    # When it is recovered from its last stage, then that alone runs
    recover(board, run_id, mode="stage", stage="total")
    assert board.has_status(run_id, "completed").result == 30
    assert board.traces(run_id)[len(before) :] == ["total"]
    # And from an edited output what follows is made anew, while the stage itself does not run
    recover(board, run_id, mode="stage", stage="make_list", output=[1, 2, 3])
    assert board.has_status(run_id, "completed").result == 14
    assert sorted(board.traces(run_id)[len(before) + 1 :]) == ["square-1", "square-3", "total"]
    # And as a whole everything runs
    recover(board, run_id, mode="all")
    assert board.has_status(run_id, "completed").result == 30
    assert board.traces(run_id).count("make_list") == 2
    # And the edited output of the last stage is the result of the run
    recover(board, run_id, mode="stage", stage="total", output=1_000)
    assert board.has_status(run_id, "completed").result == 1_000
    assert moves(board, run_id) == ["queued", *["running", "completed"] * 5]


def test_a_cancelled_run_goes_on_although_its_worker_was_still_busy(board: Installation) -> None:
    # Given a run that was cancelled while a worker ran its stage
    board.start_worker()
    run_id = board.submit("fragile_numbers", 1)
    eventually(lambda: "fragile-1" in board.traces(run_id))
    board.kit.ledger.cancel(run_id).result(10)
    # When it is recovered, then that stage runs again from its input, and fails by itself
    recover(board, run_id)
    task = board.has_status(run_id, "failed")
    assert task.error is not None
    assert task.error["stage"] == "fragile"
    assert board.traces(run_id) == ["make_list", "fragile-1", "fragile-1"]
    assert moves(board, run_id)[-3:] == ["cancelled", "running", "failed"]
