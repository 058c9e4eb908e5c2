"""The board of a program of its own, and the one that actors have inside a worker."""

import os
import subprocess
import sys

from tests.support.processes import REPOSITORY, Installation
from tests.support.waiting import eventually

PROGRAM = """
import sys
from actors import count, result, status, submit, wait
task = submit("test", {"n": 1}, task_id=sys.argv[1])
print(wait(task.task_id, 20).status, result(task.task_id), count(task_type="test", status="completed") > 0)
"""


def run(board: Installation, *arguments: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CALLBOARD_DATABASE_URL": board.kit.database_url}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environ,
        cwd=board.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_submits_and_waits_by_its_environment_alone(board: Installation) -> None:
    # Given a worker, and a program that only imports the functions
    board.start_worker()

    # When it submits a task under an id of its own, and then the same again
    own = "0b7a2f6e-3c1d-4e5f-8a9b-0c1d2e3f4a5b"
    said = [run(board, own), run(board, own)]

    # Then it gets its result, both times of the one task.
    assert said == ["completed {'n': 1} True\n"] * 2
    assert board.value("SELECT count(*) FROM tasks WHERE task_type = 'test'") == 1


def test_an_actor_submits_and_waits_on_its_workers_own_connections(board: Installation) -> None:
    # Given a worker with two threads
    board.start_worker(threads=2)

    # When a task submits another one and waits for its result
    parent = board.finished(board.submit("delegates", {"n": 41}))

    # Then it gets it, and its process has opened no second pool.
    assert parent.status == "completed", parent.error
    assert parent.result == {"answer": {"n": 41}, "shared": True}


def test_an_isolated_actor_does_so_too(board: Installation) -> None:
    board.start_worker(threads=2)

    parent = board.finished(board.submit("delegates_alone", {"n": 41}), timeout=30)

    assert parent.status == "completed", parent.error
    assert parent.result == {"answer": {"n": 41}, "shared": False}


def test_a_cancelled_actor_that_waits_for_another_task_is_interrupted(board: Installation) -> None:
    # Given a task that waits for one that nobody runs
    board.start_worker(threads=2)
    parent = board.submit("waits_for_nobody", "key")
    eventually(lambda: board.traces("key") == ["start"])

    # When it is cancelled
    board.kit.ledger.cancel(parent).result(10)

    # Then its waiting ends at once.
    eventually(lambda: board.traces("key") == ["start", "cancelled"])
