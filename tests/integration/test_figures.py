"""Figures from the record: counters never fall, whatever operators and the clock do; who lives is told."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.pool import PooledPostgresqlDatabase

from tasks import figures
from tasks.figures import FigureQueries
from tasks.ids import new_id
from tasks.leases import Lease, Profile
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.ledger.restarts import Restart
from tasks.queries import Queries
from tasks.states import FINAL
from tasks.values import Claimed, NewTask, TaskError
from tasks.vitals import Pulse, Vitals
from tasks.windows import Window
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")


class Record:
    """A ledger on an empty record, the figures of it, and what they should be."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        Queries(database)
        self.figures = FigureQueries(database)
        self.ledger = Ledger(url).start()
        self.sql = psycopg.connect(url, autocommit=True)
        self.begin()

    def begin(self) -> None:
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, dead_letters, tallies, statistics, workers, queues"
        )
        self.truth: Counter[str] = Counter()
        self.running: list[Claimed] = []

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def told(self) -> Counter[str]:
        """What has happened, as the figures say."""
        found: Counter[str] = Counter()
        for words in self.figures.read().counted.words.values():
            found.update(words)
        return +found

    # --- steps -----------------------------------------------------------------------------------

    def submit(self) -> None:
        task = NewTask(task_type="work", queue_name="default", user_id=random.choice(["", "ann"]))
        self.ledger.submit([task]).result(10)
        self.truth["submitted"] += 1

    def claim(self) -> None:
        self.running += self.ledger.fetch(["default"], ["work"], 1).result(10)

    def complete(self) -> None:
        if self.running:
            claim = self.running.pop()
            assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
            self.truth["completed"] += 1

    def fail(self) -> None:
        if self.running:
            claim = self.running.pop()
            assert self.ledger.fail(claim, OOPS, retry_in=None).result(10)
            self.truth["failed"] += 1

    def fail_for_now(self) -> None:
        if self.running:
            assert self.ledger.fail(self.running.pop(), OOPS, retry_in=0.0).result(10)
            self.ledger.promote().result(10)
            self.truth["retried"] += 1

    def lose(self) -> None:
        if self.running:
            claim = self.running.pop()
            assert self.ledger.lose(claim, "It died").result(10)
            self.truth["failed" if claim.id in self._ids("failed") else "retried"] += 1

    def hand_back(self) -> None:
        if self.running:
            assert self.ledger.release(self.running.pop()).result(10)

    def cancel(self) -> None:
        waiting = self._ids("queued")
        if waiting:
            assert self.ledger.cancel(waiting[0]).result(10) == "cancelled"
            self.truth["cancelled"] += 1

    def retry(self) -> None:
        failed = self._ids("failed")
        if failed:
            assert self.ledger.retry(failed[0]).result(10) == "retried"

    def recover(self) -> None:
        done = self._ids("completed") or self._ids("cancelled")
        if done:
            how = Restart(task_id=done[0], leaves=("completed", "cancelled"), message="again")
            assert self.ledger.recover(how).result(10) == "recovered"

    def remove(self) -> None:
        over = [one for status in ("completed", "failed", "cancelled") for one in self._ids(status)]
        if over:
            assert self.ledger.delete(over[0]).result(10) == "deleted"

    def fold(self) -> None:
        self.ledger.fold().result(10)

    def _ids(self, status: str) -> list[UUID]:
        sql = "SELECT id FROM task_state JOIN tasks USING (id) WHERE status = %s AND task_type = 'work'"
        rows = self.sql.execute(f"{sql} ORDER BY id", (status,))
        return [one for (one,) in rows.fetchall()]


STEPS = (
    *("submit", "claim", "complete", "fail", "fail_for_now", "lose", "hand_back", "cancel"),
    *("retry", "recover", "remove", "fold"),
)


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=30))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counters_are_exact_after_every_step_and_never_fall(record: Record, steps: list[str]) -> None:
    record.begin()
    for step in ["submit", "submit", "claim", *steps]:
        getattr(record, step)()
        assert record.told() == +record.truth, step


