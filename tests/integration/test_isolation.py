"""Tasks in processes of their own: they can be killed, and nobody else is blamed. Over both brokers."""

from pathlib import Path
from uuid import UUID

import pytest

from actors.submission import Order
from tests.support.processes import Installation
from tests.support.waiting import eventually

LOST = "The process of its own that ran the task was ended by signal 9"


def is_started(board: Installation, key: str) -> bool:
    return "start" in board.traces(key)


def processes(board: Installation, key: str) -> list[int]:
    """The processes in which an actor started, in order."""
    return board.processes_that_left("start", key)


def deaths(board: Installation, task_id: UUID) -> int:
    return int(board.value("SELECT deaths FROM task_state WHERE id = %s", task_id))


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- as on a thread ------------------------------------------------------------------------------


def test_an_isolated_task_completes_in_a_process_of_its_own(board: Installation) -> None:
    worker = board.start_worker()
    task_id = board.submit("alone", {"key": "alone", "seconds": 0.5})
    eventually(lambda: board.task(task_id).phase == "half way", 20)
    assert board.task(task_id).progress == 50
    task = board.finished(task_id)
    assert task.status == "completed"
    assert task.result["attempt"] == 1
    assert task.result["process"] == processes(board, "alone")[0] != worker.pid
    assert board.moves(task_id) == ["queued", "running", "completed"]


def test_an_isolated_task_that_fails_is_tried_again(board: Installation) -> None:
    board.start_worker()
    task_id = board.submit("alone_but_flaky", {"key": "twice", "failures": 2})
    task = board.finished(task_id, 20)
    assert (task.status, task.result, task.attempts) == ("completed", "at last", 3)
    attempts = board.ended_attempts(task_id)
    assert [one["outcome"] for one in attempts] == ["error"] * 2
    assert 'raise RuntimeError(f"failure' in attempts[-1]["traceback"]


def test_an_isolated_task_goes_on_where_its_last_checkpoint_was(board: Installation) -> None:
    board.start_worker()
    task_id = board.submit("alone_climber", {"key": "climb", "steps": 4, "fail_at": 3})
    task = board.finished(task_id, 20)
    assert (task.status, task.result) == ("completed", {"first": [1, 3], "steps": 4})
    assert [event.kind for event in board.kit.queries.history(task_id)].count("checkpoint") == 4


def test_an_isolated_stage_hands_its_result_to_the_next_one(board: Installation) -> None:
    board.start_worker()
    run = board.finished(board.submit("doubled_numbers", 3), 20)
    assert (run.status, run.result) == ("completed", 2 + 4 + 6)


# --- the end of their time -----------------------------------------------------------------------


def test_an_isolated_task_that_is_blocked_in_c_is_killed_at_its_timeout(board: Installation) -> None:
    board.start_worker(threads=1)
    order = {"key": "blocked", "seconds": 600}
    task_id = board.submit("alone_but_deaf", order, timeout=1, max_retries=0)
    task = board.finished(task_id, 20)
    assert task.status == "failed"
    assert task.error == {"code": "timeout", "message": "it ran for longer than its timeout of 1 s"}
    assert deaths(board, task_id) == 0
    # and its thread goes on
    assert board.finished(board.submit("alone", {"key": "next"})).status == "completed"


def test_a_task_that_holds_the_interpreters_lock_stops_nobody_but_itself(board: Installation) -> None:
    # Given an isolated task that holds its interpreter's lock until it is killed
    worker = board.start_worker(threads=2)
    task_id = board.submit("hogging", {"key": "hog"}, timeout=6, max_retries=0)
    eventually(lambda: is_started(board, "hog"), 20)
    # When others run beside it, then they are not held up, and its worker's heart beats on
    while board.task(task_id).status == "running":
        assert board.finished(board.submit("work", {"key": "beside", "seconds": 0.5}), 5).result
        assert board.value(
            "SELECT max(now() - heartbeat_at) < '5 seconds' FROM workers WHERE kind = 'worker'"
        )
    task = board.task(task_id)
    assert task.error is not None
    assert task.error["code"] == "timeout"
    assert deaths(board, task_id) == 0
    assert not worker.has_ended


