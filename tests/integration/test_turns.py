"""Queues take turns where workers fetch without a broker: none of them starves another one."""

from collections import Counter
from collections.abc import Iterator

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.ledger import concurrency
from tasks.ledger.turns import AT_ONCE
from tasks.values import Claimed, NewTask
from tests.support.callbacks import Record


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    made.sql.execute("TRUNCATE tasks, task_state, attempts, events, workers, dispatches, queues, task_types")
    yield made
    made.close()


def submit(record: Record, *queues: str, count: int = 1, task_type: str = "work") -> None:
    tasks = [NewTask(task_type=task_type, queue_name=queue) for queue in queues for _ in range(count)]
    record.ledger.submit(tasks).result(10)


def fetch(record: Record, limit: int, after: str = "", *, only: list[str] | None = None) -> list[Claimed]:
    return record.ledger.fetch(only, ["work"], limit, after).result(10)


def by_queue(claims: list[Claimed]) -> dict[str, int]:
    return Counter(claim.queue for claim in claims)


def test_queues_with_ready_tasks_get_equal_shares_and_leave_what_they_do_not_need(record: Record) -> None:
    submit(record, "a", count=2)
    submit(record, "b", "c", count=20)
    assert by_queue(fetch(record, 12)) == {"a": 2, "b": 5, "c": 5}


def test_one_place_at_a_time_goes_round(record: Record) -> None:
    submit(record, "a", "b", "c", count=4)
    after, served = "", []
    for _ in range(7):
        (claim,) = fetch(record, 1, after)
        after = claim.queue
        served.append(after)
    assert served == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_round_begins_behind_a_queue_that_has_nothing_any_more(record: Record) -> None:
    submit(record, "a", "c")
    assert [claim.queue for claim in fetch(record, 1, "b")] == ["c"]
    assert [claim.queue for claim in fetch(record, 1, "c")] == ["a"]
    assert fetch(record, 1, "c") == []


def test_many_queues_of_which_nothing_may_run_do_not_hide_the_one_behind_them(record: Record) -> None:
    # Given more queues than are looked at by one statement: paused ones, and ones for other workers
    names = [f"q{number:03}" for number in range(AT_ONCE * 5)]
    submit(record, *names[: AT_ONCE * 2])
    for name in names[: AT_ONCE * 2]:
        record.ledger.pause_queue(name).result(10)
    submit(record, *names[AT_ONCE * 2 :], task_type="unknown")
    submit(record, names[-1])
    # Then the last one is served, wherever the round begins
    for after in ("", names[3], names[-2]):
        (claim,) = fetch(record, 1, after)
        assert claim.queue == names[-1]
        assert record.ledger.release(claim).result(10)


def test_a_worker_for_some_queues_gets_tasks_of_those_alone(record: Record) -> None:
    submit(record, "a", "b", "c", count=2)
    assert by_queue(fetch(record, 10, only=["c", "a"])) == {"a": 2, "c": 2}
    assert fetch(record, 10, "b", only=["a"]) == []


def test_a_key_that_is_judged_elsewhere_keeps_no_other_queue_waiting(record: Record) -> None:
    # Given a task whose key another process judges just now, in the queue that comes first
    keyed = NewTask(task_type="work", queue_name="a", concurrency=1, concurrency_key="k")
    record.ledger.submit([keyed]).result(10)
    submit(record, "b")
    with record.sql.transaction():
        name = concurrency._lock_of("k")
        record.sql.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        # When there is a place for one task, then it is that of the next queue
        assert [claim.queue for claim in fetch(record, 1)] == ["b"]
    assert [claim.queue for claim in fetch(record, 1)] == ["a"]