@given(steps=st.lists(st.sampled_from(STEPS), min_size=10, max_size=40))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_long_backlog_is_worked_out_and_not_counted(record: Record, steps: list[str]) -> None:
    # Given many more ready tasks than are counted, and others in all states
    record.begin()
    record.sql.execute("INSERT INTO queues (name) VALUES ('default')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "COUNTED_UP_TO", 2)
        lane = {"queue_name": "default", "task_type": "aside"}
        run = NewTask(id=new_id(), is_run=True, **lane)
        stages = [NewTask(run_id=run.id, stage="a", stage_index=at, **lane) for at in range(4)]
        record.ledger.submit([NewTask(delay=1e6, **lane), run, *stages]).result(10)
        for step in [*["submit"] * 6, "claim", *steps]:
            getattr(record, step)()
            # When they are looked at, then it is as if each had been counted
            (found,) = record.figures.read().queues
            counts = "SELECT status, count(*) FROM task_state WHERE queue = 'default' GROUP BY 1"
            truth = dict(record.sql.execute(counts).fetchall())
            truth = {status: number for status, number in truth.items() if status not in FINAL}
            assert +Counter(found.tasks) == Counter(truth), step


def test_what_completed_tasks_took_never_falls_by_folding_or_running_again(record: Record) -> None:
    # Given many completed tasks of odd durations
    for number in range(40):
        record.submit()
        record.claim()
        took = f"{0.1 * 3**0.5 * number:.6f} seconds"
        record.sql.execute(
            "UPDATE task_state SET started_at = now() - %s::interval WHERE id = %s",
            (took, record.running[-1].id),
        )
        record.complete()

    # When they are folded one by one, run again, and are removed
    spent = []

    def look() -> None:
        spent.append(record.figures.read().counted.spent_ms["work"])

    look()
    while record.ledger.fold(1).result(10):
        look()
    for _ in range(5):
        record.recover()
        look()
    record.fold()
    record.remove()
    look()

    # Then the sum of their durations is the same all the while, to the last bit
    assert len(set(spent)) == 1
    assert spent[0] == pytest.approx(sum(100 * 3**0.5 * number for number in range(40)), rel=0.05)
    slots = record.figures.read().counted.slots["work"]
    assert sum(slots.values()) == 40


def test_statistics_of_a_window_know_nothing_of_earlier_ends(record: Record) -> None:
    # Given a task that failed for now, failed, failed again, and completed at last
    for step in (
        *("submit", "claim", "fail_for_now", "claim", "fail", "retry", "claim", "fail", "retry"),
        *("claim", "complete"),
    ):
        getattr(record, step)()

    # Then counters know each, and statistics the last, folded or not
    for _ in range(2):
        assert record.told() == Counter(submitted=1, retried=1, failed=2, completed=1)
        statistics = Queries(record.figures._database).statistics(Window())
        assert (statistics.total, statistics.completed, statistics.failed) == (1, 1, 0)
        assert [(one.total, one.completed, one.failed) for one in statistics.series.points] == [(1, 1, 0)]
        record.fold()


def test_a_heartbeat_says_how_its_process_is(record: Record, url: str, monkeypatch: Any) -> None:
    # Given a lease with a pulse, of which one part is broken
    monkeypatch.setattr("tasks.leases.HEARTBEAT_SECONDS", 0.05)

    def broken() -> dict[str, Any]:
        raise RuntimeError("no answer")

    pulse = Pulse(record.ledger.vitals, broken, lambda: {"colour": "red"}, lambda: {"busy": 3})
    lease = Lease(url, new_id(), Profile("worker", "1", ["default"], ["work"], 8), pulse=pulse).start()
    try:
        # When it had a heartbeat, then the rest of it is told
        def busy() -> bool:
            processes = record.figures.read().processes
            return any(one.vitals.busy == 3 for one in processes)

        eventually(busy)
        record.submit()
        (told,), total = record.figures.processes(limit=10, offset=0)
        assert (told.pid, told.kind, told.queues, total) == (os.getpid(), "worker", ["default"], 1)
        assert (told.busy, told.idle, told.threads, told.running) == (3, 5, 8, [])
        assert told.memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.3)

        def commits() -> bool:
            vitals = record.figures.read().processes[0].vitals
            return vitals.commits >= 1 and vitals.verbs >= vitals.commits

        eventually(commits)
    finally:
        lease.close()


def test_what_is_silent_for_longer_than_a_lease_lives_no_more(record: Record) -> None:
    _worker(record, pid=1, age=1)
    _worker(record, pid=2, age=16)
    assert [one.pid for one in record.figures.read().processes] == [1]
    found, total = record.figures.processes(limit=10, offset=0)
    assert ([one.pid for one in found], total) == ([1], 1)


def test_a_process_in_the_place_of_a_dead_one_is_told_once(record: Record) -> None:
    # Given a container that began anew, with the host and pid of the one that died a moment ago
    _worker(record, pid=1, age=3, began=60, vitals='{"busy": 1}')
    _worker(record, pid=1, age=0, began=1, vitals='{"busy": 2}')
    _worker(record, pid=7, age=0, began=1, vitals='{"busy": "many", "from": "the future"}')
    assert [(one.pid, one.vitals.busy) for one in record.figures.read().processes] == [(1, 2), (7, 0)]


def test_what_a_process_does_not_know_of_another_is_left_out() -> None:
    assert Vitals().traffic == ()
    assert Pulse(lambda: {"nothing": "known"}).read().memory_bytes > 0


def _worker(record: Record, pid: int, age: float, began: float = 0, vitals: str = "{}") -> None:
    record.sql.execute(
        "INSERT INTO workers (id, kind, host, pid, version, heartbeat_at, started_at, vitals)"
        " VALUES (%s, 'worker', 'here', %s, '0', now() - make_interval(secs => %s),"
        " now() - make_interval(secs => %s), %s)",
        (new_id(), pid, age, began, vitals),
    )
