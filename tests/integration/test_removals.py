"""Removing tasks from the record: what goes, what must stay, and what happens to those that wait for it."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.ledger.runs import Advance
from tasks.queries import Queries
from tasks.values import Claimed, NewTask, TaskError
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")
#: Every table that has rows of a task, and the column that names it.
TABLES = {
    "tasks": "id",
    "task_state": "id",
    "attempts": "task_id",
    "events": "task_id",
    "snapshots": "task_id",
    "dependencies": "task_id",
    "dead_letters": "task_id",
}


class Record:
    """A ledger on an empty record, and a connection for looking behind it."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.url = url
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(f"TRUNCATE {', '.join(TABLES)}")

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def submit(self, **fields: Any) -> UUID:
        task = NewTask(**{"task_type": "work", "queue_name": "default", **fields})
        self.ledger.submit([task]).result(10)
        return task.id

    def claim(self) -> Claimed:
        (claim,) = self.ledger.fetch(["default"], ["work"], 1).result(10)
        return claim

    def completed(self, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        claim = self.claim()
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        return task_id

    def failed(self, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        assert self.ledger.fail(self.claim(), OOPS, retry_in=None).result(10)
        return task_id

    def run(self, *, status: str | None) -> tuple[UUID, UUID]:
        """A run and its completed stage; ``status`` ends the run."""
        run_id, stage_id = new_id(), new_id()
        run = NewTask(id=run_id, task_type="flow", queue_name="default", is_run=True)
        stage = NewTask(
            id=stage_id, task_type="work", queue_name="default", run_id=run_id, stage="a", stage_index=0
        )
        self.ledger.submit([run, stage]).result(10)
        claim = self.claim()
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        if status is not None:
            assert self.ledger.advance(Advance(run_id, status=status)).result(10)
        return run_id, stage_id

    def delete(self, task_id: UUID) -> str:
        return self.ledger.delete(task_id).result(10)

    def rows(self, task_id: UUID) -> dict[str, int]:
        """How many rows each table has of a task."""
        found = {}
        for table, column in TABLES.items():
            row = self.sql.execute(f"SELECT count(*) FROM {table} WHERE {column} = %s", (task_id,)).fetchone()
            assert row is not None
            found[table] = row[0]
        return {table: count for table, count in found.items() if count}

    def status(self, task_id: UUID) -> str:
        task = self.queries.task(task_id)
        assert task is not None
        return task.status


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


def test_a_task_that_is_over_goes_with_all_it_had(record: Record) -> None:
    # Given a failed task with a snapshot, an attempt, events and a dead letter
    task_id = record.submit()
    claim = record.claim()
    assert record.ledger.checkpoint(claim, 1, {"at": 1}).result(10)
    assert record.ledger.fail(claim, OOPS, retry_in=None).result(10)
    other = record.failed()
    assert {"attempts", "events", "snapshots", "dead_letters"} < set(record.rows(task_id))

    # When it is deleted
    assert record.delete(task_id) == "deleted"

    # Then nothing of it is left, and of the other one everything
    assert record.rows(task_id) == {}
    assert set(record.rows(other)) == {"tasks", "task_state", "attempts", "dead_letters"}
    assert record.delete(task_id) == "missing"


def test_a_run_goes_with_its_stages(record: Record) -> None:
    run_id, stage_id = record.run(status="completed")

    assert record.delete(stage_id) == "stage"
    assert record.delete(run_id) == "deleted"

    assert record.rows(run_id) == record.rows(stage_id) == {}


def test_what_is_not_over_stays(record: Record) -> None:
    open_run, stage_id = record.run(status=None)
    waiting = record.submit()

    assert record.delete(waiting) == "unfinished"
    assert record.delete(open_run) == "unfinished"

    assert record.status(waiting) == "queued"
    assert record.status(stage_id) == "completed"


def test_a_task_that_never_was_is_missing(record: Record) -> None:
    assert record.delete(new_id()) == "missing"


def test_many_are_deleted_at_once_and_the_same_one_twice(record: Record) -> None:
    ids = [record.completed() for _ in range(5)]

    outcomes = [record.ledger.delete(one) for one in (*ids, ids[0])]

    assert {outcome.result(10) for outcome in outcomes[:5]} == {"deleted"}
    assert outcomes[5].result(10) in ("deleted", "missing")
    assert all(record.rows(one) == {} for one in ids)


def test_a_deletion_waits_for_who_holds_the_task_or_its_dead_letter(record: Record) -> None:
    # Given a failed task whose dead letter is being copied
    task_id = record.failed()
    with psycopg.connect(record.url) as holder:
        holder.execute("SELECT FROM dead_letters WHERE task_id = %s FOR UPDATE", (task_id,))

        # When it is deleted
        outcome = record.ledger.delete(task_id)

        # Then others go on meanwhile, and it goes when the lock is free
        record.completed()
        assert not outcome.done()
    assert outcome.result(10) == "deleted"


def test_a_dependent_of_a_removed_task_still_has_what_was_completed(record: Record) -> None:
    # Given a task that waits for two, of which one has completed
    done = record.completed()
    pending = record.submit()
    dependent = record.submit(depends_on=(done, pending))

    # When the completed one is removed and the other one completes
    assert record.delete(done) == "deleted"
    claim = record.claim()
    assert record.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)

    # Then it goes on
    eventually(lambda: record.status(dependent) == "queued")


@pytest.mark.parametrize("policy", ["fail", "wait"])
def test_a_dependent_fails_when_what_it_waits_for_can_never_complete(record: Record, policy: str) -> None:
    pending, failed = record.submit(), record.submit()
    dependent = record.submit(depends_on=(failed, pending), on_dependency_failure="wait")
    if policy == "fail":
        record.sql.execute("UPDATE tasks SET on_dependency_failure = 'fail' WHERE id = %s", (dependent,))
    assert record.ledger.cancel(failed).result(10) == "cancelled"

    assert record.delete(failed) == "deleted"

    eventually(lambda: record.status(dependent) == "failed")
