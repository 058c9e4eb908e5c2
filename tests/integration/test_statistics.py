"""Statistics: exact whatever happens, folded or not; and they outlive their tasks."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.clock import MOST_FOLDS, Clock
from tasks import lists, windows
from tasks.coroner import Coroner
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.ledger.runs import Advance
from tasks.ledger.statistics import BATCH
from tasks.queries import Queries
from tasks.records import Page, Statistics, TaskFilter
from tasks.values import Claimed, NewTask, TaskError
from tasks.windows import Window, cover

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")
NOW = datetime(2026, 5, 17, 12, 30, 30, tzinfo=UTC)


class Record:
    """A ledger on an empty record, and the statistics of it."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute("TRUNCATE tasks, task_state, attempts, events, dead_letters, tallies, statistics")

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def submit(self, **fields: Any) -> UUID:
        task = NewTask(**{"task_type": "work", "queue_name": "default", **fields})
        self.ledger.submit([task]).result(10)
        return task.id

    def claim(self, task_type: str = "work", queue: str = "default") -> Claimed:
        (claim,) = self.ledger.fetch([queue], [task_type], 1).result(10)
        return claim

    def completed(self, task_type: str = "work", queue: str = "default", **fields: Any) -> UUID:
        task_id = self.submit(task_type=task_type, queue_name=queue, **fields)
        claim = self.claim(task_type, queue)
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        return task_id

    def failed(self, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        assert self.ledger.fail(self.claim(), OOPS, retry_in=None).result(10)
        return task_id

    def cancelled(self, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        assert self.ledger.cancel(task_id).result(10) == "cancelled"
        return task_id

    def fold(self) -> int:
        return self.ledger.fold().result(10)

    def read(self, **window: Any) -> Statistics:
        return self.queries.statistics(Window(**window))

    def total(self, **wanted: Any) -> int:
        return self.queries.tasks(TaskFilter(**wanted), Page(limit=1)).total


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


def numbers(statistics: Any) -> tuple[int, int, int, int]:
    return (statistics.total, statistics.completed, statistics.failed, statistics.cancelled)


def hours(record: Record, by: float, *ids: UUID) -> None:
    """Let tasks be so many hours older."""
    record.sql.execute(
        "UPDATE tasks SET created_at = created_at - make_interval(secs => %s) WHERE id = ANY(%s)",
        (by * 3600, list(ids)),
    )


@pytest.mark.parametrize("folds", [False, True], ids=["tallied", "folded"])
def test_what_happened_is_counted_at_once_and_once(record: Record, folds: bool) -> None:
    # Given tasks that ended in every way, and one that waits
    record.completed()
    record.completed("mail", "post")
    record.failed()
    record.cancelled()
    record.submit()

    # When they are folded, or not yet
    if folds:
        assert record.fold() > 0
        assert record.fold() == 0

    # Then everything is counted, whichever way one looks
    found = record.read()
    assert numbers(found) == (5, 2, 1, 1)
    assert found.success_rate == pytest.approx(66.67)
    assert {name: numbers(one) for name, one in found.by_type.items()} == {
        "mail": (1, 1, 0, 0),
        "work": (4, 1, 1, 1),
    }
    assert set(found.by_queue) == {"default", "post"}
    assert [numbers(point) for point in found.series.points] == [(5, 2, 1, 1)]
    assert numbers(record.read(task_type="mail")) == numbers(record.read(queue_name="post")) == (1, 1, 0, 0)


@pytest.mark.parametrize("folds", [False, True], ids=["tallied", "folded"])
def test_a_window_is_exact_to_the_microsecond(record: Record, folds: bool) -> None:
    # Given tasks before and after a moment, in the same minute mostly
    record.completed()
    record.failed()
    moment = record.sql.execute("SELECT clock_timestamp()").fetchone()
    assert moment is not None
    record.completed()
    if folds:
        record.fold()

    # Then each is on its side
    assert numbers(record.read(until=moment[0])) == (2, 1, 1, 0)
    assert numbers(record.read(since=moment[0])) == (1, 1, 0, 0)
    assert numbers(record.read(since=moment[0], until=moment[0])) == (0, 0, 0, 0)
    last_week = record.read(since=moment[0] - timedelta(days=7), until=moment[0] + timedelta(hours=1))
    assert numbers(last_week) == (3, 2, 1, 0)


def test_percentiles_are_those_of_the_completed(record: Record) -> None:
    # Given a hundred tasks that took 10, 20, … 1,000 ms
    made = [record.submit() for _ in range(100)]
    record.sql.execute("TRUNCATE tallies")
    for claim in record.ledger.fetch(["default"], ["work"], 100).result(10):
        milliseconds = (made.index(claim.id) + 1) * 10
        record.sql.execute(
            "UPDATE task_state SET started_at = now() - make_interval(secs => %s) WHERE id = %s",
            (milliseconds / 1000, claim.id),
        )
        record.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
    record.fold()

    # Then half took less than half a second; how long each waited for its commit does not matter much
    found = record.read()
    assert found.avg_duration_ms == pytest.approx(505, rel=0.1)
    assert found.p50 == pytest.approx(500, rel=0.1)
    assert found.p95 == pytest.approx(950, rel=0.1)
    assert found.by_type["work"].p95 == found.by_queue["default"].p95 == found.p95


def test_stages_are_counted_only_when_asked_for(record: Record) -> None:
    run_id = new_id()
    run = NewTask(id=run_id, task_type="flow", queue_name="default", is_run=True)
    stage = NewTask(task_type="flow.a", queue_name="default", run_id=run_id, stage="a", stage_index=0)
    record.ledger.submit([run, stage]).result(10)
    claim = record.claim("flow.a")
    record.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
    assert record.ledger.advance(Advance(run_id, status="completed")).result(10)

    for _ in range(2):
        assert numbers(record.read()) == (1, 1, 0, 0)
        assert numbers(record.read(stages=True)) == (2, 2, 0, 0)
        record.fold()


def test_a_user_sees_the_figures_of_own_tasks_alone(record: Record) -> None:
    record.completed(user_id="ann")
    record.completed(user_id="bob")
    record.failed(user_id="bob")

    for _ in range(2):
        assert numbers(record.read(user="ann")) == (1, 1, 0, 0)
        assert numbers(record.read(user="bob")) == (2, 1, 1, 0)
        assert numbers(record.read(user="eve")) == (0, 0, 0, 0)
        assert numbers(record.read()) == (3, 2, 1, 0)
        record.fold()


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_task_that_runs_again_counts_once_for_its_last_end(record: Record, when: str) -> None:
    # Given a failed task
    task_id = record.failed()
    if when == "before":
        record.fold()
    letter = record.sql.execute("SELECT id FROM dead_letters").fetchone()
    assert letter is not None

    # When it is replayed, it has failed no more
    assert record.ledger.replay(letter[0]).result(10) == "replayed"
    if when == "between":
        record.fold()
    assert numbers(record.read()) == (1, 0, 0, 0)

    # And when it completes, it has completed
    claim = record.claim()
    assert claim.id == task_id
    record.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
    record.fold()
    assert numbers(record.read()) == (1, 1, 0, 0)


def test_an_end_and_a_new_round_in_one_transaction_cancel_each_other_out(record: Record) -> None:
    # Given a failed task, and a running one
    record.failed()
    letter = record.sql.execute("SELECT id FROM dead_letters").fetchone()
    assert letter is not None
    claims = [record.submit() for _ in range(20)] and record.ledger.fetch(["default"], ["work"], 20).result(
        10
    )

    # When completions and the replay share a commit
    verbs: list[Any] = [record.ledger.complete(one, Complete(one.id, one.token, None)) for one in claims]
    verbs.append(record.ledger.replay(letter[0]))
    for verb in verbs:
        verb.result(10)

    # Then each is counted as it is on record
    assert numbers(record.read()) == (21, 20, 0, 0)


def test_statistics_outlive_their_tasks_and_totals_do_not(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a record whose totals come from the statistics
    monkeypatch.setattr(lists, "COUNTED_UP_TO", -1)
    ids = [record.completed(), record.failed()]
    record.submit()
    assert (record.total(), record.total(statuses=("completed",))) == (3, 1)

    # When the finished tasks are removed, one of them after it was folded
    assert record.ledger.delete(ids[0]).result(10) == "deleted"
    record.fold()
    assert record.ledger.delete(ids[1]).result(10) == "deleted"

    # Then what they did still counts, but there is one task left
    for _ in range(2):
        assert numbers(record.read()) == (3, 1, 1, 0)
        assert (record.total(), record.total(statuses=("completed", "failed"))) == (1, 0)
        record.fold()


@pytest.mark.parametrize("folds", [False, True], ids=["tallied", "folded"])
def test_totals_from_the_statistics_are_those_of_counting(
    record: Record, monkeypatch: pytest.MonkeyPatch, folds: bool
) -> None:
    # Given tasks of several types, queues, users and states
    for number in range(24):
        kind = {"task_type": ["work", "mail"][number % 2], "queue_name": ["default", "post"][number % 3 // 2]}
        task_id = record.submit(**kind, user_id=["", "ann"][number // 2 % 2])
        if number % 4 == 0:
            record.ledger.cancel(task_id).result(10)
    unfinished = ("scheduled", "blocked", "queued", "running", "retrying")
    asked: list[dict[str, Any]] = [
        {},
        {"statuses": ("cancelled",)},
        {"statuses": ("queued",)},
        {"statuses": unfinished},
        {"statuses": ("cancelled", *unfinished)},
        {"task_type": "mail"},
        {"queue_name": "post", "statuses": ("cancelled", "failed")},
        {"owner": "ann"},
        {"owner": "ann", "user_id": "bob"},
        {"user_id": "ann", "task_type": "work", "stages": True},
    ]
    if folds:
        record.fold()

    counted = [record.total(**one) for one in asked]
    monkeypatch.setattr(lists, "COUNTED_UP_TO", -1)
    known = [record.total(**one) for one in asked]

    assert known == counted
    assert counted[:3] == [24, 6, 18]


def test_windows_of_long_ago_are_read_from_the_buckets_that_are_left(record: Record) -> None:
    # Given a task of today, one of three days and one of ninety days ago
    ages: dict[int, Callable[[], UUID]] = {0: record.completed, 3: record.failed, 90: record.completed}
    for days, made in ages.items():
        hours(record, days * 24, made())
        record.sql.execute(
            "UPDATE tallies SET minute = minute - make_interval(days => %s) WHERE minute > now() - interval"
            " '1 hour'",
            (days,),
        )
        record.fold()
    now = datetime.now(UTC)

    # When the finer buckets are forgotten
    record.ledger.thin_out().result(10)

    # Then the figures are the same
    assert numbers(record.read()) == (3, 2, 1, 0)
    assert numbers(record.read(since=now - timedelta(days=4))) == (2, 1, 1, 0)
    assert numbers(record.read(since=now - timedelta(days=4), until=now - timedelta(days=2))) == (1, 0, 1, 0)
    assert numbers(record.read(since=now - timedelta(days=91), until=now - timedelta(days=89))) == (
        1,
        1,
        0,
        0,
    )
    assert len(record.read().series.points) == 3


def test_two_clocks_that_fold_at_once_count_nothing_twice(record: Record, url: str) -> None:
    other = Ledger(url).start()
    for _ in range(30):
        record.completed()

    folding = [ledger.fold() for _ in range(10) for ledger in (record.ledger, other)]

    assert sum(fold.result(10) for fold in folding) >= 30
    assert numbers(record.read()) == (30, 30, 0, 0)
    other.close()


class NoFlow:
    """There are no runs to settle."""

    def settle(self, run_id: UUID) -> None:
        raise AssertionError(f"nothing is to be settled, but {run_id} was")


def test_a_clock_with_much_to_fold_does_everything_else_between(record: Record, url: str) -> None:
    # Given so many tallies that one round of a clock takes only a part of them
    coroner = Coroner(url)
    clock = Clock(record.ledger, record.queries, coroner, NoFlow())
    tallies = (MOST_FOLDS + 1) * BATCH
    record.sql.execute(
        "INSERT INTO tallies SELECT date_trunc('minute', now()), '', 'work', 'default', false, 'submitted',"
        " 1, 1 FROM generate_series(1, %s)",
        (tallies,),
    )

    # When it ticks
    clock.tick()
    left = record.sql.execute("SELECT count(*) FROM tallies").fetchone()
    clock.tick()

    # Then the next round goes on at once, and all are counted
    assert left == (BATCH,)
    assert record.sql.execute("SELECT count(*) FROM tallies").fetchone() == (0,)
    assert record.read().total == tallies
    coroner.close()


def test_a_window_is_covered_by_buckets_as_large_as_possible_without_gaps() -> None:
    since, until = NOW - timedelta(days=1, hours=2, minutes=3), NOW + timedelta(hours=3)

    pieces = cover(since, until, list(windows.LEVELS), NOW)

    assert [piece.level for piece in pieces] == ["raw", "minute", "hour", "minute", "raw"]
    assert [(piece.since, piece.until) for piece in pieces] == list(
        zip([since, *(piece.until for piece in pieces)], [piece.until for piece in pieces], strict=False)
    )
    assert pieces[-1].until == until


def test_old_minutes_are_read_from_the_tasks() -> None:
    since = NOW - timedelta(days=10)

    pieces = cover(since, NOW, list(windows.LEVELS), NOW)

    assert [piece.level for piece in pieces] == ["raw", "hour", "day", "hour", "minute", "raw"]
    assert pieces[0].until - since < timedelta(hours=1)
