"""The ledger on a real Postgres: every verb, what it refuses, and what survives when connections die."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tasks.errors import Unavailable
from tasks.ids import new_id
from tasks.ledger import CANCEL_CHANNEL, READY_CHANNEL, Ledger, claims, order
from tasks.notices import Listener
from tasks.queries import Queries
from tasks.records import Task
from tasks.states import is_legal
from tasks.values import (
    Accepted,
    Advance,
    Arrival,
    Claimed,
    Complete,
    Hint,
    NewTask,
    Once,
    Refused,
    RunProgress,
    TaskError,
)
from tests.support.claims import claim_one
from tests.support.waiting import eventually

QUEUE, TYPE = "default", "work"
OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")
NAME = "ledger-under-test"


class Wire:
    """An outlet that remembers what would have been published."""

    def __init__(self) -> None:
        self.stamps = iter(range(1, 1_000_000))
        self.rooms: dict[str, int] = {}
        self.published: list[tuple[int, list[Hint]]] = []

    def stamp(self) -> int | None:
        return next(self.stamps)

    def room(self, queue: str) -> int:
        return self.rooms.get(queue, 1_000)

    def publish(self, dispatch: int, hints: Sequence[Hint]) -> None:
        self.published.append((dispatch, list(hints)))

    @property
    def hints(self) -> list[Hint]:
        return [hint for _, hints in self.published for hint in hints]


class Record:
    """A ledger on an empty record, the questions one asks of it, and a connection for looking behind it."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.url = url
        self.ledger = Ledger(make_conninfo(url, application_name=NAME)).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def submit(self, **fields: Any) -> UUID:
        task = a_task(**fields)
        self.ledger.submit([task]).result(10)
        return task.id

    def fetch(self, limit: int = 1, queue: str = QUEUE) -> list[Claimed]:
        return self.ledger.fetch([queue], [TYPE], limit).result(10)

    def claimed(self, **fields: Any) -> Claimed:
        """A task that was submitted and claimed."""
        task_id = self.submit(**fields)
        (claim,) = self.fetch()
        assert claim.id == task_id
        return claim

    def complete(self, claim: Claimed, result: Any = None, **follows: Any) -> bool:
        return self.ledger.complete(claim, Complete(claim.id, claim.token, result, **follows)).result(10)

    def fail(self, claim: Claimed, *, retry_in: float | None = None) -> bool:
        return self.ledger.fail(claim, OOPS, retry_in=retry_in).result(10)

    def task(self, task_id: UUID) -> Task:
        task = self.queries.task(task_id)
        assert task is not None
        return task

    def status(self, task_id: UUID) -> str:
        return self.task(task_id).status

    def moves(self, task_id: UUID) -> list[str]:
        """The states of a task so far; every one must be a legal move from the one before."""
        events = self.queries.history(task_id)
        states = [event.status for event in events if event.kind == "state"]
        for before, after in zip([None, *states], states, strict=False):
            assert is_legal(before, after), f"{before} -> {after} in {states}"
        ids = [event.event_id for event in events]
        assert ids == sorted(set(ids))
        return states

    def one(self, sql: str, *params: Any) -> Any:
        row = self.sql.execute(sql, params).fetchone()
        assert row is not None
        return row[0]

    def counters(self, task_id: UUID) -> tuple[int, int, int]:
        row = self.sql.execute(
            "SELECT attempt, failures, deaths FROM task_state WHERE id = %s", (task_id,)
        ).fetchone()
        assert row is not None
        return row[0], row[1], row[2]


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    made.sql.execute(
        "TRUNCATE tasks, task_state, attempts, events, workers, dispatches, queues, task_types,"
        " snapshots, dependencies, dead_letters, idempotency_keys"
    )
    yield made
    made.close()


def a_task(**fields: Any) -> NewTask:
    return NewTask(**{"task_type": TYPE, "queue_name": QUEUE, **fields})


def a_run(record: Record, stages: int = 1, **fields: Any) -> tuple[UUID, list[UUID]]:
    """A run with so many tasks of its first stage; their ids."""
    run = a_task(task_type="pipeline", is_run=True, **fields)
    tasks = [a_stage(run.id, "first", index, **fields) for index in range(stages)]
    record.ledger.submit([run, *tasks]).result(10)
    return run.id, [task.id for task in tasks]


def a_stage(run_id: UUID, stage: str, index: int = 0, **fields: Any) -> NewTask:
    return a_task(run_id=run_id, stage=stage, stage_index=index, **fields)


# --- submit ------------------------------------------------------------------------------------------


def test_a_submitted_task_is_on_record_as_it_was_asked_for(record: Record) -> None:
    payload = {"text": "知识库 🎉", "numbers": [1, 2.5, None, True], "nested": {"a": []}}

    (accepted,) = record.ledger.submit(
        [a_task(payload=payload, priority=8, user_id="ann", kb_id="kb_1", tags=("red", "blue"))]
    ).result(10)

    task = record.task(accepted.id)
    assert accepted == Accepted(task.task_id, "queued", task.created_at, None)
    assert (task.status, task.payload, task.priority) == ("queued", payload, 8)
    assert (task.user_id, task.kb_id, task.tags, task.attempts) == ("ann", "kb_1", ["red", "blue"], 0)
    assert record.moves(accepted.id) == ["queued"]


@pytest.mark.parametrize("payload", [None, 0, "", [], {}, "text", False])
def test_a_payload_is_any_json(record: Record, payload: Any) -> None:
    claim = record.claimed(payload=payload)

    assert msgspec.json.decode(claim.payload) == payload
    assert record.task(claim.id).payload == payload


def test_a_delayed_task_is_scheduled_and_promoted_when_it_is_due(record: Record) -> None:
    later, soon = record.submit(delay=3_600), record.submit(delay=0.05)
    assert record.status(soon) == record.status(later) == "scheduled"
    assert record.fetch() == []

    eventually(lambda: record.ledger.promote().result(10) == 1)

    assert record.moves(soon) == ["scheduled", "queued"]
    assert record.status(later) == "scheduled"
    assert [claim.id for claim in record.fetch(limit=5)] == [soon]


def test_a_time_in_the_past_is_now(record: Record) -> None:
    task_id = record.submit(run_at=datetime.now(UTC) - timedelta(days=1))

    assert (record.status(task_id), record.task(task_id).run_at) == ("queued", None)


def test_the_same_submission_twice_is_recorded_once_and_answered_twice(record: Record) -> None:
    task = a_task()

    first = record.ledger.submit([task]).result(10)
    again = record.ledger.submit([task]).result(10)

    assert first == again
    assert record.one("SELECT count(*) FROM tasks") == 1
    assert len(record.fetch(limit=5)) == 1


def test_a_submission_is_recorded_whole_or_not_at_all(record: Record) -> None:
    good, bad = a_task(), a_task(payload={"text": "a\0b"})

    with pytest.raises(psycopg.DataError):
        record.ledger.submit([good, bad]).result(10)

    assert record.queries.task(good.id) is None


def test_a_new_queue_comes_into_being_with_its_first_task(record: Record) -> None:
    record.submit(queue_name="mail")
    record.submit(queue_name="mail")

    assert record.queries.queue_names() == ["mail"]


# --- claim, fetch, release, postpone -----------------------------------------------------------------


