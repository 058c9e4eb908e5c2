"""Threads that die in a worker are replaced: no slot, no claim and no message is lost with them."""

import time

import pytest

from tests.support.processes import Installation, Running
from tests.support.waiting import eventually

#: A thread may be dead for so long until others take its place.
REPLACED_SECONDS = 3.0


@pytest.fixture
def worker(board: Installation) -> Running:
    """A worker with a single thread: once that is dead, nothing runs."""
    worker = board.start_worker(threads=1)
    board.finished(board.submit("work", {"key": "warm"}), 20)
    return worker


def runs_again(board: Installation, worker: Running, count: int = 3) -> None:
    """Whether tasks go through soon, on the same process."""
    asked_at = time.monotonic()
    ids = [board.submit("work", {"key": f"after-{n}"}) for n in range(count)]
    board.all_finished(ids, timeout=10)
    assert time.monotonic() - asked_at < REPLACED_SECONDS
    assert all(f"end after-{n}" in board.traces_of_process(worker.pid) for n in range(count))
    assert not worker.has_ended


@pytest.mark.parametrize("moment", ["finishing", "idle"])
def test_a_worker_thread_that_died_is_replaced_and_its_task_is_finished_once(
    board: Installation, worker: Running, moment: str
) -> None:
    # Given a task whose thread dies after the actor returned
    task_id = board.submit("doomed", {"key": "doomed", "moment": moment})
    eventually(lambda: worker.says("a worker thread died"))
    # Then the capacity is back within seconds, on the same process
    runs_again(board, worker)
    # and the task was run, and finished, once
    assert board.finished(task_id).status == "completed"
    assert board.traces("doomed") == ["start", "doom"]
    assert board.moves(task_id) == ["queued", "running", "completed"]


def test_a_task_whose_call_was_broken_off_in_our_own_code_is_given_back(
    board: Installation, worker: Running
) -> None:
    # Given a task whose call is hit before its actor is reached
    board.submit("doomed", {"key": "doomed", "moment": "next call"})
    eventually(lambda: board.traces("doomed"))
    hit = board.submit("work", {"key": "hit"})
    eventually(lambda: "doom" in board.traces("doomed"))
    # Then it is run all the same, and no capacity is lost
    assert board.finished(hit).status == "completed"
    assert board.traces("hit") == ["start", "end"]
    assert board.moves(hit) == ["queued", "running", "queued", "running", "completed"]
    runs_again(board, worker)


def test_a_consumer_that_died_is_replaced(board: Installation, worker: Running) -> None:
    # Given a worker whose consuming threads are ended from outside
    ended = board.submit("end_consumers", {"key": "consumers"})
    board.finished(ended)
    whose = "default" if board.broker_url else "all queues"
    eventually(lambda: worker.says(f"the consumer of {whose} died"))
    # Then others take their place, and nothing was lost
    runs_again(board, worker)
    assert board.traces("consumers") == ["start"]
    assert board.moves(ended) == ["queued", "running", "completed"]
