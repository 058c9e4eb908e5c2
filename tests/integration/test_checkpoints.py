"""Checkpoints: what a task saves is there for its next attempt, whatever ended the one before."""

from typing import Any
from uuid import UUID

from tests.support.processes import Installation
from tests.support.waiting import eventually


def steps(board: Installation, key: str) -> list[str]:
    """The steps that were really made."""
    return [word for word in board.traces(key) if word.startswith("step")]


def versions(board: Installation, task_id: UUID) -> list[int]:
    return list(
        board.value("SELECT array_agg(version ORDER BY version) FROM snapshots WHERE task_id = %s", task_id)
    )


def submit(board: Installation, key: str, **trouble: Any) -> UUID:
    return board.submit("climber", {"key": key, "steps": 4, **trouble})


def test_a_retried_task_goes_on_where_its_last_checkpoint_was(board: Installation) -> None:
    # Given a task of four steps, a checkpoint after each, that fails once in its third
    board.start_worker()
    task_id = submit(board, "retried", fail_at=3)
    # When it is tried again
    task = board.finished(task_id, 20)
    # Then no step before the failure is made again
    assert (task.status, task.result) == ("completed", {"first": [1, 3], "steps": 4})
    assert steps(board, "retried") == ["step-1", "step-2", "step-3", "step-3", "step-4"]
    assert versions(board, task_id) == [1, 2, 3, 4]
    assert [event.kind for event in board.kit.queries.history(task_id)].count("checkpoint") == 4


def test_a_task_whose_worker_was_killed_goes_on_where_its_last_checkpoint_was(board: Installation) -> None:
    victim = board.start_worker()
    task_id = submit(board, "killed", wait_at=3)
    eventually(lambda: "step-3" in steps(board, "killed"), 20)
    victim.kill()
    board.start_worker()
    assert board.finished(task_id, 30).status == "completed"
    assert steps(board, "killed") == ["step-1", "step-2", "step-3", "step-3", "step-4"]


def test_a_task_that_a_draining_worker_handed_back_goes_on_with_its_first_attempt(
    board: Installation,
) -> None:
    drained = board.start_worker()
    task_id = submit(board, "drained", wait_at=2)
    eventually(lambda: "step-2" in steps(board, "drained"), 20)
    drained.terminate()
    assert drained.exit_code() == 0
    board.start_worker()
    task = board.finished(task_id, 20)
    assert (task.attempts, task.status) == (1, "completed")
    assert steps(board, "drained") == ["step-1", "step-2", "step-2", "step-3", "step-4"]


def test_a_checkpoint_tells_an_actor_that_its_task_is_not_its_own_any_more(board: Installation) -> None:
    # Given a task that waits before a checkpoint, and that somebody held for lost
    board.start_worker(threads=1)
    task_id = submit(board, "taken", wait_at=2, wait=1.5)
    eventually(lambda: "step-2" in steps(board, "taken"), 20)
    owner = board.value("SELECT worker FROM task_state WHERE id = %s", task_id)
    board.kit.ledger.rescue(owner).result(10)
    # When the old attempt comes to its checkpoint, then it is stopped there, and the task is done elsewhere
    board.start_worker(threads=1)
    assert board.finished(task_id, 30).status == "completed"
    assert versions(board, task_id) == [1, 2, 3, 4]


def test_what_cannot_be_kept_is_an_error_of_the_actor(board: Installation) -> None:
    board.start_worker()
    task = board.finished(board.submit("hoarder", {"key": "hoarder"}, max_retries=0), 20)
    assert task.error is not None
    assert task.error["message"].startswith("ValueError: it cannot be kept as JSON")