def test_a_task_is_fetched_once_with_all_that_a_worker_needs(record: Record) -> None:
    task_id = record.submit(payload={"a": 1}, max_retries=7, timeout=9.5, backoff={"kind": "fixed"})

    (claim,) = record.fetch(limit=10)

    assert (claim.id, claim.attempt, claim.failures, claim.deaths) == (task_id, 1, 0, 0)
    assert (claim.task_type, claim.queue, claim.max_retries, claim.timeout) == (TYPE, QUEUE, 7, 9.5)
    assert claim.backoff == {"kind": "fixed"}
    assert record.fetch(limit=10) == []
    assert record.moves(task_id) == ["queued", "running"]
    assert record.task(task_id).started_at is not None


def test_only_what_a_worker_serves_is_fetched(record: Record) -> None:
    record.submit(queue_name="mail")
    record.submit(task_type="unheard_of")

    assert record.fetch(limit=10) == []
    assert len(record.fetch(limit=10, queue="mail")) == 1


def test_the_best_rank_is_fetched_first_and_waiting_makes_up_for_priority(record: Record) -> None:
    normal, high, low = (record.submit(priority=priority) for priority in (5, 8, 2))
    old = record.submit(priority=2)
    record.sql.execute("UPDATE task_state SET rank = rank - 3600 WHERE id = %s", (old,))

    assert [record.fetch()[0].id for _ in range(4)] == [old, high, normal, low]


def test_many_fetchers_at_once_never_get_the_same_task(record: Record) -> None:
    record.ledger.submit([a_task() for _ in range(200)]).result(10)
    ledgers = [Ledger(record.url).start() for _ in range(3)]
    try:
        futures = [ledgers[n % 3].fetch([QUEUE], [TYPE], 5) for n in range(90)]
        claims = [claim for future in futures for claim in future.result(10)]
    finally:
        for ledger in ledgers:
            ledger.close()

    assert len(claims) == len({claim.id for claim in claims}) == 200
    assert len({claim.token for claim in claims}) > 1


def sent(record: Record, *tasks: UUID, dispatch: int = 77) -> list[Arrival]:
    """Publish what is ready; the messages as they arrive."""
    assert record.ledger.take(QUEUE, 100, dispatch).result(10) == len(tasks)
    record.ledger.close_dispatch(dispatch).result(10)
    return [Arrival(task_id, dispatch) for task_id in tasks]


def test_a_message_is_claimed_once(record: Record) -> None:
    (arrival,) = sent(record, record.submit())

    claim = claim_one(record.ledger, arrival)
    again = claim_one(record.ledger, arrival)

    assert isinstance(claim, Claimed)
    assert again == Refused(arrival.task_id, "running", record.ledger.owner)
    assert record.moves(claim.id) == ["queued", "running"]


def test_a_message_that_arrives_twice_at_once_is_claimed_once(record: Record) -> None:
    (arrival,) = sent(record, record.submit())

    with a_group_in_flight(record):
        futures = [record.ledger.claim([arrival]) for _ in range(2)]
    ((claim,), (again,)) = (future.result(10) for future in futures)

    assert isinstance(claim, Claimed)
    assert again == Refused(arrival.task_id, "running", record.ledger.owner)


def test_of_a_batch_that_arrives_what_is_held_has_to_be_claimed_again(record: Record) -> None:
    free, held = sent(record, record.submit()) + sent(record, record.submit())

    with a_locked_row(record, held.task_id):
        claim, left = record.ledger.claim([free, held]).result(10)

    assert isinstance(claim, Claimed)
    assert left is None
    assert isinstance(claim_one(record.ledger, held), Claimed)


def test_a_message_of_an_older_dispatch_is_stale(record: Record) -> None:
    (arrival,) = sent(record, record.submit())

    answer = claim_one(record.ledger, Arrival(arrival.task_id, 76))

    assert answer == Refused(arrival.task_id, "stale")
    assert isinstance(claim_one(record.ledger, arrival), Claimed)


def test_a_message_about_nothing_or_about_the_past_is_refused(record: Record) -> None:
    done, cancelled = sent(record, record.submit(), record.submit())
    claim = claim_one(record.ledger, done)
    assert isinstance(claim, Claimed)
    record.complete(claim)
    record.ledger.cancel(cancelled.task_id).result(10)
    nobody = new_id()

    assert claim_one(record.ledger, done) == Refused(done.task_id, "finished")
    assert claim_one(record.ledger, cancelled) == Refused(cancelled.task_id, "finished")
    assert claim_one(record.ledger, Arrival(nobody, 77)) == Refused(nobody, "stale")


def test_no_stage_of_a_run_that_is_over_is_claimed(record: Record) -> None:
    run_id, (one, other) = a_run(record, 2)
    arrival, _ = sent(record, one, other)
    record.sql.execute("UPDATE task_state SET status = 'cancelled' WHERE id = %s", (run_id,))

    assert claim_one(record.ledger, arrival) == Refused(one, "cancelled_run")
    assert record.fetch(limit=5) == []


def test_a_released_task_is_ready_again_and_has_used_up_nothing(record: Record) -> None:
    claim = record.claimed()

    assert record.ledger.release(claim).result(10) is True

    assert record.counters(claim.id) == (0, 0, 0)
    assert record.moves(claim.id) == ["queued", "running", "queued"]
    (again,) = record.fetch()
    assert again.attempt == 1
    assert again.token != claim.token


def test_a_message_about_an_unknown_type_sends_its_task_back_for_a_while(record: Record) -> None:
    (arrival,) = sent(record, record.submit())

    assert record.ledger.postpone(Arrival(arrival.task_id, 76), 0.05).result(10) is False
    assert record.ledger.postpone(arrival, 0.05).result(10) is True

    assert record.status(arrival.task_id) == "scheduled"
    assert record.counters(arrival.task_id) == (0, 0, 0)
    assert claim_one(record.ledger, arrival) == Refused(arrival.task_id, "stale")
    eventually(lambda: record.ledger.promote().result(10) == 1)
    assert record.moves(arrival.task_id) == ["queued", "scheduled", "queued"]


# --- complete and fail -------------------------------------------------------------------------------


def test_a_completed_task_has_its_result(record: Record) -> None:
    claim = record.claimed()

    assert record.complete(claim, {"pages": [1, 2]}) is True

    task = record.task(claim.id)
    assert (task.status, task.progress, task.result) == ("completed", 100, {"pages": [1, 2]})
    assert task.completed_at is not None
    assert task.duration_ms is not None
    assert record.moves(claim.id) == ["queued", "running", "completed"]


def test_a_failed_attempt_is_retried_after_its_backoff(record: Record) -> None:
    claim = record.claimed()

    assert record.fail(claim, retry_in=0.05) is True

    task = record.task(claim.id)
    assert (task.status, task.wait_reason) == ("retrying", "backoff")
    assert task.error == {"code": "actor_error", "message": "RuntimeError: oops"}
    eventually(lambda: record.ledger.promote().result(10) == 1)
    (again,) = record.fetch()
    assert (again.attempt, again.failures, again.deaths) == (2, 1, 0)
    assert record.complete(again, "done") is True
    assert record.task(claim.id).error is None
    assert record.moves(claim.id) == ["queued", "running", "retrying", "queued", "running", "completed"]


