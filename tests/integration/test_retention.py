"""What was over long ago goes by itself, in batches; what others need, and statistics, stay."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.clock import Clock
from tasks.coroner import Coroner
from tasks.ids import new_id
from tasks.ledger import Ledger, retention
from tasks.ledger.endings import Complete
from tasks.ledger.retention import Retention
from tasks.ledger.runs import Advance
from tasks.queries import Queries
from tasks.values import NewTask, TaskError
from tasks.windows import Window
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")
DAY = 86_400.0
KEPT = Retention(others=30 * DAY, failed=90 * DAY)


class Record:
    """A ledger on an empty record, on which time may be turned back."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.url = url
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, dependencies, dead_letters, tallies, statistics"
        )

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def submit(self, days: float = 0, **fields: Any) -> UUID:
        """A task that was submitted so many days ago."""
        task = NewTask(**{"task_type": "work", "queue_name": "default", **fields})
        self.ledger.submit([task]).result(10)
        self.age(days, task.id)
        return task.id

    def completed(self, days: float = 0, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        (claim,) = self.ledger.fetch(["default"], ["work"], 1).result(10)
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        self.age(days, task_id)
        return task_id

    def failed(self, days: float) -> UUID:
        task_id = self.submit()
        (claim,) = self.ledger.fetch(["default"], ["work"], 1).result(10)
        assert self.ledger.fail(claim, OOPS, retry_in=None).result(10)
        self.age(days, task_id)
        return task_id

    def cancelled(self, days: float) -> UUID:
        task_id = self.submit()
        assert self.ledger.cancel(task_id).result(10) == "cancelled"
        self.age(days, task_id)
        return task_id

    def run(self, days: float, *, status: str | None) -> list[UUID]:
        """A run with a completed stage; ``status`` ends it."""
        run_id = new_id()
        run = NewTask(id=run_id, task_type="flow", queue_name="default", is_run=True)
        stage = NewTask(task_type="work", queue_name="default", run_id=run_id, stage="a", stage_index=0)
        self.ledger.submit([run, stage]).result(10)
        (claim,) = self.ledger.fetch(["default"], ["work"], 1).result(10)
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        if status is not None:
            assert self.ledger.advance(Advance(run_id, status=status)).result(10)
        self.age(days, run_id, stage.id)
        return [run_id, stage.id]

    def age(self, days: float, *ids: UUID) -> None:
        for table, columns in {"tasks": ("created_at",), "task_state": ("finished_at", "started_at")}.items():
            moved = ", ".join(f"{one} = {one} - make_interval(secs => %(seconds)s)" for one in columns)
            self.sql.execute(
                f"UPDATE {table} SET {moved} WHERE id = ANY(%(ids)s)",
                {"seconds": days * DAY, "ids": list(ids)},
            )

    def sweep(self, kept: Retention = KEPT) -> list[int]:
        """Sweep to the end: how many each batch removed."""
        removed = []
        place = None
        while True:
            outcome = self.ledger.expire(kept, place).result(10)
            removed.append(outcome.removed)
            place = outcome.place
            if place is None:
                return removed

    def left(self) -> set[UUID]:
        return {row[0] for row in self.sql.execute("SELECT id FROM tasks").fetchall()}


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


def test_tasks_go_when_they_were_over_long_enough(record: Record) -> None:
    # Given old and young ones in every state
    gone = {
        record.completed(31),
        record.cancelled(31),
        record.failed(91),
        *record.run(31, status="completed"),
    }
    kept = {record.completed(29), record.cancelled(29), record.failed(31), *record.run(31, status=None)}
    late = record.completed()
    record.sql.execute("UPDATE tasks SET created_at = now() - interval '40 days' WHERE id = %s", (late,))
    kept |= {late, record.submit(100)}

    # When a sweep goes through them
    record.sweep()

    # Then those that ended long enough ago are gone, with all they had
    assert record.left() == kept
    for table in ("attempts", "events", "dead_letters"):
        rows = record.sql.execute(f"SELECT task_id FROM {table}").fetchall()
        assert not {row[0] for row in rows} & gone


def test_what_an_unfinished_task_depends_on_stays(record: Record) -> None:
    needed = record.completed(40)
    record.submit(depends_on=(needed, record.submit()))

    record.sweep()

    assert needed in record.left()


def test_a_run_stays_while_an_unfinished_task_depends_on_a_stage_of_it(record: Record) -> None:
    run_id, stage_id = record.run(40, status="completed")
    record.submit(depends_on=(stage_id, record.submit()))
    assert record.sweep() == [0]
    assert {run_id, stage_id} <= record.left()


def test_statistics_survive(record: Record) -> None:
    record.completed(40)
    record.ledger.fold().result(10)
    record.failed(100)

    record.sweep()

    found = record.queries.statistics(Window())
    assert (found.total, found.completed, found.failed) == (2, 1, 1)
    assert record.left() == set()


def test_a_sweep_is_made_of_small_batches(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)
    monkeypatch.setattr(retention, "EXAMINED", 6)
    for number in range(20):
        record.completed(40 - number % 3)
    record.failed(40)
    young = record.completed()

    removed = record.sweep()

    assert sum(removed) == 20
    assert max(removed) <= 4
    assert young in record.left()
    assert len(record.left()) == 2


def test_what_somebody_holds_is_left_for_the_next_sweep(record: Record) -> None:
    held, free = record.completed(40), record.completed(40)
    with psycopg.connect(record.url) as holder:
        holder.execute("SELECT FROM task_state WHERE id = %s FOR UPDATE", (held,))
        record.sweep()
        assert record.left() == {held}
        assert free not in record.left()

    record.sweep()

    assert record.left() == set()


class NoFlow:
    """There are no runs to settle."""

    def settle(self, run_id: UUID) -> None:
        raise AssertionError(f"nothing is to be settled, but {run_id} was")


def test_the_clock_sweeps_by_itself(record: Record) -> None:
    # Given a clock that keeps completed tasks for a microsecond
    coroner = Coroner(record.url)
    kept = Retention(others=1e-6, failed=1 * DAY)
    clock = Clock(record.ledger, record.queries, coroner, NoFlow(), None, kept)
    record.completed()
    failed = record.failed(0)

    # When it ticks, then what is older is gone
    def swept() -> bool:
        clock.tick()
        return record.left() == {failed}

    eventually(swept)
    coroner.close()
