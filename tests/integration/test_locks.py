"""Locks on names: one holder at a time in all processes, and a fence that ascends from each to the next."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors import LockLost, LockNotAvailable, actor, connect, lock, submit
from actors.board import Board
from actors.testing import in_memory
from tasks.errors import InvalidField
from tasks.locks import PostgresLocks
from tests.support.processes import REPOSITORY, Installation, installation
from tests.support.waiting import eventually

HOLDER = """
import sys
from tasks.locks import PostgresLocks
hold = PostgresLocks(sys.argv[1]).try_hold("kb:7")
print(hold.fence, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locks(url: str, shared: PooledPostgresqlDatabase) -> Iterator[PostgresLocks]:
    """The locks of this process."""
    locks = PostgresLocks(url)
    yield locks
    locks.close()


@pytest.fixture
def others(url: str, shared: PooledPostgresqlDatabase) -> Iterator[PostgresLocks]:
    """The locks as another process has them: on another connection."""
    locks = PostgresLocks(url)
    yield locks
    locks.close()


def end_other_sessions(url: str) -> None:
    """Have Postgres end every session that holds an advisory lock."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")


# --- one holder at a time ------------------------------------------------------------------------


def test_a_lock_is_refused_to_others_until_it_is_given_back(
    locks: PostgresLocks, others: PostgresLocks
) -> None:
    # Given a holder
    first = locks.try_hold("kb:1")
    assert first is not None
    assert first.is_held()
    # Then neither its own process nor another one gets the lock, and other names are free
    assert locks.try_hold("kb:1") is None
    assert others.try_hold("kb:1") is None
    assert others.try_hold("kb:2") is not None
    # When it is given back, then the next holder has a higher fence
    first.release()
    second = others.try_hold("kb:1")
    assert second is not None
    assert second.fence > first.fence
    # and giving it back again takes it from nobody
    first.release()
    assert second.is_held()
    assert locks.try_hold("kb:1") is None


def test_many_threads_of_two_processes_hold_it_one_after_the_other(
    locks: PostgresLocks, others: PostgresLocks
) -> None:
    inside, most, fences = 0, 0, []

    def enter(turn: int) -> None:
        nonlocal inside, most
        mine = (locks, others)[turn % 2]
        eventually(lambda: (hold := mine.try_hold("crowd")) is not None and not holds.append(hold))
        inside += 1
        most = max(most, inside)
        hold = holds.pop()
        fences.append(hold.fence)
        inside -= 1
        hold.release()

    holds: list[Any] = []
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter, range(24)))
    assert most == 1
    assert fences == sorted(set(fences))
    assert len(fences) == 24


def test_a_lock_is_free_as_soon_as_its_holder_was_killed(url: str, locks: PostgresLocks) -> None:
    # Given a holder in another process
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    assert process.stdout is not None
    fence = int(process.stdout.readline())
    assert locks.try_hold("kb:7") is None
    # When it is killed, then the lock is had with a higher fence
    process.kill()
    process.communicate()
    taken: list[Any] = []
    eventually(lambda: bool(hold := locks.try_hold("kb:7")) and not taken.append(hold))
    assert taken[0].fence > fence


def test_postgres_ends_a_holder_that_says_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch, url: str, locks: PostgresLocks, shared: PooledPostgresqlDatabase
) -> None:
    # Given a holder whose process stands still: no heart beats, and Postgres waits for a second
    monkeypatch.setattr("tasks.locks._PATIENCE", "SET idle_session_timeout = '1s'")
    monkeypatch.setattr("tasks.locks.BEAT_SECONDS", 600.0)
    frozen = PostgresLocks(url)
    hold = frozen.try_hold("frozen")
    assert hold is not None
    # Then others get the lock
    eventually(lambda: locks.try_hold("frozen") is not None)
    # and it hears of it when it goes on
    assert not hold.is_held()
    monkeypatch.setattr("tasks.locks.BEAT_SECONDS", 0.0)
    frozen.close()


# --- for programs --------------------------------------------------------------------------------


@pytest.fixture(params=["postgres", "memory"])
def board(request: pytest.FixtureRequest, url: str, shared: PooledPostgresqlDatabase) -> Iterator[Board]:
    """A program's board, on Postgres and in memory."""
    with connect(url) if request.param == "postgres" else in_memory() as board:
        yield board


def test_a_program_holds_a_lock_for_a_block(board: Board) -> None:
    with lock("report") as first:
        first.check()
        with (
            pytest.raises(LockNotAvailable, match="held by others for 0 s: try again") as refused,
            lock("report", timeout=0),
        ):
            pass
    assert refused.value.code == "lock_timeout"
    with lock("report", timeout=0) as second:
        assert second.fence > first.fence
    with pytest.raises(LockLost):
        first.check()


def test_whoever_waits_gets_the_lock_when_it_is_given_back(board: Board) -> None:
    fences: list[int] = []

    def wait_for_it() -> None:
        with lock("awaited", timeout=10) as held:
            fences.append(held.fence)

    waiting = threading.Thread(target=wait_for_it)
    with lock("awaited") as first:
        waiting.start()
        waiting.join(0.1)
        assert not fences
    waiting.join(10)
    assert fences[0] > first.fence


def test_an_error_in_the_block_gives_the_lock_back(board: Board) -> None:
    with pytest.raises(ZeroDivisionError), lock("broken"):
        raise ZeroDivisionError
    with lock("broken", timeout=0):
        pass


@pytest.mark.parametrize(
    "name", ["", "n" * 201, "nul\0", "\ud800", 7], ids=["none", "long", "nul", "lone", "no text"]
)
def test_a_name_that_cannot_be_stored_is_refused(board: Board, name: Any) -> None:
    with pytest.raises(InvalidField, match="name"), lock(name):
        pass


def test_a_holder_hears_that_its_connection_and_so_the_lock_was_lost(
    url: str, shared: PooledPostgresqlDatabase
) -> None:
    with connect(url), lock("torn") as held:
        end_other_sessions(url)
        with pytest.raises(LockLost, match="'torn' was lost"):
            held.check()
        # and the name can be had again at once
        with lock("torn", timeout=5) as again:
            assert again.fence > held.fence


@actor
def doubled(number: int) -> int:
    with lock(f"number:{number}", timeout=1) as held:
        held.check()
        return number * 2


def test_an_actor_on_a_board_in_memory_has_locks() -> None:
    with in_memory(doubled) as board:
        assert board.wait(submit(doubled, 4).task_id).result == 8


# --- for actors in workers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def workers(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A clock and a worker."""
    with installation(postgres_url, None, tmp_path_factory.mktemp("locks")) as house:
        house.start_clock()
        house.start_worker(threads=4)
        yield house
        house.show_logs()


def test_actors_on_threads_and_in_processes_of_their_own_exclude_each_other(workers: Installation) -> None:
    types = {"a": "guarded", "b": "guarded_alone", "c": "guarded"}
    ids = [
        workers.submit(kind, {"key": key, "name": "shared", "seconds": 0.2}) for key, kind in types.items()
    ]
    workers.all_finished(ids)
    # Then each one ended before the next one started, and their fences are those of that order
    traces = [line for line in workers.traces() if line.split()[1] in types]
    assert [line.split()[0] for line in traces] == ["start", "end"] * 3
    order = [line.split()[1] for line in traces[::2]]
    results = dict(zip(types, [workers.task(one).result for one in ids], strict=True))
    assert [results[key] for key in order] == [1, 2, 3]


@pytest.mark.parametrize("task_type", ["guarded", "guarded_alone"])
def test_who_waits_for_a_lock_can_be_cancelled_and_who_holds_it_gives_it_back(
    workers: Installation, task_type: str
) -> None:
    # Given a holder and one that waits
    name = f"lock of {task_type}"
    holder = workers.submit(task_type, {"key": f"holder-{task_type}", "name": name, "seconds": 600})
    eventually(lambda: "start" in workers.traces(f"holder-{task_type}"), 20)
    waiting = workers.submit(task_type, {"key": f"waiting-{task_type}", "name": name})
    workers.has_status(waiting, "running")
    # When both are cancelled, then a third one gets the lock: neither keeps it
    for one in (waiting, holder):
        assert workers.kit.ledger.cancel(one).result(10) == "cancelled"
    last = workers.finished(workers.submit("guarded", {"key": f"last-{task_type}", "name": name}))
    assert last.status == "completed"
    assert not workers.traces(f"waiting-{task_type}")


def test_waiting_for_a_lock_ends_with_the_time_of_the_task(workers: Installation) -> None:
    elsewhere = PostgresLocks(workers.database_url)
    assert elsewhere.try_hold("occupied") is not None
    late = workers.submit("guarded", {"key": "late", "name": "occupied"}, timeout=0.5, max_retries=0)
    task = workers.finished(late)
    elsewhere.close()
    assert task.error is not None
    assert task.error["code"] == "timeout"