def test_a_task_that_fails_for_good_keeps_its_error_and_its_attempt(record: Record) -> None:
    claim = record.claimed()

    assert record.fail(claim) is True

    task = record.task(claim.id)
    assert (task.status, task.error) == (
        "failed",
        {"code": "actor_error", "message": "RuntimeError: oops"},
    )
    assert record.one("SELECT traceback FROM attempts WHERE task_id = %s", claim.id) == "Traceback …"
    assert record.moves(claim.id) == ["queued", "running", "failed"]


def test_a_second_finish_with_the_same_token_is_answered_as_the_first(record: Record) -> None:
    """The commit of the first one may have gone through although its answer was lost."""
    done, failed, retried = (record.claimed() for _ in range(3))
    assert record.complete(done, 1)
    assert record.fail(failed)
    assert record.fail(retried, retry_in=60)

    assert record.complete(done, 2) is True
    assert record.fail(failed) is True
    assert record.fail(retried, retry_in=60) is True

    assert record.task(done.id).result == 1
    assert [len(record.moves(one.id)) for one in (done, failed, retried)] == [3, 3, 3]
    assert [record.counters(one.id) for one in (failed, retried)] == [(1, 1, 0), (1, 1, 0)]


def test_who_finishes_first_decides(record: Record) -> None:
    claim = record.claimed()
    assert record.complete(claim, "first")

    assert record.fail(claim) is False

    assert record.status(claim.id) == "completed"


def test_a_stale_token_writes_nothing(record: Record) -> None:
    # Given a task that was taken from one worker and claimed by another
    stale = record.claimed()
    record.ledger.release(stale).result(10)
    (fresh,) = record.fetch()
    before = record.task(stale.id), record.queries.history(stale.id)

    # When the first one still writes about it
    successor = a_stage(new_id(), "next")
    answers = [
        record.complete(stale, "stale", successors=[successor]),
        record.fail(stale),
        record.fail(stale, retry_in=1),
        record.ledger.release(stale).result(10),
        record.ledger.report(stale, 50, "phase", "message").result(10),
    ]

    # Then nothing of it is on record, and the second one goes on.
    assert answers == [False] * 5
    assert (record.task(stale.id), record.queries.history(stale.id)) == before
    assert record.queries.task(successor.id) is None
    assert record.complete(fresh, "fresh") is True


def test_progress_is_on_record_while_the_attempt_runs(record: Record) -> None:
    claim = record.claimed()
    details = {"step": "pages", "steps_done": 1, "steps_total": 4}

    assert record.ledger.report(claim, 25, "pages", "page 1 of 4", details).result(10) is True

    task = record.task(claim.id)
    assert (task.progress, task.phase, task.message, task.details) == (25, "pages", "page 1 of 4", details)
    record.complete(claim)
    assert record.ledger.report(claim, 50, None, None).result(10) is False
    assert [event.kind for event in record.queries.history(claim.id)] == [
        "state",
        "state",
        "progress",
        "state",
    ]
    assert record.moves(claim.id) == ["queued", "running", "completed"]


# --- stages ------------------------------------------------------------------------------------------


def test_the_successors_of_a_stage_are_created_in_the_transaction_of_its_finish(record: Record) -> None:
    run_id, (first,) = a_run(record)
    (claim,) = record.fetch()
    successors = [a_stage(run_id, "second", index) for index in range(3)]

    assert record.complete(claim, "done", successors=successors, run=RunProgress(run_id, 50.0, "second"))

    written = record.sql.execute(
        "SELECT s.id, s.xmin, t.xmin FROM task_state s JOIN tasks t USING (id)"
        " WHERE t.run_id = %s AND t.stage = 'second'",
        (run_id,),
    ).fetchall()
    transaction = record.one("SELECT xmin FROM task_state WHERE id = %s", first)
    assert {row[0] for row in written} == {task.id for task in successors}
    assert {transaction} == {row[1] for row in written} == {row[2] for row in written}
    assert record.one("SELECT xmin FROM task_state WHERE id = %s", run_id) == transaction
    run = record.task(run_id)
    assert (run.status, run.progress, run.phase) == ("running", 50, "second")


def test_the_successors_of_a_stage_are_created_once(record: Record) -> None:
    run_id, _ = a_run(record)
    (claim,) = record.fetch()

    for _ in range(2):  # each time with new ids, as the flow makes them
        assert record.complete(claim, "done", successors=[a_stage(run_id, "second")]) is True

    assert record.one("SELECT count(*) FROM tasks WHERE run_id = %s AND stage = 'second'", run_id) == 1
    assert record.one("SELECT count(*) FROM task_state") == 3


def test_the_first_claim_of_a_stage_starts_its_run(record: Record) -> None:
    run_id, _ = a_run(record, 2)
    assert record.status(run_id) == "queued"

    record.fetch(limit=2)

    assert record.moves(run_id) == ["queued", "running"]


def test_a_run_itself_is_never_claimed(record: Record) -> None:
    record.ledger.submit([a_task(is_run=True)]).result(10)

    assert record.fetch(limit=10) == []
    assert record.ledger.take(QUEUE, 10, 1).result(10) == 0


def test_a_delayed_run_is_ready_together_with_its_first_stage(record: Record) -> None:
    run_id, (first,) = a_run(record, delay=0.05)
    assert record.status(run_id) == record.status(first) == "scheduled"

    eventually(lambda: record.ledger.promote().result(10) == 2)
    (claim,) = record.fetch()
    record.complete(claim)
    record.ledger.advance(Advance(run_id, status="completed", result=1)).result(10)

    assert record.moves(run_id) == ["scheduled", "queued", "running", "completed"]


def test_a_run_whose_stage_is_claimed_before_it_was_promoted_itself_starts_legally(record: Record) -> None:
    run_id, (first,) = a_run(record, delay=3_600)
    record.sql.execute("UPDATE task_state SET ready_at = now() WHERE id = %s", (first,))
    assert record.ledger.promote().result(10) == 1

    record.fetch()

    assert record.moves(run_id) == ["scheduled", "running"]


def test_two_settlers_at_once_create_a_join_once(record: Record) -> None:
    # Given a run whose mapped stage is complete
    run_id, _ = a_run(record, 3)
    for claim in record.fetch(limit=3):
        record.complete(claim, 1)
    ledgers = [Ledger(record.url).start() for _ in range(4)]

    # When several processes find at once that its join is due
    try:
        decisions = [Advance(run_id, [a_stage(run_id, "join", payload=[1, 1, 1])]) for _ in range(20)]
        futures = [ledgers[n % 4].advance(decision) for n, decision in enumerate(decisions)]
        answers = [future.result(10) for future in futures]
    finally:
        for ledger in ledgers:
            ledger.close()

    # Then it exists once.
    assert answers == [True] * 20
    assert record.one("SELECT count(*) FROM tasks WHERE run_id = %s AND stage = 'join'", run_id) == 1
    assert len(record.fetch(limit=5)) == 1


def test_a_run_ends_once(record: Record) -> None:
    run_id, _ = a_run(record)
    (claim,) = record.fetch()
    record.complete(claim, 1)

    answers = [
        record.ledger.advance(Advance(run_id, status="completed", result=result)).result(10)
        for result in ("one", "two")
    ]

    assert answers == [True, False]
    assert (record.status(run_id), record.task(run_id).result) == ("completed", "one")
    assert record.moves(run_id) == ["queued", "running", "completed"]


