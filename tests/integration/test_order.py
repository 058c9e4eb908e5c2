"""Who is next: what is important, what has waited long, nobody at the cost of all others. On both brokers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from tasks.ledger import Ledger
from tasks.values import NewTask
from tests.support.processes import Installation
from tests.support.waiting import eventually

THREADS = 2
LOW, HIGH, CRITICAL = 2, 8, 10
#: How many tasks may start until a new one has found its way past those that wait, on a busy machine too.
SOME = {0.02: 40, 0.5: 6}

STARTED_BETWEEN = """
SELECT count(*) FROM task_state s JOIN tasks t USING (id) WHERE t.user_id = %s AND t.id <> ALL(%s)
AND s.started_at BETWEEN (SELECT min(created_at) FROM tasks WHERE id = ANY(%s))
    AND (SELECT max(started_at) FROM task_state WHERE id = ANY(%s))"""

STARTED = (
    "SELECT count(*) FROM task_state s JOIN tasks t USING (id) WHERE user_id = %s AND started_at IS NOT NULL"
)

# How many highs started before one of these lows although they came so many seconds later.
OVERTOOK = """
SELECT count(DISTINCT high.id) FROM tasks high JOIN task_state hs ON hs.id = high.id,
    tasks low JOIN task_state ls ON ls.id = low.id
WHERE high.priority = 8 AND low.id = ANY(%s) AND high.created_at > low.created_at + make_interval(secs => %s)
AND hs.started_at < ls.started_at"""


@pytest.fixture
def office(board: Installation) -> Iterator[Installation]:
    """A worker with two threads; what is left of its work in the end is nothing to anybody."""
    board.start_worker(threads=THREADS)
    yield board
    forget = "DELETE FROM task_state WHERE status IN ('queued', 'running') RETURNING id"
    board.value(f"WITH gone AS ({forget}) DELETE FROM tasks USING gone WHERE tasks.id = gone.id RETURNING 1")


def tasks(count: int, seconds: float, *, priority: int = 5, user_id: str = "") -> list[NewTask]:
    payload = {"key": user_id or "any", "seconds": seconds}
    return [
        NewTask(task_type="work", queue_name="default", payload=payload, priority=priority, user_id=user_id)
        for _ in range(count)
    ]


def submit(board: Installation, some: list[NewTask]) -> list[UUID]:
    board.kit.ledger.submit(some).result(30)
    return [task.id for task in some]


def started_meanwhile(board: Installation, ids: list[UUID], *, of: str) -> int:
    """How many other tasks of a tenant started from the submission of these until all of them had started."""
    return int(board.value(STARTED_BETWEEN, of, ids, ids, ids))


@pytest.mark.parametrize("seconds", [0.02, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_critical_task_is_next_though_a_thousand_low_ones_wait(
    office: Installation, seconds: float
) -> None:
    # Given a worker at work on a thousand tasks of low priority
    submit(office, tasks(1_000, seconds, priority=LOW, user_id="ann"))
    eventually(lambda: office.value(STARTED, "ann") > 2 * THREADS, 20)
    # When a critical one of the same tenant comes
    critical = submit(office, tasks(1, 0, priority=CRITICAL, user_id="ann"))
    office.all_finished(critical)
    # Then it starts next
    assert started_meanwhile(office, critical, of="ann") <= SOME[seconds]


@pytest.mark.parametrize("seconds", [0.02, pytest.param(0.5, marks=pytest.mark.slow)])
def test_ten_tasks_are_not_delayed_by_ten_thousand_of_another_tenant(
    office: Installation, seconds: float
) -> None:
    # Given a tenant with ten thousand tasks
    submit(office, tasks(10_000, seconds, user_id="big"))
    eventually(lambda: office.value(STARTED, "big") > 2 * THREADS, 20)
    # When another one submits ten
    few = submit(office, tasks(10, seconds, user_id="small"))
    office.all_finished(few)
    # Then hardly any of the ten thousand start before the last of them
    assert started_meanwhile(office, few, of="big") <= SOME[seconds]


@contextmanager
def a_steady_stream(board: Installation, ledger: Ledger) -> Iterator[None]:
    """As many tasks of high priority as workers can do, and always some more."""
    over = threading.Event()
    unfinished = "SELECT count(*) FROM task_state WHERE status IN ('queued', 'running') AND priority = %s"

    def feed() -> None:
        while not over.wait(0.02):
            if board.value(unfinished, HIGH) < 24:
                ledger.submit(tasks(8, 0.02, priority=HIGH)).result(10)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        over.set()
        feeder.join()


def test_under_a_steady_stream_of_high_ones_a_low_one_waits_no_longer_than_the_bound(
    office: Installation,
) -> None:
    # Given an installation in which a step of priority is worth half a second, and a stream of high ones
    ledger = Ledger(office.database_url, seconds_per_priority=0.5).start()
    bound = (HIGH - LOW) * 0.5
    with a_steady_stream(office, ledger):
        eventually(lambda: office.value(STARTED, "") > 10, 20)
        # When low ones are submitted
        low = tasks(5, 0, priority=LOW)
        ledger.submit(low).result(10)
        ids = [task.id for task in low]
        # Then they run, although the stream goes on
        office.all_finished(ids, 30)
    ledger.close()
    # and high ones have overtaken them, but hardly any that came when their time was over
    assert office.value(OVERTOOK, ids, 0) > 0
    assert office.value(OVERTOOK, ids, bound) <= THREADS * 4