def test_a_cancelled_task_is_killed_within_two_seconds(board: Installation) -> None:
    board.start_worker(threads=1)
    task_id = board.submit("alone_but_deaf", {"key": "unwanted", "seconds": 600})
    eventually(lambda: is_started(board, "unwanted"), 20)
    assert board.kit.ledger.cancel(task_id).result(10) == "cancelled"
    eventually(lambda: is_gone(processes(board, "unwanted")[0]), 2)
    assert board.finished(board.submit("work", {"key": "next"})).status == "completed"
    assert board.moves(task_id) == ["queued", "running", "cancelled"]


def test_a_draining_worker_kills_isolated_tasks_and_hands_them_back(board: Installation) -> None:
    # Given a worker with an isolated task that notices no interrupt
    worker = board.start_worker()
    task_id = board.submit("alone_but_deaf", {"key": "long", "seconds": 600})
    eventually(lambda: is_started(board, "long"), 20)
    # When the worker is asked to end
    worker.terminate()
    assert worker.exit_code() == 0
    # Then the task is ready again, and no attempt was used up
    task = board.has_status(task_id, "queued")
    assert task.attempts == 0
    assert deaths(board, task_id) == 0
    assert [one["outcome"] for one in board.ended_attempts(task_id)] == ["released"]
    assert is_gone(processes(board, "long")[0])


# --- processes that die --------------------------------------------------------------------------


def test_a_task_that_kills_its_process_fails_after_three_deaths_and_its_neighbours_finish(
    board: Installation,
) -> None:
    # Given a worker with eight tasks and, among them, an isolated one that kills its process on every try
    worker = board.start_worker(threads=9)
    board.raise_flag("deadly")
    keys = [f"neighbour-{n}" for n in range(8)]
    neighbours = board.submit_all(
        [Order(task_type="work", payload={"key": key, "seconds": 4}) for key in keys]
    )
    eventually(lambda: all(is_started(board, key) for key in keys), 20)
    deadly = board.submit("alone_and_deadly", {"key": "deadly"})
    # When it has died three times
    task = board.finished(deadly, 20)
    # Then it fails with its reason
    assert task.status == "failed"
    assert task.error == {"code": "worker_lost", "message": f"{LOST} (3 of 3)."}
    assert board.moves(deadly) == ["queued", *["running", "queued"] * 2, "running", "failed"]
    assert len(set(processes(board, "deadly"))) == 3
    # and the others finish on their first attempts, none of them marked
    board.all_finished(neighbours)
    assert [board.moves(one) for one in neighbours] == [["queued", "running", "completed"]] * 8
    assert [deaths(board, one) for one in neighbours] == [0] * 8
    assert {processes(board, key)[0] for key in keys} == {worker.pid}


def test_a_run_fails_with_its_isolated_stage_that_always_dies(board: Installation) -> None:
    board.start_worker()
    run_id = board.submit("fatal_numbers", 3)
    run = board.finished(run_id, 20)
    assert run.status == "failed"
    assert run.error == {"code": "worker_lost", "message": f"{LOST} (3 of 3).", "stage": "fatal"}
    assert board.traces(run_id) == ["make_list", "fatal", "fatal", "fatal"]


def test_a_task_whose_worker_was_killed_runs_next_in_a_process_of_its_own(board: Installation) -> None:
    # Given an ordinary task whose worker is killed
    victim = board.start_worker()
    suspect = board.submit("work", {"key": "suspect", "seconds": 2})
    eventually(lambda: is_started(board, "suspect"), 20)
    victim.kill()
    # When another worker comes, then it completes there, alone
    other = board.start_worker()
    task = board.finished(suspect, 30)
    assert (task.status, task.attempts) == ("completed", 2)
    first, second = processes(board, "suspect")
    assert first == victim.pid
    assert second not in (victim.pid, other.pid)
    # and what nobody suspects still runs on the worker's threads
    board.finished(board.submit("work", {"key": "honest"}))
    assert processes(board, "honest") == [other.pid]


@pytest.mark.parametrize("task_type", ["alone_but_deaf", "hogging"])
def test_a_worker_that_is_killed_leaves_no_process_behind(board: Installation, task_type: str) -> None:
    worker = board.start_worker()
    board.submit(task_type, {"key": "orphan", "seconds": 600})
    board.finished(board.submit("alone", {"key": "idle"}), 20)
    eventually(lambda: is_started(board, "orphan"), 20)
    worker.kill()
    orphan, idle = processes(board, "orphan")[0], processes(board, "idle")[0]
    eventually(lambda: is_gone(orphan) and is_gone(idle), 5)
