"""What every record must do: the same sentences over Postgres and over memory."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.errors import Conflict, InvalidField
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.memory import Clock, MemoryLedger, MemoryQueries, Store
from tasks.ports import Questions, Verbs
from tasks.queries import Queries
from tasks.records import Page, Task, TaskFilter
from tasks.states import is_legal
from tasks.values import Advance, Claimed, Complete, NewTask, Once, RunProgress, TaskError
from tasks.windows import Window
from tests.support.waiting import eventually

QUEUE, TYPE = "default", "work"
OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")
HOUR = 3_600.0
TABLES = [
    "dead_letters",
    "dependencies",
    "snapshots",
    "events",
    "attempts",
    "idempotency_keys",
    "workers",
    "task_state",
    "tasks",
]


class Record:
    """A record of some kind, a second process on it, and a way to let time pass."""

    def __init__(
        self, ledger: Verbs, other: Verbs, queries: Questions, pass_time: Callable[[float], object]
    ) -> None:
        self.ledger, self.other, self.queries, self.pass_time = ledger, other, queries, pass_time

    def submit(self, **fields: Any) -> UUID:
        task = a_task(**fields)
        self.ledger.submit([task]).result(10)
        return task.id

    def submit_run(self, stages: int = 1) -> tuple[UUID, list[UUID]]:
        run = a_task(task_type="pipeline", is_run=True)
        tasks = [a_stage(run.id, "first", index) for index in range(stages)]
        self.ledger.submit([run, *tasks]).result(10)
        return run.id, [task.id for task in tasks]

    def fetch(self, limit: int = 1, queue: str = QUEUE) -> list[Claimed]:
        return self.ledger.fetch([queue], [TYPE], limit).result(10)

    def claimed(self, **fields: Any) -> Claimed:
        task_id = self.submit(**fields)
        (claim,) = self.fetch()
        assert claim.id == task_id
        return claim

    def complete(self, claim: Claimed, result: Any = None, **follows: Any) -> bool:
        return self.ledger.complete(claim, Complete(claim.id, claim.token, result, **follows)).result(10)

    def fail(self, claim: Claimed, retry_in: float | None = None) -> bool:
        return self.ledger.fail(claim, OOPS, retry_in=retry_in).result(10)

    def advance(self, *decision: Any, **more: Any) -> bool:
        return self.ledger.advance(Advance(*decision, **more)).result(10)

    def task(self, task_id: UUID) -> Task:
        task = self.queries.task(task_id)
        assert task is not None
        return task

    def status(self, task_id: UUID) -> str:
        return self.task(task_id).status

    def becomes(self, task_id: UUID, status: str) -> None:
        eventually(lambda: self.status(task_id) == status)

    def moves(self, task_id: UUID) -> list[str]:
        events = self.queries.history(task_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        states = [event.status for event in events if event.kind == "state"]
        assert all(map(is_legal, [None, *states], states)), states
        return states


@pytest.fixture(params=["postgres", "memory"])
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    if request.param == "memory":
        store = Store(clock := Clock())
        yield Record(MemoryLedger(store), MemoryLedger(store), MemoryQueries(store), clock.advance)
    else:
        yield from on_postgres(request.getfixturevalue("shared"), request.getfixturevalue("url"))


def on_postgres(database: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    ledger, other = Ledger(url).start(), Ledger(url).start()
    with psycopg.connect(url, autocommit=True) as sql:
        for table in TABLES:  # a TRUNCATE takes longer for so few rows
            sql.execute(f"DELETE FROM {table}")

        def pass_time(seconds: float) -> None:
            sql.execute("UPDATE task_state SET ready_at = ready_at - make_interval(secs => %s)", (seconds,))

        yield Record(ledger, other, Queries(database), pass_time)
    other.close()
    ledger.close()


def a_task(**fields: Any) -> NewTask:
    return NewTask(**{"task_type": TYPE, "queue_name": QUEUE, **fields})


def a_stage(run_id: UUID, stage: str, index: int = 0, **fields: Any) -> NewTask:
    return a_task(run_id=run_id, stage=stage, stage_index=index, **fields)


# --- submit ------------------------------------------------------------------------------------------


def test_a_task_is_recorded_as_it_was_asked_for(record: Record) -> None:
    task = a_task(
        payload={"a": [1, None, "ä"]},
        priority=8,
        max_retries=2,
        timeout=9.5,
        user_id="ann",
        project_id="p1",
        kb_id="kb",
        created_by="user:ann",
        tags=("red", "blue"),
    )

    (accepted,) = record.ledger.submit([task]).result(10)

    found = record.task(task.id)
    assert (accepted.id, accepted.status, accepted.run_at) == (task.id, "queued", None)
    assert (found.payload, found.priority, found.max_retries, found.timeout) == (task.payload, 8, 2, 9.5)
    assert (found.user_id, found.project_id, found.kb_id) == ("ann", "p1", "kb")
    assert (found.created_by, found.tags, found.created_at) == (
        "user:ann",
        ["red", "blue"],
        accepted.created_at,
    )
    assert (found.status, found.progress, found.attempts, found.result, found.error) == (
        "queued",
        0.0,
        0,
        None,
        None,
    )
    assert record.moves(task.id) == ["queued"]


def test_a_task_with_a_delay_waits_for_its_time(record: Record) -> None:
    task_id = record.submit(delay=HOUR)

    assert (record.status(task_id), record.task(task_id).wait_reason) == ("scheduled", "time")
    assert record.task(task_id).run_at is not None
    assert record.fetch() == []
    assert record.ledger.promote().result(10) == 0

    record.pass_time(HOUR + 1)

    assert record.ledger.promote().result(10) == 1
    assert record.moves(task_id) == ["scheduled", "queued"]
    assert len(record.fetch()) == 1


def test_a_task_whose_time_is_over_is_ready_at_once(record: Record) -> None:
    task_id = record.submit(run_at=datetime.now(UTC) - timedelta(days=1))

    assert (record.status(task_id), record.task(task_id).run_at) == ("queued", None)


def test_an_id_that_is_on_record_stays_as_it_is_and_is_answered(record: Record) -> None:
    task_id = record.submit(payload=1)
    record.fetch()

    (accepted,) = record.ledger.submit([a_task(id=task_id, payload=2)]).result(10)

    assert (accepted.id, accepted.status) == (task_id, "running")
    assert record.task(task_id).payload == 1


def test_a_key_makes_a_submission_happen_once(record: Record) -> None:
    # Given a submission with a key
    once, first = Once("ann", "/tasks", "order-1", "body"), a_task()
    record.ledger.submit([first], once=once, asked=[first.id]).result(10)

    # When it is repeated, by the same and by another body
    again = a_task()
    (answer,) = record.ledger.submit([again], once=once, asked=[again.id]).result(10)
    other = record.ledger.submit([again], once=Once("ann", "/tasks", "order-1", "else"), asked=[again.id])

    # Then it gets the first task, or is refused, and nothing more is recorded.
    assert answer.id == first.id
    with pytest.raises(Conflict, match="another body"):
        other.result(10)
    assert record.queries.task(again.id) is None


def test_of_the_tasks_with_a_unique_key_there_is_one_for_each_owner(record: Record) -> None:
    first, again = a_task(unique_key="k", user_id="ann"), a_task(unique_key="k", user_id="ann")
    theirs, run = a_task(unique_key="k", user_id="bob"), a_task(unique_key="k", user_id="ann", is_run=True)

    answers = [
        [one.id for one in record.ledger.submit(tasks).result(10)]
        for tasks in ([first, again], [again], [theirs], [run, a_stage(run.id, "first")])
    ]

    assert answers == [[first.id, first.id], [first.id], [theirs.id], [first.id]]
    assert record.queries.tasks(TaskFilter(stages=True), Page()).total == 2


# --- claim and end -----------------------------------------------------------------------------------


def test_the_best_priority_is_claimed_first_and_then_the_oldest(record: Record) -> None:
    low, old, new, high = (record.submit(priority=priority) for priority in (1, 5, 5, 10))

    assert [claim.id for claim in record.fetch(3)] == [high, old, new]
    assert [claim.id for claim in record.fetch(3)] == [low]


def test_only_the_queues_and_types_that_were_asked_for_are_claimed(record: Record) -> None:
    record.submit(queue_name="mail")
    record.submit(task_type="other")

    assert record.fetch(5) == []
    assert len(record.fetch(5, queue="mail")) == 1


def test_a_claim_holds_what_a_worker_needs(record: Record) -> None:
    claim = record.claimed(payload={"n": 1}, backoff={"kind": "fixed", "base": 1}, tags=("x",), kb_id="kb")

    assert msgspec.json.decode(claim.payload) == {"n": 1}
    assert (claim.attempt, claim.failures, claim.deaths) == (1, 0, 0)
    assert (claim.task_type, claim.queue, claim.backoff) == (TYPE, QUEUE, {"kind": "fixed", "base": 1})
    assert (claim.tags, claim.kb_id, claim.run_id, claim.suspect, claim.snapshot, claim.state) == (
        ["x"],
        "kb",
        None,
        False,
        0,
        None,
    )
    assert (record.status(claim.id), record.task(claim.id).attempts) == ("running", 1)


def test_a_completed_task_has_its_result_and_is_at_a_hundred_percent(record: Record) -> None:
    claim = record.claimed()

    assert record.complete(claim, {"count": 100})

    task = record.task(claim.id)
    assert (task.status, task.result, task.error, task.progress) == ("completed", {"count": 100}, None, 100.0)
    assert task.completed_at is not None
    assert task.duration_ms is not None
    assert record.moves(claim.id) == ["queued", "running", "completed"]


def test_a_failed_task_has_its_error(record: Record) -> None:
    claim = record.claimed()

    assert record.fail(claim)

    assert record.task(claim.id).error == {"code": "actor_error", "message": "RuntimeError: oops"}
    assert record.moves(claim.id) == ["queued", "running", "failed"]
    assert record.queries.history(claim.id)[-1].message == "RuntimeError: oops"


def test_a_failed_attempt_is_tried_again_after_its_backoff(record: Record) -> None:
    # Given an attempt that failed
    claim = record.claimed()
    assert record.fail(claim, retry_in=60)
    assert (record.status(claim.id), record.task(claim.id).wait_reason) == ("retrying", "backoff")
    assert record.fetch() == []

    # When its backoff is over
    record.pass_time(61)
    record.ledger.promote().result(10)

    # Then it is claimed again, and the failure counts.
    (again,) = record.fetch()
    assert (again.id, again.attempt, again.failures) == (claim.id, 2, 1)
    assert record.moves(claim.id) == ["queued", "running", "retrying", "queued", "running"]


def test_a_released_claim_uses_up_no_attempt(record: Record) -> None:
    claim = record.claimed()

    assert record.ledger.release(claim).result(10)

    (again,) = record.fetch()
    assert (again.id, again.attempt) == (claim.id, 1)
    assert record.moves(claim.id) == ["queued", "running", "queued", "running"]


def test_a_claim_that_is_given_back_for_a_while_is_queued_again_and_then_postponed(record: Record) -> None:
    claim = record.claimed()

    assert record.ledger.release(claim, 3_600.0).result(10)

    assert record.fetch() == []
    assert (record.task(claim.id).status, record.task(claim.id).attempts) == ("scheduled", 0)
    moves = record.moves(claim.id)
    assert moves == ["queued", "running", "queued", "scheduled"]
    assert all(is_legal(before, after) for before, after in pairwise(moves))
    assert record.queries.history(claim.id)[-1].message == "waits for a worker that knows its version"


VERBS: dict[str, Callable[[Record, Claimed], Any]] = {
    "complete": lambda record, claim: record.complete(claim),
    "fail": lambda record, claim: record.fail(claim),
    "retry": lambda record, claim: record.fail(claim, retry_in=1.0),
    "release": lambda record, claim: record.ledger.release(claim).result(10),
    "report": lambda record, claim: record.ledger.report(claim, 50.0, None, None).result(10),
    "checkpoint": lambda record, claim: record.ledger.checkpoint(claim, 1, {"a": 1}).result(10),
    "lose": lambda record, claim: record.ledger.lose(claim, "it died").result(10),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_stale_token_writes_nothing(record: Record, verb: str) -> None:
    # Given a claim that was given back and taken by another process
    stale = record.claimed()
    record.ledger.release(stale).result(10)
    (claim,) = record.other.fetch([QUEUE], [TYPE], 1).result(10)
    before = record.queries.history(stale.id)

    # When something is written with the old one
    answer = VERBS[verb](record, stale)

    # Then it is refused, and the new one holds.
    assert answer is False
    assert record.queries.history(stale.id) == before
    assert record.other.complete(claim, Complete(claim.id, claim.token, 1)).result(10)


@pytest.mark.parametrize(("verb", "status"), [("complete", "completed"), ("fail", "failed")])
def test_an_end_that_is_written_twice_is_answered_the_same(record: Record, verb: str, status: str) -> None:
    claim = record.claimed()

    assert [VERBS[verb](record, claim), VERBS[verb](record, claim)] == [True, True]

    assert record.moves(claim.id) == ["queued", "running", status]


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "complete"])
def test_a_completed_task_is_not_moved_by_its_claim_any_more(record: Record, verb: str) -> None:
    claim = record.claimed()
    record.complete(claim)

    assert VERBS[verb](record, claim) is False
    assert record.status(claim.id) == "completed"


# --- progress and checkpoints ------------------------------------------------------------------------


def test_progress_is_on_the_task_and_in_its_history(record: Record) -> None:
    claim = record.claimed()

    details = {"step": "load", "steps_done": 1, "steps_total": 2}
    assert record.ledger.report(claim, 50.0, "load", "half way", details).result(10)

    task = record.task(claim.id)
    assert (task.progress, task.phase, task.message, task.details) == (50.0, "load", "half way", details)
    last = record.queries.history(claim.id)[-1]
    assert (last.kind, last.progress, last.phase, last.message) == ("progress", 50.0, "load", "half way")


def test_what_an_attempt_logs_is_in_the_history_too(record: Record) -> None:
    claim = record.claimed()

    logged = record.ledger.log(claim, "warning", "shop", "it rains")
    assert logged is not None
    assert logged.result(10)

    last = record.queries.history(claim.id)[-1]
    assert (last.kind, last.message, last.data) == (
        "log",
        "it rains",
        {"level": "warning", "logger": "shop"},
    )
    assert record.task(claim.id).message is None


def test_a_new_attempt_begins_without_the_progress_of_the_old_one(record: Record) -> None:
    claim = record.claimed()
    record.ledger.report(claim, 50.0, "load", "half way", {"a": 1}).result(10)
    record.ledger.release(claim).result(10)

    record.fetch()

    task = record.task(claim.id)
    assert (task.progress, task.phase, task.message, task.details) == (0.0, None, None, None)


def test_the_next_attempt_has_what_the_last_checkpoint_saved(record: Record) -> None:
    # Given an attempt that saved twice, and once of it again
    claim = record.claimed()
    assert record.ledger.checkpoint(claim, 1, {"at": 1}).result(10)
    assert record.ledger.checkpoint(claim, 2, {"at": 2}).result(10)
    assert record.ledger.checkpoint(claim, 2, {"at": 2}).result(10)

    # When it fails and is tried again
    record.fail(claim, retry_in=0)
    record.ledger.promote().result(10)
    (again,) = record.fetch()

    # Then the next one begins with the last state.
    assert again.snapshot == 2
    assert again.state is not None
    assert msgspec.json.decode(again.state) == {"at": 2}
    kinds = [event.kind for event in record.queries.history(claim.id)]
    assert kinds.count("checkpoint") == 2


# --- lost workers ------------------------------------------------------------------------------------


def test_what_a_dead_process_ran_is_queued_again_and_counts_as_a_death(record: Record) -> None:
    claim = record.claimed()

    assert record.other.rescue(record.ledger.owner).result(10) == 1

    (again,) = record.fetch()
    assert (again.id, again.attempt, again.deaths, again.suspect) == (claim.id, 2, 1, True)
    assert record.complete(claim) is False


def test_what_a_frozen_process_ran_is_no_death(record: Record) -> None:
    record.claimed()

    assert record.other.rescue(record.ledger.owner, died=False).result(10) == 1

    (again,) = record.fetch()
    assert (again.deaths, again.suspect) == (0, True)


def test_three_deaths_are_the_end(record: Record) -> None:
    task_id = record.submit()
    for _ in range(3):
        (claim,) = record.fetch()
        assert record.ledger.lose(claim, "The process of its own died").result(10)

    error = record.task(task_id).error
    assert record.status(task_id) == "failed"
    assert error == {"code": "worker_lost", "message": "The process of its own died (3 of 3)."}
    assert record.moves(task_id) == ["queued", "running"] * 3 + ["failed"]


# --- cancel ------------------------------------------------------------------------------------------


def test_a_waiting_and_a_running_task_are_cancelled(record: Record) -> None:
    claim, waiting = record.claimed(), record.submit(delay=HOUR)

    assert record.ledger.cancel(claim.id).result(10) == "cancelled"
    assert record.ledger.cancel(waiting).result(10) == "cancelled"

    assert record.moves(claim.id) == ["queued", "running", "cancelled"]
    assert record.moves(waiting) == ["scheduled", "cancelled"]
    assert record.complete(claim) is False


def test_cancelling_again_changes_nothing_and_what_is_over_stays(record: Record) -> None:
    cancelled, done = record.submit(), record.claimed(priority=10)
    record.complete(done)
    record.ledger.cancel(cancelled).result(10)
    before = record.task(cancelled)

    assert record.ledger.cancel(cancelled).result(10) == "cancelled"
    assert record.ledger.cancel(done.id).result(10) == "finished"
    assert record.ledger.cancel(new_id()).result(10) == "missing"
    assert record.task(cancelled) == before


def test_a_cancelled_run_takes_its_stages_with_it(record: Record) -> None:
    run, stages = record.submit_run(2)
    (claim,) = record.fetch()

    assert record.ledger.cancel(run).result(10) == "cancelled"

    assert [record.status(one) for one in (run, *stages)] == ["cancelled"] * 3
    assert record.complete(claim) is False
    assert record.fetch() == []


# --- runs --------------------------------------------------------------------------------------------


def test_the_first_claim_of_a_stage_starts_its_run(record: Record) -> None:
    run, stages = record.submit_run()
    assert record.status(run) == "queued"

    (claim,) = record.fetch()

    assert (claim.id, claim.run_id, claim.stage, claim.stage_index) == (stages[0], run, "first", 0)
    assert record.moves(run) == ["queued", "running"]


def test_a_finished_stage_brings_its_successors_and_the_runs_progress(record: Record) -> None:
    run, _ = record.submit_run()
    (claim,) = record.fetch()

    second = a_stage(run, "second", payload=[1])
    follows = {"successors": [second], "run": RunProgress(run, 50.0, "second", {"steps_total": 1})}
    assert record.complete(claim, [1], **follows)

    assert (record.task(run).progress, record.task(run).phase) == (50.0, "second")
    assert record.task(run).details == {"steps_total": 1}
    assert record.task(second.id).payload == [1]
    found = record.queries.run(run)
    assert found is not None
    assert [(one.stage, one.index, one.status) for one in found.stages] == [
        ("first", 0, "completed"),
        ("second", 0, "queued"),
    ]


def test_a_stage_is_inserted_once_however_often_it_follows(record: Record) -> None:
    run, stages = record.submit_run()
    (claim,) = record.fetch()
    record.complete(claim)

    assert record.advance(run, [a_stage(run, "second")])
    assert record.advance(run, [a_stage(run, "second"), a_stage(run, "first")])

    found = record.queries.run(run)
    assert found is not None
    assert len(found.stages) == 2
    assert stages[0] == found.stages[0].id


def test_a_run_ends_once_and_clears_what_is_left_of_it(record: Record) -> None:
    # Given a run with two stages, of which one has failed
    run, stages = record.submit_run(2)
    (claim,) = record.fetch()
    record.fail(claim)
    assert not record.queries.is_at_work(run)

    # When it is ended twice
    error = {"code": "actor_error", "message": "oops", "stage": "first"}
    assert record.advance(run, status="failed", error=error)
    assert record.advance(run, status="completed", result=1) is False

    # Then it has failed, and the other stage is cancelled.
    assert (record.status(run), record.task(run).error, record.task(run).result) == ("failed", error, None)
    assert sorted(record.status(one) for one in stages) == ["cancelled", "failed"]


def test_an_end_that_was_decided_for_another_round_is_void(record: Record) -> None:
    run, _ = record.submit_run()

    assert record.advance(run, status="completed", result=1, round=1) is False
    assert record.status(run) == "queued"
    assert record.advance(new_id(), status="completed") is False


def test_the_outputs_of_a_stage_are_in_the_order_of_its_items(record: Record) -> None:
    run, _ = record.submit_run(3)
    for claim in reversed(record.fetch(3)):
        record.complete(claim, claim.stage_index)

    assert record.queries.outputs(run, "first") == {0: 0, 1: 1, 2: 2}
    assert record.queries.outputs(run, "second") == {}


# --- how many run at once ----------------------------------------------------------------------------


def test_no_more_tasks_with_a_key_run_at_once_than_may(record: Record) -> None:
    # Given four tasks of which two may run at once, and two that they do not concern
    keyed = [record.submit(concurrency=2, concurrency_key="a") for _ in range(4)]
    others = [record.submit(), record.submit(concurrency=1, concurrency_key="b")]

    # When somebody asks for all
    claims = record.fetch(10)

    # Then he gets two of them
    assert {claim.id for claim in claims} == {*keyed[:2], *others}
    assert record.fetch(10) == []

    # And the others wait, without having been tried
    for task_id in keyed[2:]:
        task = record.task(task_id)
        assert (task.status, task.wait_reason, task.attempts) == ("queued", "concurrency", 0)
        assert record.moves(task_id) == ["queued"]
    assert record.task(keyed[0]).wait_reason is None


def test_those_that_wait_for_a_place_hold_up_nobody(record: Record) -> None:
    record.submit(concurrency=1, concurrency_key="a")
    for _ in range(10):
        record.submit(concurrency=1, concurrency_key="a")
    behind = record.submit()

    claims = [*record.fetch(), *record.fetch()]

    assert len(claims) == 2
    assert claims[-1].id == behind


@pytest.mark.parametrize("how", ["complete", "fail", "retry", "cancel", "release", "lose", "rescue"])
def test_whatever_runs_no_more_gives_its_place_to_another(record: Record, how: str) -> None:
    # Given one that runs, and another one that waits for its place
    first = record.claimed(concurrency=1, concurrency_key="a")
    second = record.submit(concurrency=1, concurrency_key="a")
    assert record.fetch() == []

    # When the first runs no more
    ends: dict[str, Callable[[], object]] = {
        "complete": lambda: record.complete(first),
        "fail": lambda: record.fail(first),
        "retry": lambda: record.fail(first, HOUR),
        "cancel": lambda: record.ledger.cancel(first.id).result(10),
        "release": lambda: record.ledger.release(first).result(10),
        "lose": lambda: record.ledger.lose(first, "It died").result(10),
        "rescue": lambda: record.ledger.rescue(record.ledger.owner).result(10),
    }
    ends[how]()

    # Then one of both runs: the other one, or itself once more
    claims: list[Claimed] = []
    eventually(lambda: claims.extend(record.fetch(2)) or claims)
    if how in ("release", "lose", "rescue"):
        assert claims[0].id in (first.id, second)
        record.complete(claims[0])
        eventually(lambda: claims.extend(record.fetch(2)) or len(claims) == 2)
    assert {claim.id for claim in claims} == ({first.id, second} if len(claims) == 2 else {second})
    record.complete(claims[-1])
    record.becomes(second, "completed")


def test_of_those_that_wait_for_a_place_the_better_rank_is_next(record: Record) -> None:
    # Given three that wait for the place of one
    first = record.claimed(concurrency=1, concurrency_key="a")
    low, high, middle = (
        record.submit(concurrency=1, concurrency_key="a", priority=priority) for priority in (1, 9, 5)
    )
    assert record.fetch(5) == []

    # When one after the other has it
    done, claim = [], first
    for _ in range(3):
        record.complete(claim)
        claims: list[Claimed] = []
        eventually(lambda found=claims: found.extend(record.fetch(5)) or found)  # type: ignore[misc]
        (claim,) = claims
        done.append(claim.id)

    # Then it is by rank
    assert done == [high, middle, low]


def test_one_that_waits_for_a_place_can_be_cancelled(record: Record) -> None:
    first = record.claimed(concurrency=1, concurrency_key="a")
    task_id = record.submit(concurrency=1, concurrency_key="a")
    last = record.submit(concurrency=1, concurrency_key="a")
    assert record.fetch(5) == []

    assert record.ledger.cancel(task_id).result(10) == "cancelled"

    assert record.moves(task_id) == ["queued", "cancelled"]
    record.complete(first)
    claims: list[Claimed] = []
    eventually(lambda: claims.extend(record.fetch(5)) or claims)
    assert [claim.id for claim in claims] == [last]


def test_a_retry_of_an_operator_needs_a_place_too(record: Record) -> None:
    failed = record.claimed(concurrency=1, concurrency_key="a")
    record.fail(failed)
    running = record.submit(concurrency=1, concurrency_key="a")
    claims: list[Claimed] = []
    eventually(lambda: claims.extend(record.fetch(5)) or claims)
    assert [claim.id for claim in claims] == [running]

    assert record.ledger.retry(failed.id).result(10) == "retried"

    assert record.fetch(5) == []
    record.complete(claims[0])
    eventually(lambda: [claim.id for claim in record.fetch(5)] == [failed.id])


# --- dependencies ------------------------------------------------------------------------------------


def test_a_task_waits_for_all_it_depends_on(record: Record) -> None:
    # Given a task that depends on two others
    one, two = record.submit(), record.submit()
    task_id = record.submit(depends_on=(one, two))
    assert (record.status(task_id), record.task(task_id).wait_reason) == ("blocked", "dependency")

    # When they are completed
    first, second = record.fetch(5)
    record.complete(first)
    assert record.status(task_id) == "blocked"
    record.complete(second)

    # Then it is ready.
    record.becomes(task_id, "queued")
    assert record.moves(task_id) == ["blocked", "queued"]
    assert record.task(task_id).depends_on == [one, two]


def test_what_is_completed_already_need_not_be_waited_for(record: Record) -> None:
    claim = record.claimed()
    record.complete(claim)

    assert record.status(record.submit(depends_on=(claim.id,))) == "queued"


def test_a_failure_goes_down_the_whole_line(record: Record) -> None:
    claim = record.claimed()
    child = record.submit(depends_on=(claim.id,))
    grandchild = record.submit(depends_on=(child,))

    record.fail(claim)

    record.becomes(grandchild, "failed")
    error = record.task(child).error
    assert error == {
        "code": "dependency_failed",
        "message": f"Task {claim.id}, on which it depends, failed.",
    }
    assert record.moves(child) == ["blocked", "failed"]


def test_a_cancelled_dependency_fails_too_even_if_it_was_cancelled_before(record: Record) -> None:
    need = record.submit()
    record.ledger.cancel(need).result(10)

    task_id = record.submit(depends_on=(need,))

    record.becomes(task_id, "failed")
    assert "was cancelled" in str(record.task(task_id).error)


def test_who_says_so_goes_on_waiting_after_a_failure(record: Record) -> None:
    claim = record.claimed()
    task_id = record.submit(depends_on=(claim.id,), on_dependency_failure="wait")

    record.fail(claim)

    assert record.ledger.unblock().result(10) == 0
    assert record.status(task_id) == "blocked"


def test_tasks_of_one_submission_may_depend_on_each_other_but_not_on_nothing(record: Record) -> None:
    first, second = a_task(), a_task()
    second = NewTask(task_type=TYPE, queue_name=QUEUE, depends_on=(first.id,))
    lost = a_task(depends_on=(uuid4(),))

    record.ledger.submit([second, first]).result(10)
    with pytest.raises(InvalidField, match="names a task that does not exist"):
        record.ledger.submit([a_task(), lost]).result(10)

    assert (record.status(first.id), record.status(second.id)) == ("queued", "blocked")
    assert record.queries.task(lost.id) is None


# --- a new round, and the end of all -----------------------------------------------------------------


def test_a_failed_task_that_is_retried_has_a_new_budget_and_keeps_its_history(record: Record) -> None:
    # Given a task that has failed
    claim = record.claimed()
    record.fail(claim)

    # When it is retried twice
    answers = [record.ledger.retry(claim.id).result(10) for _ in range(2)]

    # Then it runs again, once.
    assert answers == ["retried", "not_failed"]
    (again,) = record.fetch()
    assert (again.id, again.attempt, again.failures) == (claim.id, 2, 0)
    events = record.queries.history(claim.id)
    assert [event.status for event in events] == ["queued", "running", "failed", "queued", "running"]
    assert [event.message for event in events[2:4]] == ["RuntimeError: oops", "retried"]
    assert (record.task(claim.id).error, record.complete(claim)) == (None, False)


def test_only_what_has_failed_is_retried(record: Record) -> None:
    waiting = record.submit()

    assert record.ledger.retry(waiting).result(10) == "not_failed"
    assert record.ledger.retry(new_id()).result(10) == "missing"


def test_a_failed_run_that_is_retried_goes_on_with_what_failed_and_what_that_cancelled(
    record: Record,
) -> None:
    # Given a run that failed with one stage of three, while one was completed and one waited
    run, _ = record.submit_run(3)
    done, bad = record.fetch(2)
    record.complete(done)
    record.fail(bad)
    record.advance(run, status="failed", error={"code": "actor_error", "message": "oops"})

    # When the run is retried
    assert record.ledger.retry(run).result(10) == "retried"

    # Then the two that were not completed are ready again, in another round.
    found = record.queries.run(run)
    assert found is not None
    assert (found.status, found.round) == ("running", 1)
    assert sorted(stage.status for stage in found.stages) == ["completed", "queued", "queued"]
    assert record.advance(run, status="completed", result=1) is False


def test_a_task_that_is_over_is_removed_with_its_stages(record: Record) -> None:
    run, stages = record.submit_run(2)
    assert record.ledger.delete(run).result(10) == "unfinished"
    assert record.ledger.delete(stages[0]).result(10) == "stage"

    record.ledger.cancel(run).result(10)

    assert record.ledger.delete(run).result(10) == "deleted"
    assert record.queries.tasks_by_id([run, *stages]) == []
    assert record.queries.history(run) == []
    assert record.ledger.delete(run).result(10) == "missing"


def test_who_depends_on_a_removed_task_goes_on_if_that_had_completed_and_fails_if_not(
    record: Record,
) -> None:
    # Given a task that waits for a completed one and another, and one that waits for a cancelled one
    done, other, cancelled = record.claimed(), record.submit(), record.submit(priority=0)
    waiting = record.submit(depends_on=(done.id, other))
    hopeless = record.submit(depends_on=(cancelled,), on_dependency_failure="wait")
    record.complete(done)
    record.ledger.cancel(cancelled).result(10)

    # When these are removed, and the other one is completed
    assert [record.ledger.delete(one).result(10) for one in (done.id, cancelled)] == ["deleted"] * 2
    (claim,) = record.fetch()
    record.complete(claim)

    # Then the first is ready, and the second can wait no more.
    record.becomes(waiting, "queued")
    record.becomes(hopeless, "failed")
    assert "is gone" in str(record.task(hopeless).error)


# --- reading -----------------------------------------------------------------------------------------


def test_tasks_are_filtered_by_everything_they_have(record: Record) -> None:
    parent = new_id()
    task_id = record.submit(
        queue_name="mail", user_id="ann", project_id="p", kb_id="kb", tags=("red",), parent_id=parent
    )
    record.submit()
    now = datetime.now(UTC)

    for wanted in (
        {"owner": "ann"},
        {"user_id": "ann"},
        {"queue_name": "mail"},
        {"project_id": "p"},
        {"kb_id": "kb"},
        {"tag": "red"},
        {"parent_id": parent},
    ):
        page = record.queries.tasks(TaskFilter(**wanted), Page())  # type: ignore[arg-type]
        assert ([task.task_id for task in page.tasks], page.total) == ([task_id], 1), wanted
    for wanted, total in (
        ({"statuses": ("queued", "failed")}, 2),
        ({"statuses": ("failed",)}, 0),
        ({"task_type": TYPE}, 2),
        ({"created_after": now - timedelta(minutes=1)}, 2),
        ({"created_before": now - timedelta(minutes=1)}, 0),
    ):
        assert record.queries.tasks(TaskFilter(**wanted), Page()).total == total, wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["WORK", "proj-1", "kb_1", "red", "Ünder", '"title": "under', "actor_error", "oops", "half way"]
)
def test_a_text_is_found_wherever_a_task_holds_it(record: Record, text: str) -> None:
    # Given a task with a text at every place, and another one
    given = {"project_id": "Proj-1", "kb_id": "kb_1", "tags": ("Red",), "payload": {"title": "Under ünder"}}
    claim = record.claimed(**given)
    record.ledger.report(claim, 50.0, None, "half way").result(10)
    record.fail(claim)
    record.submit(task_type="other")

    # When the text is looked for, then the first one is found.
    for looked_for in (text, str(claim.id)[:-1]):
        page = record.queries.tasks(TaskFilter(q=looked_for), Page())
        assert [task.task_id for task in page.tasks] == [claim.id]


def test_what_could_be_retried_is_found(record: Record) -> None:
    failed, _ = record.claimed(), record.submit()
    record.fail(failed)

    def found(retryable: bool) -> list[UUID]:
        return [one.task_id for one in record.queries.tasks(TaskFilter(retryable=retryable), Page()).tasks]

    assert found(True) == [failed.id]
    assert failed.id not in found(False)
    assert len(found(False)) == 1


def test_pages_are_newest_first_by_offset_and_by_cursor(record: Record) -> None:
    ids = [record.submit() for _ in range(5)][::-1]

    first = record.queries.tasks(TaskFilter(), Page(limit=2))
    by_cursor = record.queries.tasks(TaskFilter(), Page(limit=2, cursor=first.next_cursor))
    last = record.queries.tasks(TaskFilter(), Page(limit=2, offset=4))

    assert [[task.task_id for task in page.tasks] for page in (first, by_cursor, last)] == [
        ids[:2],
        ids[2:4],
        ids[4:],
    ]
    assert (first.total, first.total_is_exact, last.next_cursor) == (5, True, None)
    with pytest.raises(InvalidField, match="cursor"):
        record.queries.tasks(TaskFilter(), Page(cursor="nonsense"))


def test_stages_are_listed_when_they_are_asked_for(record: Record) -> None:
    run, stages = record.submit_run(2)

    def listed(**wanted: Any) -> set[UUID]:
        return {task.task_id for task in record.queries.tasks(TaskFilter(**wanted), Page()).tasks}

    assert listed() == {run}
    assert listed(stages=True) == {run, *stages}
    assert listed(run_id=run) == set(stages)


def test_nobody_sees_the_tasks_of_others(record: Record) -> None:
    task_id = record.submit(user_id="ann")

    assert record.queries.task(task_id, owner="bob") is None
    assert record.queries.task(task_id, owner="ann") is not None
    assert record.queries.tasks(TaskFilter(owner="bob"), Page()).total == 0


def test_what_does_not_exist_has_nothing(record: Record) -> None:
    assert record.queries.task(new_id()) is None
    assert record.queries.run(new_id()) is None
    assert record.queries.history(new_id()) == []
    assert record.queries.tasks_by_id([new_id()]) == []


# --- statistics --------------------------------------------------------------------------------------


def test_statistics_count_a_users_tasks_of_a_window(record: Record) -> None:
    # Given three tasks of somebody, of which one completes and one fails, and one of somebody else
    user, began = str(uuid4()), datetime.now(UTC) - timedelta(minutes=1)
    record.complete(record.claimed(user_id=user))
    record.fail(record.claimed(user_id=user))
    record.submit(user_id=user)
    record.submit(user_id="somebody else")
    # When the last minute is asked about
    found = record.queries.statistics(Window(since=began, user=user))
    # Then they are counted, for all and by type and queue
    whole = (found.total, found.completed, found.failed, found.cancelled, found.success_rate)
    assert whole == (3, 1, 1, 0, 50.0)
    assert found.p50 == found.p95 > 0
    assert found.by_type[TYPE].total == found.by_queue[QUEUE].total == 3
    assert sum(point.total for point in found.series.points) == 3
    # and nothing is, where nothing was
    assert record.queries.statistics(Window(until=began, user=user)).total == 0