def test_the_end_of_a_run_cancels_what_is_left_of_it(record: Record) -> None:
    run_id, (running, waiting) = a_run(record, 2)
    (claim,) = record.fetch()
    told = Told(record.url, CANCEL_CHANNEL)

    record.ledger.advance(Advance(run_id, status="failed", error={"code": "x", "message": "y"})).result(10)

    assert record.task(run_id).error == {"code": "x", "message": "y"}
    assert record.status(running) == record.status(waiting) == "cancelled"
    assert record.complete(claim) is False
    eventually(lambda: told.texts == [str(claim.id)])
    told.close()
    assert record.moves(waiting) == ["queued", "cancelled"]
    assert record.moves(claim.id) == ["queued", "running", "cancelled"]


def test_a_run_that_does_not_exist_cannot_advance(record: Record) -> None:
    assert record.ledger.advance(Advance(new_id(), status="completed")).result(10) is False


# --- cancel ------------------------------------------------------------------------------------------


class Told:
    """Listens to a channel."""

    def __init__(self, url: str, channel: str) -> None:
        self.texts: list[str] = []
        self._listener = Listener(url, {channel: self.texts.append}).start()
        with psycopg.connect(url, autocommit=True) as connection:
            eventually(
                lambda: connection.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query = %s",
                    (f"LISTEN {channel}",),
                ).fetchone()
            )

    def close(self) -> None:
        self._listener.close()


def test_whatever_is_unfinished_is_cancelled(record: Record) -> None:
    scheduled = record.submit(delay=60)
    retrying = record.claimed()
    record.fail(retrying, retry_in=60)
    running = record.claimed()
    queued = record.submit()
    ids = [scheduled, queued, running.id, retrying.id]

    assert [record.ledger.cancel(task_id).result(10) for task_id in ids] == ["cancelled"] * 4

    assert [record.moves(task_id)[-2:] for task_id in ids] == [
        ["scheduled", "cancelled"],
        ["queued", "cancelled"],
        ["running", "cancelled"],
        ["retrying", "cancelled"],
    ]
    assert record.complete(running) is False
    assert record.ledger.promote().result(10) == 0
    assert record.fetch(limit=5) == []


def test_a_running_task_that_is_cancelled_wakes_its_worker(record: Record) -> None:
    claim = record.claimed()
    told = Told(record.url, CANCEL_CHANNEL)

    record.ledger.cancel(claim.id).result(10)

    eventually(lambda: told.texts == [str(claim.id)])
    told.close()


def test_cancelling_again_or_too_late_or_nothing_says_so(record: Record) -> None:
    finished, failed = record.claimed(), record.claimed()
    record.complete(finished, 1)
    record.fail(failed)
    cancelled = record.submit()
    record.ledger.cancel(cancelled).result(10)

    assert record.ledger.cancel(cancelled).result(10) == "cancelled"
    assert record.ledger.cancel(finished.id).result(10) == "finished"
    assert record.ledger.cancel(failed.id).result(10) == "finished"
    assert record.ledger.cancel(new_id()).result(10) == "missing"
    assert record.status(finished.id) == "completed"


def test_cancelling_a_run_cancels_its_stages(record: Record) -> None:
    run_id, (one, _, other) = a_run(record, 3)
    done, running = record.fetch(limit=2)
    record.complete(done, 1)

    assert record.ledger.cancel(run_id).result(10) == "cancelled"

    states = {task_id: record.moves(task_id)[-1] for task_id in (run_id, one, done.id, running.id, other)}
    assert states.pop(done.id) == "completed"
    assert set(states.values()) == {"cancelled"}
    assert record.complete(running, 1, successors=[a_stage(run_id, "second")]) is False
    assert record.one("SELECT count(*) FROM tasks WHERE stage = 'second'") == 0


def test_a_parent_is_lineage_only_and_does_not_cascade(record: Record) -> None:
    parent = record.submit()
    child = record.submit(parent_id=parent)

    record.ledger.cancel(parent).result(10)

    assert record.status(child) == "queued"


def test_cancels_and_finishes_that_cross_each_other_all_get_an_answer(record: Record) -> None:
    """Parent to child and child to parent: with waiting for locks these would deadlock."""
    runs = [a_run(record, 5) for _ in range(10)]
    claims = record.fetch(limit=100)
    other = Ledger(record.url).start()
    try:
        finishes = [
            record.ledger.complete(c, Complete(c.id, c.token, 1, (), RunProgress(c.run_id, 50.0)))
            for c in claims
        ]
        cancels = [other.cancel(run_id) for run_id, _ in runs]
        answers = [future.result(20) for future in finishes]
        assert [future.result(20) for future in cancels] == ["cancelled"] * 10
    finally:
        other.close()

    for claim, finished in zip(claims, answers, strict=True):
        assert record.moves(claim.id)[-1] == ("completed" if finished else "cancelled")


# --- rescue ------------------------------------------------------------------------------------------


def test_what_a_dead_worker_was_running_is_ready_again(record: Record) -> None:
    claim, waiting = record.claimed(), record.submit()

    assert record.ledger.rescue(record.ledger.owner).result(10) == 1

    assert record.counters(claim.id) == (1, 0, 1)
    assert record.moves(claim.id) == ["queued", "running", "queued"]
    assert record.moves(waiting) == ["queued"]
    assert record.complete(claim) is False


def test_rescuing_twice_at_once_counts_one_death(record: Record) -> None:
    claim = record.claimed()

    with a_group_in_flight(record):
        futures = [record.ledger.rescue(record.ledger.owner) for _ in range(3)]

    assert sorted(future.result(10) for future in futures) == [0, 0, 1]
    assert record.counters(claim.id) == (1, 0, 1)


def test_a_task_that_was_running_in_three_dying_workers_fails_as_worker_lost(record: Record) -> None:
    task_id = record.submit(max_retries=10)

    for deaths in (0, 1, 2):
        (claim,) = record.fetch()
        assert claim.deaths == deaths
        record.ledger.rescue(record.ledger.owner).result(10)

    task = record.task(task_id)
    assert (task.status, (task.error or {})["code"]) == ("failed", "worker_lost")
    assert record.counters(task_id) == (3, 0, 3)
    assert record.moves(task_id) == ["queued", *["running", "queued"] * 2, "running", "failed"]
    assert record.fetch() == []


def test_a_rescued_worker_is_forgotten(record: Record) -> None:
    record.sql.execute(
        "INSERT INTO workers (id, kind, host, pid, version) VALUES (%s, 'worker', 'here', 1, '0')",
        (record.ledger.owner,),
    )
    record.claimed()

    record.ledger.rescue(record.ledger.owner).result(10)

    assert not record.queries.is_alive(record.ledger.owner)


# --- publishing: stamps, take, close, reopen, resend -------------------------------------------------


