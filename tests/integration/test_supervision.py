"""Workers under a supervisor: one that dies, or has lost its lease, has a successor within seconds."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.submission import Order
from tests.support.processes import Installation, Running, installation
from tests.support.waiting import eventually

#: A deadline for a busy machine, well below the drain that a worker without a lease must not wait for.
RESTORED_SECONDS = 30.0


@pytest.fixture
def board(postgres_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installation(postgres_url, None, tmp_path) as board:
        board.start_clock()
        yield board
        board.show_logs()


@pytest.fixture
def workers(board: Installation) -> Running:
    """Two workers with two threads each, all of them at work."""
    workers = board.start_workers(2, threads=2)
    eventually(lambda: running(board) == 0 and len(workers.children) == 2, 20)
    board.submit_all([Order(task_type="work", payload={"key": f"{n}", "seconds": 300}) for n in range(8)])
    eventually(lambda: running(board) == 4, 20)
    return workers


def running(board: Installation) -> int:
    return int(board.value("SELECT count(*) FROM task_state WHERE status = 'running'"))


def processes_at_work(board: Installation) -> set[int]:
    sql = "SELECT array_agg(DISTINCT pid) FROM workers JOIN task_state s ON s.worker = workers.id"
    return set(board.value(f"{sql} WHERE s.status = 'running'") or ())


def all_work_again(board: Installation, workers: Running, victim: psutil.Process) -> bool:
    """Whether two processes are at work, none of them the victim, on all of their threads."""
    at_work = processes_at_work(board)
    return len(at_work) == 2 and victim.pid not in at_work and running(board) == 4


def test_the_capacity_of_a_killed_worker_is_back_within_seconds_and_its_sibling_goes_on(
    board: Installation, workers: Running
) -> None:
    victim, sibling = workers.children
    victim.send_signal(signal.SIGKILL)
    eventually(lambda: all_work_again(board, workers, victim), RESTORED_SECONDS)
    assert sibling in workers.children
    assert board.value("SELECT count(*) FROM attempts WHERE outcome = 'lost'") == 2


def test_a_worker_that_lost_its_lease_is_started_again_at_once(board: Installation, workers: Running) -> None:
    victim, sibling = workers.children
    owner = board.value("SELECT id FROM workers WHERE pid = %s", victim.pid)
    board.kit.ledger.rescue(owner, died=False).result(10)
    eventually(lambda: all_work_again(board, workers, victim), RESTORED_SECONDS)
    assert sibling in workers.children
    assert not victim.is_running()
