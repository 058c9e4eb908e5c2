"""Dead letters: every final failure is one, and a replay opens one new round of its task."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.states import is_legal
from tasks.values import Advance, Claimed, Complete, NewTask, TaskError

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …", "RuntimeError")


class Record:
    """A ledger on an empty record, with what one needs to make tasks fail."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, workers, dispatches, queues, dead_letters"
        )

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def claimed(self, **fields: Any) -> Claimed:
        self.ledger.submit([NewTask(task_type="work", queue_name="default", **fields)]).result(10)
        (claim,) = self.fetch()
        return claim

    def fetch(self, limit: int = 1) -> list[Claimed]:
        return self.ledger.fetch(["default"], ["work"], limit).result(10)

    def fail(self, claim: Claimed, retry_in: float | None = None) -> None:
        assert self.ledger.fail(claim, OOPS, retry_in=retry_in).result(10)

    def failed(self, **fields: Any) -> UUID:
        """A task that failed for good."""
        claim = self.claimed(**fields)
        self.fail(claim)
        return claim.id

    def letters(self, task_id: UUID) -> list[UUID]:
        sql = "SELECT id FROM dead_letters WHERE task_id = %s ORDER BY failed_at"
        return [row[0] for row in self.sql.execute(sql, (task_id,))]

    def replay(self, letter: UUID) -> str:
        return self.ledger.replay(letter).result(10)

    def status(self, task_id: UUID) -> str:
        task = self.queries.task(task_id)
        assert task is not None
        return task.status

    def moves(self, task_id: UUID) -> list[str]:
        events = self.queries.history(task_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        states = [event.status for event in events if event.kind == "state"]
        pairs = zip([None, *states], states, strict=False)
        assert all(is_legal(before, after, by_operators=True) for before, after in pairs), states
        return states

    def failed_run(self) -> tuple[UUID, UUID, list[UUID]]:
        """A run of three stages at once, of which one failed: the run, that stage, and the cancelled ones."""
        run = NewTask(task_type="pipeline", queue_name="default", is_run=True)
        stages = [
            NewTask(task_type="work", queue_name="default", run_id=run.id, stage="first", stage_index=index)
            for index in range(3)
        ]
        self.ledger.submit([run, *stages]).result(10)
        (claim, _) = self.fetch(2)
        self.fail(claim)
        error = {"code": "actor_error", "message": "RuntimeError: oops", "stage": "first"}
        self.ledger.advance(Advance(run.id, status="failed", error=error)).result(10)
        return run.id, claim.id, [stage.id for stage in stages if stage.id != claim.id]


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


# --- how a failure becomes one -------------------------------------------------------------------


def test_a_task_that_fails_for_good_is_a_dead_letter_and_one_that_is_retried_is_none(record: Record) -> None:
    retried = record.claimed()
    record.fail(retried, retry_in=60.0)
    failed = record.failed()
    assert record.letters(retried.id) == []
    sql = "SELECT attempt, error_class, code, message, traceback, resolution FROM dead_letters"
    assert record.sql.execute(sql + " WHERE task_id = %s", (failed,)).fetchall() == [
        (1, "RuntimeError", "actor_error", "RuntimeError: oops", "Traceback …", None)
    ]


def test_a_task_that_three_processes_died_of_is_a_dead_letter(record: Record) -> None:
    claim = record.claimed()
    for _ in range(2):
        record.ledger.rescue(record.ledger.owner).result(10)
        assert record.letters(claim.id) == []
        (claim,) = record.fetch()
    assert record.ledger.lose(claim, "Its process was killed").result(10) is True
    assert record.status(claim.id) == "failed"
    assert len(record.letters(claim.id)) == 1
    task = record.queries.task(claim.id)
    assert task is not None
    assert task.error == {"code": "worker_lost", "message": "Its process was killed (3 of 3)."}


def test_a_process_that_only_froze_counts_no_death_but_makes_suspects(record: Record) -> None:
    claim = record.claimed()
    for _ in range(5):
        assert record.ledger.rescue(record.ledger.owner, died=False).result(10) == 1
        (claim,) = record.fetch()
    assert (claim.deaths, claim.suspect) == (0, True)


# --- replay --------------------------------------------------------------------------------------


def test_a_replay_opens_a_new_round_with_a_new_budget_of_the_same_task(record: Record) -> None:
    # Given a task that failed in its second attempt
    claim = record.claimed()
    record.fail(claim, retry_in=0.0)
    record.ledger.promote().result(10)
    (again,) = record.fetch()
    record.fail(again)
    # When its dead letter is replayed
    (letter,) = record.letters(claim.id)
    assert record.replay(letter) == "replayed"
    # Then it is ready again, has a new budget, and its whole history is told
    (replayed,) = record.fetch()
    assert (replayed.id, replayed.attempt, replayed.failures, replayed.deaths) == (claim.id, 3, 0, 0)
    assert record.ledger.complete(replayed, Complete(replayed.id, replayed.token, "at last")).result(10)
    assert record.moves(claim.id) == [
        *("queued", "running", "retrying"),
        *("queued", "running", "failed"),
        *("queued", "running", "completed"),
    ]
    task = record.queries.task(claim.id)
    assert task is not None
    assert (task.status, task.error, task.result) == ("completed", None, "at last")


def test_twenty_replays_at_once_give_one_new_round(record: Record) -> None:
    (letter,) = record.letters(record.failed())
    answers = [record.ledger.replay(letter) for _ in range(20)]
    outcomes = [answer.result(10) for answer in answers]
    assert outcomes.count("replayed") == 1
    assert set(outcomes) <= {"replayed", "not_failed"}
    assert len(record.fetch(20)) == 1


def test_a_dead_letter_of_an_older_round_is_not_replayed_again(record: Record) -> None:
    task_id = record.failed()
    (first,) = record.letters(task_id)
    record.replay(first)
    (claim,) = record.fetch()
    record.fail(claim)
    assert record.replay(first) == "resolved"
    second = next(letter for letter in record.letters(task_id) if letter != first)
    assert record.replay(second) == "replayed"


def test_what_does_not_exist_or_did_not_stay_failed_is_not_replayed(record: Record) -> None:
    assert record.replay(new_id()) == "missing"
    task_id = record.failed()
    (letter,) = record.letters(task_id)
    record.replay(letter)
    record.ledger.cancel(task_id).result(10)
    assert record.replay(letter) == "not_failed"
    assert record.status(task_id) == "cancelled"


def test_the_replay_of_a_stage_reopens_its_run_and_what_its_failure_had_cancelled(record: Record) -> None:
    # Given a run that failed with one of three stages; the others were cancelled, one of them while it ran
    run_id, stage, others = record.failed_run()
    assert {record.status(one) for one in others} == {"cancelled"}
    # When the dead letter of the stage is replayed
    (letter,) = record.letters(stage)
    assert record.replay(letter) == "replayed"
    # Then all of it goes on
    assert record.status(run_id) == "running"
    assert {claim.id for claim in record.fetch(5)} == {stage, *others}
    assert record.moves(run_id) == ["queued", "running", "failed", "running"]
    assert all(record.moves(one)[-3:] == ["cancelled", "queued", "running"] for one in others)


def test_the_replay_of_one_of_several_failed_stages_reopens_the_others_too(record: Record) -> None:
    # Given a run of three stages at once, of which two failed
    run = NewTask(task_type="pipeline", queue_name="default", is_run=True)
    stages = [
        NewTask(task_type="work", queue_name="default", run_id=run.id, stage="first", stage_index=index)
        for index in range(3)
    ]
    record.ledger.submit([run, *stages]).result(10)
    one, other, _ = record.fetch(3)
    record.fail(one)
    record.fail(other)
    record.ledger.advance(Advance(run.id, status="failed", error={"code": "x", "message": "x"})).result(10)
    # When one of their dead letters is replayed, then all three run again, and no letter is left open
    (letter,) = record.letters(one.id)
    assert record.replay(letter) == "replayed"
    assert {claim.id for claim in record.fetch(5)} == {stage.id for stage in stages}
    open_ones = record.sql.execute("SELECT count(*) FROM dead_letters WHERE resolution IS NULL").fetchone()
    assert open_ones == (0,)
    (beside,) = record.letters(other.id)
    assert record.replay(beside) == "not_failed"


def test_what_was_decided_about_a_run_before_its_replay_does_not_end_it(record: Record) -> None:
    # Given two settlers that have read a failed stage, of which one has ended its run
    run_id, stage, _ = record.failed_run()
    seen = record.queries.run(run_id)
    assert seen is not None
    stale = Advance(run_id, status="failed", error={"code": "x", "message": "x"}, round=seen.round)
    # When the stage is replayed before the other one comes
    (letter,) = record.letters(stage)
    assert record.replay(letter) == "replayed"
    assert record.ledger.advance(stale).result(10) is False
    # Then the run goes on, and what is decided about it from now on counts
    assert (record.status(run_id), record.status(stage)) == ("running", "queued")
    seen = record.queries.run(run_id)
    assert seen is not None
    assert record.ledger.advance(Advance(run_id, status="cancelled", round=seen.round)).result(10) is True


def test_a_stage_of_a_run_that_was_cancelled_is_not_replayed(record: Record) -> None:
    run = NewTask(task_type="pipeline", queue_name="default", is_run=True)
    stage = NewTask(task_type="work", queue_name="default", run_id=run.id, stage="first", stage_index=0)
    record.ledger.submit([run, stage]).result(10)
    (claim,) = record.fetch()
    record.fail(claim)
    record.ledger.cancel(run.id).result(10)
    (letter,) = record.letters(stage.id)
    assert record.replay(letter) == "run_is_over"
    assert record.status(stage.id) == "failed"