def test_a_submission_is_stamped_and_handed_to_the_outlet_after_its_commit(record: Record) -> None:
    wire = Wire()
    record.ledger.publish_through(wire)

    ready, later = record.submit(priority=8), record.submit(delay=60)

    (hint,) = wire.hints
    assert (hint.task_id, hint.task_type, hint.queue, hint.priority) == (ready, TYPE, QUEUE, 8)
    assert record.one("SELECT dispatch FROM task_state WHERE id = %s", ready) == hint.dispatch
    assert record.one("SELECT dispatch FROM task_state WHERE id = %s", later) is None
    assert record.one("SELECT owner FROM dispatches WHERE id = %s", hint.dispatch) == record.ledger.owner
    assert isinstance(claim_one(record.ledger, Arrival(ready, hint.dispatch)), Claimed)


def test_nothing_is_stamped_while_the_window_is_full_or_something_older_waits(record: Record) -> None:
    wire = Wire()
    record.ledger.publish_through(wire)
    wire.rooms = {QUEUE: 0}
    older = record.submit()
    wire.rooms = {}

    younger = record.submit()

    assert wire.hints == []
    assert record.ledger.take(QUEUE, 1, 900).result(10) == 1
    assert [hint.task_id for hint in wire.hints] == [older]
    assert record.ledger.take(QUEUE, 10, 901).result(10) == 1
    assert [hint.task_id for hint in wire.hints] == [older, younger]


def test_of_a_batch_only_as_many_are_stamped_as_there_is_room_for_best_rank_first(record: Record) -> None:
    wire = Wire()
    wire.rooms = {QUEUE: 3}
    record.ledger.publish_through(wire)
    batch = [a_task(priority=priority) for priority in (2, 8, 5, 9, 1)]

    record.ledger.submit(batch).result(10)

    assert [hint.priority for hint in wire.hints] == [9, 8, 5]
    assert record.one("SELECT count(*) FROM task_state WHERE dispatch IS NULL") == 2


def test_who_has_many_messages_under_way_gets_less_of_a_priority_than_others(record: Record) -> None:
    wire = Wire()
    record.ledger.publish_through(wire)

    record.ledger.submit([a_task(user_id="ann") for _ in range(40)]).result(10)
    record.submit(user_id="ann")
    record.submit(user_id="bob")

    assert [hint.priority for hint in wire.hints] == [1] * 40 + [1, 5]


def test_nothing_is_stamped_that_would_overtake_a_message_whose_time_has_come(record: Record) -> None:
    # Given a message of low priority that has waited for seven minutes
    wire = Wire()
    record.ledger.publish_through(wire)
    record.submit(priority=2)
    record.sql.execute("UPDATE task_state SET rank = rank - 420")
    # When a high and a critical task come
    high = record.submit(priority=8)
    # Then the high one is left to the dispatcher, which sends it so that it comes after
    assert [hint.priority for hint in wire.hints] == [2]
    assert record.ledger.take(QUEUE, 5, 900).result(10) == 1
    assert [(hint.task_id, hint.priority) for hint in wire.hints[1:]] == [(high, 2)]
    # and the critical one overtakes both
    record.submit(priority=10)
    assert [hint.priority for hint in wire.hints[2:]] == [10]


def test_a_full_window_is_closed_to_all_but_those_that_overtake_what_is_in_it(record: Record) -> None:
    wire = Wire()
    low = [record.submit(priority=2) for _ in range(10)]
    record.ledger.publish_through(wire)
    assert record.ledger.take(QUEUE, 50, 900, window=4).result(10) == 4
    assert record.ledger.take(QUEUE, 50, 901, window=4).result(10) == 0

    critical = record.submit(priority=10)

    assert record.ledger.take(QUEUE, 50, 902, window=4).result(10) == 1
    assert [hint.task_id for hint in wire.hints] == [*low[:4], critical]


def test_what_rabbitmq_has_lost_does_not_keep_the_window_closed(record: Record) -> None:
    for _ in range(8):
        record.submit()
    assert record.ledger.take(QUEUE, 50, 900, window=4).result(10) == 4
    record.sql.execute("UPDATE task_state SET dispatched_at = now() - interval '2 s' WHERE dispatch = 900")

    assert record.ledger.take(QUEUE, 50, 901, window=4, gone_after=3).result(10) == 0
    assert record.ledger.take(QUEUE, 50, 902, window=4, gone_after=1).result(10) == 4


def test_few_tasks_are_fetched_before_the_many_of_another_tenant(record: Record) -> None:
    record.ledger.submit([a_task(user_id="ann") for _ in range(100)]).result(10)
    few = {record.submit(user_id="bob") for _ in range(5)}

    fetched = [claim.id for claim in record.fetch(limit=7)]

    assert few <= set(fetched)
    assert len(record.fetch(limit=200)) == 98


def test_a_hundred_tenants_and_more_all_have_their_turn(record: Record) -> None:
    record.ledger.submit([a_task(user_id=f"user-{n}") for n in range(250)]).result(10)

    assert len({claim.user_id for _ in range(50) for claim in record.fetch(limit=5)}) == 250


