"""What waits until a worker is there for it: the same on both brokers."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from actors.submission import Order
from tests.support.processes import Installation, Running, installation
from tests.support.waiting import eventually


@pytest.fixture(params=["local", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("rabbit_node").url) if request.param == "rabbitmq" else None


@pytest.fixture
def board(postgres_url: str, broker_url: str | None, tmp_path: Path) -> Iterator[Installation]:
    """An installation without any process yet."""
    with installation(postgres_url, broker_url, tmp_path) as board:
        yield board
        board.show_logs()


@pytest.fixture
def clock(board: Installation) -> Running:
    """The only clock."""
    return board.start_clock()


def test_a_queued_task_that_is_cancelled_is_never_run(board: Installation) -> None:
    cancelled = board.submit("work", {"key": "cancelled"})
    assert board.kit.ledger.cancel(cancelled).result(10) == "cancelled"
    other = board.submit("work", {"key": "other"})
    board.start_worker()
    assert board.finished(other).status == "completed"
    assert board.task(cancelled).status == "cancelled"
    assert board.moves(cancelled) == ["queued", "cancelled"]
    assert board.traces("cancelled") == []


def test_with_one_thread_busy_high_priorities_run_before_low_ones(
    board: Installation, clock: Running
) -> None:
    # Given a worker whose only thread is busy
    board.start_worker(threads=1)
    board.submit("work", {"key": "busy", "seconds": 1.5})
    eventually(lambda: board.traces("busy"), 15)
    # When low priorities are asked for, then high ones
    low = [Order(task_type="work", payload={"key": f"low-{n}"}, priority=2) for n in range(3)]
    high = [Order(task_type="work", payload={"key": f"high-{n}"}, priority=8) for n in range(3)]
    ids = board.submit_all(low) + board.submit_all(high)
    board.all_finished(ids)
    # Then the high ones run first, except for the one task that may be fetched ahead
    starts = [line.split()[1] for line in board.traces() if line.startswith("start ")]
    assert starts[0] == "busy"
    assert sum(key.startswith("high") for key in starts[1:5]) == 3, starts


def test_a_type_that_no_worker_knows_waits_for_one_that_does(board: Installation, clock: Running) -> None:
    # Given a worker without the user's module
    without = board.start_worker(ACTORS="")
    known = board.submit("test", {"says": "hello"})
    assert board.finished(known).result == {"says": "hello"}
    # When a task of a type of that module is submitted, then it waits, with its reason
    task_id = board.submit("work", {"key": "unknown"})
    eventually(lambda: waits(board, task_id))
    # When a worker with the module comes, then it runs; waiting was not a failure
    without.terminate()
    assert without.exit_code() == 0
    board.start_worker()
    task = board.finished(task_id, 20)
    assert (task.status, task.attempts) == ("completed", 1)
    assert board.ended_attempts(task_id) == []
    board.moves(task_id)


def waits(board: Installation, task_id: UUID) -> bool:
    """Without RabbitMQ the task is not even fetched; with it, the worker sends it back for a moment."""
    sent_back = [event.message for event in board.kit.queries.history(task_id) if event.message]
    if board.broker_url:
        return sent_back == ["waits for a worker that knows its type"]
    return board.task(task_id).wait_reason == "no worker for its type"


def test_killing_the_clock_and_starting_another_one_loses_nothing(
    board: Installation, clock: Running
) -> None:
    # Given tasks that only a clock moves on: delayed ones, and ones that will be tried again
    board.start_worker()
    delayed = [Order(task_type="work", payload={"key": f"delayed-{n}"}, delay=1.0) for n in range(20)]
    failing = [
        Order(task_type="flaky", payload={"key": f"flaky-{n}", "failures": 1}, backoff={"kind": "fixed"})
        for n in range(20)
    ]
    ids = board.submit_all(delayed + failing)
    eventually(lambda: board.traces("flaky-19"), 20)
    # When it is killed and, later, others are started
    clock.kill()
    with pytest.raises(AssertionError):
        board.all_finished(ids, timeout=2)
    board.start_clock()
    board.start_clock()
    # Then everything completes, and ran no more often than it should
    board.all_finished(ids)
    assert {board.task(task_id).status for task_id in ids} == {"completed"}
    assert all(board.traces(f"delayed-{n}") == ["start", "end"] for n in range(20))
    assert all(board.traces(f"flaky-{n}") == ["start", "start"] for n in range(20))
