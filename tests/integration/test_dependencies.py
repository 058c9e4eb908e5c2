"""Dependencies: a task waits for what it depends on, whoever finishes when."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.errors import InvalidField
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.states import is_legal
from tasks.values import Claimed, Complete, NewTask, TaskError
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops")


class Record:
    """Two processes on an empty record."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger, self.other = Ledger(url).start(), Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute("TRUNCATE tasks, task_state, attempts, events, dependencies, dead_letters")

    def close(self) -> None:
        self.ledger.close()
        self.other.close()
        self.sql.close()

    def submit(self, *needs: UUID, **fields: Any) -> UUID:
        task = a_task(*needs, **fields)
        self.ledger.submit([task]).result(10)
        return task.id

    def claimed(self, count: int = 1) -> list[Claimed]:
        for _ in range(count):
            self.submit()
        claims = self.ledger.fetch(["default"], ["work"], count).result(10)
        assert len(claims) == count
        return claims

    def status(self, task_id: UUID) -> str:
        task = self.queries.task(task_id)
        assert task is not None
        return task.status

    def becomes(self, task_id: UUID, status: str) -> None:
        eventually(lambda: self.status(task_id) == status)

    def moves(self, task_id: UUID) -> list[str]:
        events = self.queries.history(task_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        states = [event.status for event in events if event.kind == "state"]
        assert all(map(is_legal, [None, *states], states)), states
        return states


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


def a_task(*needs: UUID, **fields: Any) -> NewTask:
    return NewTask(**{"task_type": "work", "queue_name": "default", "depends_on": needs, **fields})


def complete(ledger: Ledger, claim: Claimed) -> Future[bool]:
    return ledger.complete(claim, Complete(claim.id, claim.token, "done"))


def test_a_task_is_blocked_until_all_that_it_depends_on_is_completed(record: Record) -> None:
    first, second = record.claimed(2)
    task_id = record.submit(first.id, second.id)
    assert record.status(task_id) == "blocked"
    complete(record.ledger, first).result(10)
    assert record.ledger.unblock().result(10) == 0
    assert record.status(task_id) == "blocked"
    complete(record.ledger, second).result(10)
    record.becomes(task_id, "queued")
    assert record.moves(task_id) == ["blocked", "queued"]
    task = record.queries.task(task_id)
    assert task is not None
    assert set(task.depends_on) == {first.id, second.id}


def test_a_task_whose_dependencies_are_completed_already_is_ready_at_once(record: Record) -> None:
    (claim,) = record.claimed()
    complete(record.ledger, claim).result(10)
    assert record.moves(record.submit(claim.id)) == ["queued"]


def test_a_blocked_task_with_a_delay_still_waits_for_its_time(record: Record) -> None:
    (claim,) = record.claimed()
    task_id = record.submit(claim.id, delay=3_600.0)
    assert record.status(task_id) == "blocked"
    complete(record.ledger, claim).result(10)
    record.becomes(task_id, "scheduled")


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_dependency_that_ends_badly_fails_its_dependents_and_theirs(record: Record, ending: str) -> None:
    (claim,) = record.claimed()
    child = record.submit(claim.id)
    grandchild = record.submit(child)
    if ending == "failed":
        record.ledger.fail(claim, OOPS, retry_in=None).result(10)
    else:
        record.ledger.cancel(claim.id).result(10)
    record.becomes(grandchild, "failed")
    task = record.queries.task(child)
    assert task is not None
    assert task.error is not None
    assert task.error["code"] == "dependency_failed"
    assert str(claim.id) in task.error["message"]
    assert record.moves(grandchild) == ["blocked", "failed"]


def test_the_dependency_that_failed_is_blamed_and_not_one_that_is_still_at_work(record: Record) -> None:
    working, failing = record.claimed(2)
    task_id = record.submit(working.id, failing.id)
    record.ledger.fail(failing, OOPS, retry_in=None).result(10)
    record.becomes(task_id, "failed")
    task = record.queries.task(task_id)
    assert task is not None
    assert task.error == {
        "code": "dependency_failed",
        "message": f"Task {failing.id}, on which it depends, failed.",
    }


def test_a_task_that_failed_by_its_dependency_is_a_dead_letter_and_can_be_replayed(record: Record) -> None:
    (claim,) = record.claimed()
    task_id = record.submit(claim.id)
    record.ledger.cancel(claim.id).result(10)
    record.becomes(task_id, "failed")
    row = record.sql.execute("SELECT id, code FROM dead_letters WHERE task_id = %s", (task_id,)).fetchone()
    assert row is not None
    assert row[1] == "dependency_failed"
    assert record.ledger.replay(row[0]).result(10) == "replayed"
    assert record.status(task_id) == "queued"


def test_the_end_of_a_task_with_very_many_dependents_holds_up_nobody_for_long(record: Record) -> None:
    # Given 3,000 tasks that wait for one
    (claim,) = record.claimed()
    record.ledger.submit([a_task(claim.id) for _ in range(3_000)]).result(30)
    # When that one is completed, then others are recorded between the parts of what follows
    complete(record.ledger, claim).result(10)
    record.ledger.submit([a_task()]).result(10)
    blocked = "SELECT count(*) FROM task_state WHERE status = 'blocked'"
    eventually(lambda: record.sql.execute(blocked).fetchone() == (0,), 30)
    # and nothing is left of what they waited for
    assert record.sql.execute("SELECT count(*) FROM dependencies").fetchone() == (0,)


def test_a_dependency_that_has_ended_badly_already_fails_the_new_task(record: Record) -> None:
    (claim,) = record.claimed()
    record.ledger.cancel(claim.id).result(10)
    record.becomes(record.submit(claim.id), "failed")


def test_a_task_that_waits_goes_on_when_the_failed_dependency_is_replayed(record: Record) -> None:
    (claim,) = record.claimed()
    task_id = record.submit(claim.id, on_dependency_failure="wait")
    record.ledger.fail(claim, OOPS, retry_in=None).result(10)
    assert record.ledger.unblock().result(10) == 0
    assert record.status(task_id) == "blocked"
    row = record.sql.execute("SELECT id FROM dead_letters WHERE task_id = %s", (claim.id,)).fetchone()
    assert row is not None
    record.ledger.replay(row[0]).result(10)
    (again,) = record.ledger.fetch(["default"], ["work"], 1).result(10)
    complete(record.ledger, again).result(10)
    record.becomes(task_id, "queued")


def test_a_dependency_that_does_not_exist_is_refused_and_nothing_is_stored(record: Record) -> None:
    (claim,) = record.claimed()
    lonely = a_task(new_id())
    refused = record.ledger.submit([a_task(claim.id), lonely])
    accepted = record.ledger.submit([a_task(claim.id)])
    with pytest.raises(InvalidField, match="does not exist"):
        refused.result(10)
    assert len(accepted.result(10)) == 1
    assert record.queries.task(lonely.id) is None


def test_tasks_of_one_submission_may_depend_on_each_other(record: Record) -> None:
    first = a_task()
    second = a_task(first.id)
    third = a_task(first.id, second.id)
    record.ledger.submit([third, second, first]).result(10)
    for expected in (first, second, third):
        (claim,) = eventually(lambda: record.ledger.fetch(["default"], ["work"], 5).result(10))
        assert claim.id == expected.id
        complete(record.ledger, claim).result(10)
    assert record.status(third.id) == "completed"


def test_a_run_waits_together_with_its_first_stage(record: Record) -> None:
    (claim,) = record.claimed()
    run = a_task(claim.id, task_type="pipeline", is_run=True)
    stage = a_task(claim.id, run_id=run.id, stage="first", stage_index=0)
    record.ledger.submit([run, stage]).result(10)
    assert (record.status(run.id), record.status(stage.id)) == ("blocked", "blocked")
    complete(record.ledger, claim).result(10)
    record.becomes(stage.id, "queued")
    record.becomes(run.id, "queued")


def test_a_run_whose_dependency_fails_fails_with_its_first_stage_which_is_the_dead_letter(
    record: Record,
) -> None:
    (claim,) = record.claimed()
    run = a_task(claim.id, task_type="pipeline", is_run=True)
    stage = a_task(claim.id, run_id=run.id, stage="first", stage_index=0)
    record.ledger.submit([run, stage]).result(10)
    record.ledger.cancel(claim.id).result(10)
    record.becomes(run.id, "failed")
    record.becomes(stage.id, "failed")
    letters = record.sql.execute(
        "SELECT task_id FROM dead_letters WHERE task_id = ANY(%s)", ([run.id, stage.id],)
    )
    assert letters.fetchall() == [(stage.id,)]
    # And a retry of the run does not wait for the dependency again
    assert record.ledger.retry(run.id).result(10) == "retried"
    record.becomes(stage.id, "queued")


def test_a_blocked_task_can_be_cancelled(record: Record) -> None:
    (claim,) = record.claimed()
    task_id = record.submit(claim.id)
    assert record.ledger.cancel(task_id).result(10) == "cancelled"
    complete(record.ledger, claim).result(10)
    assert record.moves(task_id) == ["blocked", "cancelled"]


# --- races ---------------------------------------------------------------------------------------


def test_a_dependency_that_finishes_during_submit_is_not_missed(record: Record) -> None:
    """Both orders and everything between: a hundred submissions meet the finish of what they depend on."""
    claims = record.claimed(100)
    dependents: list[UUID] = []
    gate = threading.Barrier(2)

    def finish() -> None:
        gate.wait()
        for finished in [complete(record.other, claim) for claim in claims]:
            finished.result(10)

    thread = threading.Thread(target=finish)
    thread.start()
    gate.wait()
    submissions = []
    for claim in claims:
        task = a_task(claim.id)
        submissions.append(record.ledger.submit([task]))
        dependents.append(task.id)
    for submission in submissions:
        submission.result(10)
    thread.join()
    for task_id in dependents:
        record.becomes(task_id, "queued")


def test_a_finish_that_is_not_committed_yet_holds_up_a_submission_that_depends_on_it(
    record: Record, url: str
) -> None:
    # Given a finish in the middle of its transaction
    (claim,) = record.claimed()
    with psycopg.connect(url) as finisher:
        finisher.execute("SELECT FROM task_state WHERE id = %s FOR NO KEY UPDATE", (claim.id,))
        # When a task that depends on it is submitted, then the submission waits, and others do not
        submitted = record.ledger.submit([a_task(claim.id)])
        record.ledger.submit([a_task()]).result(10)
        assert not submitted.done()
        finisher.rollback()
    assert submitted.result(10)[0].status == "blocked"


def test_the_last_two_dependencies_that_finish_at_once_unblock_their_dependent(record: Record) -> None:
    for _ in range(30):
        one, two = record.claimed(2)
        task_id = record.submit(one.id, two.id)
        finished = [complete(record.ledger, one), complete(record.other, two)]
        assert all(future.result(10) for future in finished)
        record.becomes(task_id, "queued")
        assert record.ledger.fetch(["default"], ["work"], 1).result(10)


def test_what_a_dead_process_did_not_unblock_is_unblocked_by_the_clock(record: Record) -> None:
    # Given a dependent whose dependency finished in a process that died right after its commit
    (claim,) = record.claimed()
    task_id = record.submit(claim.id)
    record.sql.execute("UPDATE task_state SET status = 'completed' WHERE id = %s", (claim.id,))
    # When the clock sweeps
    assert record.ledger.unblock().result(10) == 1
    assert record.status(task_id) == "queued"