def test_for_one_place_a_few_tasks_of_each_tenant_are_looked_at(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given tenants with much waiting each
    record.ledger.submit([a_task(user_id=f"user-{n % 30}") for n in range(30 * 40)]).result(10)
    seen: list[int] = []

    def choose(found: Sequence[order.Candidate]) -> Iterator[order.Choice]:
        seen.append(len(found))
        return order.choose(found)

    monkeypatch.setattr(claims, "choose", choose)
    # When somebody has one place
    assert len(record.fetch(limit=1)) == 1
    # Then what is read for it is little
    assert len(seen) == 1
    assert seen[0] <= 2 * (1 + order.SPARE)


def test_what_others_overtake_all_the_while_is_sent_again(record: Record) -> None:
    # Given messages of a tenant with many, and one of another that came later and runs
    record.ledger.submit([a_task(user_id="ann") for _ in range(40)]).result(10)
    assert record.ledger.take(QUEUE, 40, 900).result(10) == 40
    record.ledger.close_dispatch(900).result(10)
    record.sql.execute("UPDATE task_state SET dispatched_at = now() - interval '1 min'")
    assert record.ledger.resend(QUEUE, 30, overtaken=True).result(10) == 0
    other = record.submit(user_id="bob")
    record.ledger.take(QUEUE, 1, 901).result(10)
    assert isinstance(claim_one(record.ledger, Arrival(other, 901)), Claimed)
    # Then those that were overtaken come back
    assert record.ledger.resend(QUEUE, 30, overtaken=True).result(10) == 40


def test_take_publishes_the_best_ranks_first_and_nothing_twice(record: Record) -> None:
    wire = Wire()
    ids = {priority: record.submit(priority=priority) for priority in (1, 9, 5)}
    record.ledger.publish_through(wire)

    assert record.ledger.take(QUEUE, 2, 900).result(10) == 2
    assert record.ledger.take(QUEUE, 2, 901).result(10) == 1
    assert record.ledger.take(QUEUE, 2, 902).result(10) == 0

    (_, first), (_, second) = wire.published
    assert {hint.task_id for hint in first} == {ids[9], ids[5]}
    assert {hint.task_id for hint in second} == {ids[1]}
    assert record.fetch(limit=5) == [], "what is on its way is not fetched as well"


def test_a_confirmed_batch_is_closed(record: Record) -> None:
    record.submit()
    record.ledger.take(QUEUE, 1, 900).result(10)
    assert record.one("SELECT count(*) FROM dispatches") == 1

    record.ledger.close_dispatch(900).result(10)

    assert record.one("SELECT count(*) FROM dispatches") == 0


@pytest.mark.parametrize("ending", ["close_dispatch", "reopen_dispatch"])
def test_a_batch_with_a_copy_that_somebody_holds_holds_up_nobody(record: Record, ending: str) -> None:
    # Given a copy that is being published, whose dead letter somebody else writes
    record.submit()
    record.fail(record.fetch()[0], retry_in=None)
    assert record.ledger.take_dead(QUEUE, 1, 900).result(10) == 1
    with psycopg.connect(record.url) as somebody:
        somebody.execute("SELECT FROM dead_letters WHERE dispatch = 900 FOR NO KEY UPDATE")

        # When its batch ends
        ended = getattr(record.ledger, ending)(900)

        # Then all other verbs are committed meanwhile, and the batch stays open
        record.submit()
        assert not ended.done()
        assert record.one("SELECT count(*) FROM dispatches WHERE id = 900") == 1
    ended.result(10)
    assert record.one("SELECT count(*) FROM dispatches WHERE id = 900") == 0
    assert record.one("SELECT count(*) FROM dead_letters WHERE dispatch IS NULL") == 1


def test_of_a_batch_that_was_not_confirmed_only_the_unclaimed_is_published_again(record: Record) -> None:
    one, other = record.submit(), record.submit()
    record.ledger.take(QUEUE, 2, 900).result(10)
    claim = claim_one(record.ledger, Arrival(one, 900))
    assert isinstance(claim, Claimed)

    assert record.ledger.reopen_dispatch(900).result(10) == 1

    assert record.one("SELECT count(*) FROM dispatches") == 0
    assert claim_one(record.ledger, Arrival(other, 900)) == Refused(other, "stale")
    assert record.ledger.take(QUEUE, 5, 901).result(10) == 1
    assert isinstance(claim_one(record.ledger, Arrival(other, 901)), Claimed)
    assert record.complete(claim) is True


def test_what_was_published_long_ago_and_never_claimed_is_sent_again(record: Record) -> None:
    lost, open_still, fresh = record.submit(), record.submit(), record.submit()
    for task_id, dispatch in ((lost, 900), (open_still, 901), (fresh, 902)):
        assert record.ledger.take(QUEUE, 1, dispatch).result(10) == 1
        assert record.one("SELECT dispatch FROM task_state WHERE id = %s", task_id) == dispatch
    record.sql.execute("UPDATE task_state SET dispatched_at = now() - interval '1 h' WHERE dispatch < 902")
    record.ledger.close_dispatch(900).result(10)
    record.ledger.close_dispatch(902).result(10)

    assert record.ledger.resend("mail", 10).result(10) == 0
    assert record.ledger.resend(QUEUE, 10).result(10) == 1

    assert claim_one(record.ledger, Arrival(lost, 900)) == Refused(lost, "stale")
    assert [claim.id for claim in record.fetch(limit=5)] == [lost]


def test_who_waits_for_work_is_told_when_there_is_some(record: Record) -> None:
    told = Told(record.url, READY_CHANNEL)

    record.submit()
    eventually(lambda: len(told.texts) == 1)
    (claim,) = record.fetch()
    record.ledger.release(claim).result(10)

    eventually(lambda: len(told.texts) == 2)
    told.close()


# --- the group ---------------------------------------------------------------------------------------


@contextmanager
def a_group_in_flight(record: Record) -> Iterator[None]:
    """Inside, the ledger's group is in a transaction that cannot end: what is called now waits together."""
    with psycopg.connect(record.url) as connection:
        connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        blocked = record.ledger.submit([a_task(queue_name="elsewhere")])
        eventually(
            lambda: record.one(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = %s AND wait_event_type = 'Lock'",
                NAME,
            )
        )
        yield
        connection.rollback()
    blocked.result(10)


@contextmanager
def a_locked_row(record: Record, task_id: UUID) -> Iterator[None]:
    """Inside, another transaction holds a task's row."""
    with psycopg.connect(record.url) as connection:
        connection.execute("SELECT FROM task_state WHERE id = %s FOR UPDATE", (task_id,))
        yield
        connection.rollback()


def test_verbs_that_are_called_at_the_same_time_share_a_transaction(record: Record) -> None:
    with a_group_in_flight(record):
        tasks = [a_task() for _ in range(200)]
        futures = [record.ledger.submit([task]) for task in tasks]
    accepted = [future.result(10)[0] for future in futures]

    assert [one.id for one in accepted] == [task.id for task in tasks]
    assert record.one("SELECT count(DISTINCT xmin::text) FROM tasks") == 2


def test_two_hundred_callers_on_threads_of_their_own_share_few_transactions(record: Record) -> None:
    with ThreadPoolExecutor(50) as pool:
        ids = list(pool.map(lambda _: record.submit(), range(200)))

    assert len(set(ids)) == 200
    assert record.one("SELECT count(*) FROM tasks") == 200
    assert record.one("SELECT count(DISTINCT xmin::text) FROM tasks") < 100


def test_keys_that_two_processes_take_in_opposite_order_deadlock_nobody(record: Record) -> None:
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = record.one(deadlocks)
    two = Ledger(record.url).start(), Ledger(record.url).start()
    for number in range(10):
        keys = [Once("user", "POST /tasks", f"{number}-{key}", "same") for key in range(20)]
        answers = [
            ledger.submit([task], once=once, asked=[task.id])
            for ledger, order in zip(two, (keys, keys[::-1]), strict=True)
            for once in order
            for task in [a_task()]
        ]
        assert len({answer.result(20)[0].id for answer in answers}) == len(keys)
    for ledger in two:
        ledger.close()  # with its connection its statistics are complete
    assert record.one(deadlocks) == before


def test_verbs_of_all_kinds_share_a_transaction_and_each_gets_its_own_answer(record: Record) -> None:
    done, failed, released = (record.claimed() for _ in range(3))
    cancelled = record.submit()

    with a_group_in_flight(record):
        futures: list[Future[Any]] = [
            record.ledger.cancel(cancelled),
            record.ledger.complete(done, Complete(done.id, done.token, "done")),
            record.ledger.submit([a_task(task_type="other")]),
            record.ledger.fail(failed, OOPS, retry_in=None),
            record.ledger.release(released),
            record.ledger.cancel(done.id),
            record.ledger.fetch([QUEUE], [TYPE], 5),
        ]
    answers = [future.result(10) for future in futures]

    assert [*answers[:2], *answers[3:6]] == ["cancelled", True, True, True, "finished"]
    assert answers[2][0].status == "queued"
    assert [claim.id for claim in answers[6]] == [released.id]
    assert record.one("SELECT count(DISTINCT xmin::text) FROM task_state WHERE queue = %s", QUEUE) == 1


class Unspeakable:
    """JSON knows no such thing."""


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": {"text": "a\0b"}},
        {"priority": 1_000_000},
        {"backoff": {"kind": "fixed", "base": "\0"}},
        {"user_id": "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(4_000))},
        {"user_id": "\ud800"},
        {"backoff": {"kind": Unspeakable()}},
    ],
    ids=["NUL", "number out of range", "NUL within", "too long for its index", "surrogate", "no JSON"],
)
def test_one_bad_verb_fails_alone_and_harms_no_other(record: Record, fields: dict[str, Any]) -> None:
    claim = record.claimed()

    with a_group_in_flight(record):
        good = [record.ledger.submit([a_task()]) for _ in range(3)]
        bad = record.ledger.submit([a_task(**fields)], patience=30)
        finish = record.ledger.complete(claim, Complete(claim.id, claim.token, "done"))
        more = [record.ledger.submit([a_task()]) for _ in range(3)]

    assert [future.result(10)[0].status for future in good + more] == ["queued"] * 6
    assert finish.result(10) is True
    error = bad.exception(10)
    assert error is not None
    assert not isinstance(error, Unavailable)
    assert len(record.fetch(limit=20)) == 6


def test_one_nul_in_a_result_among_sixty_finishes_fails_its_own_finish_alone(record: Record) -> None:
    claims = [record.claimed() for _ in range(60)]
    odd = claims.pop(30)

    with a_group_in_flight(record):
        finished = [record.ledger.complete(one, Complete(one.id, one.token, "done")) for one in claims[:30]]
        bad = record.ledger.complete(odd, Complete(odd.id, odd.token, "a\0b"))
        finished += [record.ledger.complete(one, Complete(one.id, one.token, "done")) for one in claims[30:]]

    assert all(future.result(10) is True for future in finished)
    assert isinstance(bad.exception(10), psycopg.DataError)
    assert record.fail(odd) is True


def test_what_the_driver_refuses_before_postgres_sees_it_fails_alone_too(record: Record) -> None:
    with a_group_in_flight(record):
        bad = record.ledger.fetch(["a\0b"], [TYPE], 1)
        good = record.ledger.submit([a_task()])

    assert good.result(10)[0].status == "queued"
    assert isinstance(bad.exception(10), psycopg.DataError)


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_a_bad_report_harms_no_other_report(record: Record, text: str) -> None:
    claims = [record.claimed() for _ in range(3)]
    with psycopg.connect(record.url) as connection:
        connection.execute("LOCK TABLE task_state IN ACCESS EXCLUSIVE MODE")
        first = record.ledger.report(claims[0], 10, None, None)
        bad = record.ledger.report(claims[1], 10, None, text)
        last = record.ledger.report(claims[2], 10, None, "fine")
        connection.rollback()

    assert first.result(10) is True
    assert last.result(10) is True
    assert bad.exception(10) is not None


def test_a_row_that_another_transaction_holds_is_skipped_and_done_afterwards(record: Record) -> None:
    held, free = record.claimed(), record.claimed()

    with a_locked_row(record, held.id):
        waiting = record.ledger.complete(held, Complete(held.id, held.token, "held"))
        others = [record.complete(free, "free"), record.ledger.submit([a_task()]).result(10)]
        assert others[0] is True
        assert not waiting.done()

    assert waiting.result(10) is True
    assert record.task(held.id).result == "held"


def test_every_verb_waits_for_a_held_row_without_holding_up_the_others(record: Record) -> None:
    failing, cancelling = record.claimed(), record.submit()
    run_id, _ = a_run(record)

    with (
        a_locked_row(record, failing.id),
        a_locked_row(record, cancelling),
        a_locked_row(record, run_id),
    ):
        waiting: list[Future[Any]] = [
            record.ledger.fail(failing, OOPS, retry_in=None),
            record.ledger.cancel(cancelling),
            record.ledger.advance(Advance(run_id, status="failed")),
        ]
        assert record.ledger.submit([a_task(queue_name="mail")]).result(10)
        assert record.ledger.rescue(new_id()).result(10) == 0
        assert not [future for future in waiting if future.done()]

    assert [future.result(10) for future in waiting] == [True, "cancelled", True]
    assert record.status(cancelling) == "cancelled"


def test_what_is_skipped_by_a_release_is_not_reported_as_stale(record: Record) -> None:
    claim = record.claimed()

    with a_locked_row(record, claim.id):
        released = record.ledger.release(claim)
        record.ledger.submit([a_task(queue_name="mail")]).result(10)

    assert released.result(10) is True
    assert record.status(claim.id) == "queued"


def test_a_caller_who_gives_up_before_its_verb_was_taken_takes_it_back(record: Record) -> None:
    regretted, kept = a_task(), a_task()

    with a_group_in_flight(record):
        futures = [record.ledger.submit([task]) for task in (regretted, kept)]
        assert futures[0].cancel()

    assert futures[1].result(10)[0].id == kept.id
    assert record.queries.task(regretted.id) is None
    assert record.submit(), "the group is still alive"


def test_a_caller_who_gives_up_too_late_kills_nothing(record: Record) -> None:
    with psycopg.connect(record.url) as connection:
        connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        futures = [record.ledger.submit([a_task()]) for _ in range(3)]
        eventually(lambda: futures[0].running())
        assert not futures[0].cancel()
        connection.rollback()

    assert [future.result(10)[0].status for future in futures] == ["queued"] * 3


def test_a_ledger_that_closes_commits_what_waits(record: Record) -> None:
    other = Ledger(record.url).start()
    tasks = [a_task() for _ in range(50)]
    futures = [other.submit([task]) for task in tasks]

    other.close()

    assert [future.result(0)[0].id for future in futures] == [task.id for task in tasks]


# --- when connections die ----------------------------------------------------------------------------


def test_without_postgres_a_caller_with_little_patience_is_told(url: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        ledger = Ledger(make_conninfo(url, host="127.0.0.1", port=nobody.getsockname()[1])).start()
        patient = ledger.submit([a_task()])

        with pytest.raises(Unavailable, match="cannot record this now"):
            ledger.submit([a_task()], patience=0.2).result(10)

        assert not patient.done()
        ledger.close()
        with pytest.raises(Unavailable):
            patient.result(0)


class LossyProxy:
    """Stands between a ledger and Postgres. A commit that is *lost* happens, but nobody hears of it."""

    def __init__(self, url: str) -> None:
        parts = conninfo_to_dict(url)
        self._target = (str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = make_conninfo(
            url,
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            sslmode="disable",
            gssencmode="disable",
        )
        self._lose = threading.Event()
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_the_next_commit(self) -> None:
        self._lose.set()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._there, args=(client, server), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        deaf = threading.Event()
        back = threading.Thread(target=self._back, args=(client, server, deaf), daemon=True)
        back.start()
        with suppress(OSError):
            while data := client.recv(65_536):
                if b"COMMIT" in data and self._lose.is_set():
                    self._lose.clear()
                    deaf.set()
                    server.sendall(data)
                    back.join(10)
                    self.lost += 1
                    break
                server.sendall(data)
        for one in (client, server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _back(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if deaf.is_set():  # the answer to the commit: it is decided, and nobody will know
                    return
                client.sendall(data)


@pytest.fixture
def lossy(record: Record) -> Iterator[tuple[LossyProxy, Ledger]]:
    """A ledger behind a proxy that can lose the answer to a commit."""
    proxy = LossyProxy(record.url)
    ledger = Ledger(proxy.url, owner=record.ledger.owner).start()
    ledger.cancel(new_id()).result(10)  # it is connected
    yield proxy, ledger
    ledger.close()
    proxy.close()


Lossy = tuple[LossyProxy, Ledger]


def uncertain(lossy: Lossy, call: Callable[[Ledger], "Future[Any]"]) -> Any:
    """The answer to a verb whose commit went through but whose confirmation was lost."""
    proxy, ledger = lossy
    before = proxy.lost
    proxy.lose_the_next_commit()
    answer = call(ledger).result(20)
    assert proxy.lost == before + 1
    return answer


def test_an_uncertain_submission_is_recorded_once(record: Record, lossy: Lossy) -> None:
    task = a_task()

    (accepted,) = uncertain(lossy, lambda ledger: ledger.submit([task]))

    assert (accepted.id, accepted.status) == (task.id, "queued")
    assert record.one("SELECT count(*) FROM tasks") == 1


def test_an_uncertain_fetch_still_gets_its_tasks(record: Record, lossy: Lossy) -> None:
    ids = {record.submit() for _ in range(3)}

    claims = uncertain(lossy, lambda ledger: ledger.fetch([QUEUE], [TYPE], 3))

    assert {claim.id for claim in claims} == ids
    assert all(claim.attempt == 1 for claim in claims)
    assert all(record.complete(claim) for claim in claims)
    assert {tuple(record.moves(task_id)) for task_id in ids} == {("queued", "running", "completed")}


def test_an_uncertain_fetch_takes_no_more_than_it_may(record: Record, lossy: Lossy) -> None:
    for _ in range(5):
        record.submit()

    claims = uncertain(lossy, lambda ledger: ledger.fetch([QUEUE], [TYPE], 2))

    assert len(claims) == 2
    assert record.one("SELECT count(*) FROM task_state WHERE status = 'running'") == 2


def test_an_uncertain_claim_is_still_a_claim(record: Record, lossy: Lossy) -> None:
    (arrival,) = sent(record, record.submit())

    (claim,) = uncertain(lossy, lambda ledger: ledger.claim([arrival]))

    assert isinstance(claim, Claimed)
    assert claim.attempt == 1
    assert claim_one(record.ledger, arrival) == Refused(claim.id, "running", record.ledger.owner)
    assert record.complete(claim) is True


def test_an_uncertain_take_publishes_all_that_it_has_stamped(record: Record, lossy: Lossy) -> None:
    # Given three ready tasks, and a take whose first commit is uncertain
    for _ in range(3):
        record.submit()
    wire = Wire()

    def take(ledger: Ledger) -> Future[int]:
        ledger.publish_through(wire)
        return ledger.take(QUEUE, 2, 77)

    # When it is repeated, then the rows of the first one are published, and no others are stamped
    assert uncertain(lossy, take) == 2
    stamped = record.one("SELECT count(*) FROM task_state WHERE dispatch = 77")
    assert (stamped, len(wire.hints)) == (2, 2)


def test_an_uncertain_completion_is_true_and_its_successors_exist_once(record: Record, lossy: Lossy) -> None:
    run_id, _ = a_run(record)
    (claim,) = record.fetch()
    completion = Complete(
        claim.id, claim.token, "done", [a_stage(run_id, "second")], RunProgress(run_id, 50.0)
    )

    assert uncertain(lossy, lambda ledger: ledger.complete(claim, completion)) is True

    assert record.moves(claim.id) == ["queued", "running", "completed"]
    assert record.one("SELECT count(*) FROM tasks WHERE stage = 'second'") == 1


@pytest.mark.parametrize("retry_in", [None, 60.0])
def test_an_uncertain_failure_counts_once(record: Record, lossy: Lossy, retry_in: float | None) -> None:
    claim = record.claimed()

    assert uncertain(lossy, lambda ledger: ledger.fail(claim, OOPS, retry_in=retry_in)) is True

    assert record.counters(claim.id) == (1, 1, 0)
    assert len(record.moves(claim.id)) == 3


def test_an_uncertain_cancel_is_a_cancel(record: Record, lossy: Lossy) -> None:
    run_id, (stage,) = a_run(record)

    assert uncertain(lossy, lambda ledger: ledger.cancel(run_id)) == "cancelled"

    assert record.moves(run_id) == record.moves(stage) == ["queued", "cancelled"]


def test_an_uncertain_rescue_counts_one_death(record: Record, lossy: Lossy) -> None:
    claim = record.claimed()

    uncertain(lossy, lambda ledger: ledger.rescue(record.ledger.owner))

    assert record.counters(claim.id) == (1, 0, 1)
    assert record.moves(claim.id) == ["queued", "running", "queued"]


def test_an_uncertain_release_uses_up_nothing(record: Record, lossy: Lossy) -> None:
    claim = record.claimed()

    uncertain(lossy, lambda ledger: ledger.release(claim))

    assert record.counters(claim.id) == (0, 0, 0)
    assert record.moves(claim.id) == ["queued", "running", "queued"]


def test_an_uncertain_end_of_a_run_ends_it_once(record: Record, lossy: Lossy) -> None:
    run_id, _ = a_run(record)
    (claim,) = record.fetch()
    record.complete(claim, 1)

    uncertain(lossy, lambda ledger: ledger.advance(Advance(run_id, status="completed", result="end")))

    assert record.moves(run_id) == ["queued", "running", "completed"]
    assert record.task(run_id).result == "end"


class Killer:
    """Terminates the ledger's Postgres backends again and again, but not for ever: work must get through."""

    MOST = 30

    def __init__(self, url: str) -> None:
        self.kills = 0
        self._url = url
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(10)

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while self.kills < self.MOST and not self._enough.wait(0.15):
                self.kills += connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                    (NAME,),
                ).rowcount


def test_whatever_connections_die_every_verb_gets_its_right_answer_and_nothing_is_doubled(
    record: Record,
) -> None:
    """Tasks go through the whole of their lives while the ledger's backends are killed again and again."""

    def a_life(number: int) -> UUID:
        queue = f"queue-{new_id()}"
        task = a_task(queue_name=queue, payload=number)
        (accepted,) = record.ledger.submit([task]).result(30)
        assert (accepted.id, accepted.status) == (task.id, "queued")
        (claim,) = record.ledger.fetch([queue], [TYPE], 3).result(30)
        assert claim.attempt == 1
        assert record.ledger.fail(claim, OOPS, retry_in=3_600).result(30) is True
        record.sql.execute("UPDATE task_state SET ready_at = now() WHERE id = %s", (task.id,))
        deadline = time.monotonic() + 30
        while not (again := record.ledger.fetch([queue], [TYPE], 3).result(30)):
            record.ledger.promote().result(30)
            assert time.monotonic() < deadline
        assert [(one.id, one.attempt, one.failures) for one in again] == [(task.id, 2, 1)]
        done = Complete(task.id, again[0].token, number)
        assert record.ledger.complete(again[0], done).result(30) is True
        return task.id

    ids: list[UUID] = []
    with Killer(record.url) as killer, ThreadPoolExecutor(10) as pool:
        while killer.kills < 10:
            ids += pool.map(a_life, range(10))

    assert record.one("SELECT count(*) FROM tasks") == len(ids)
    life = ["queued", "running", "retrying", "queued", "running", "completed"]
    assert {tuple(record.moves(task_id)) for task_id in ids} == {tuple(life)}
    assert {record.counters(task_id) for task_id in ids} == {(2, 1, 0)}
    assert {record.task(task_id).result for task_id in ids} == set(range(10))
