"""Queues with a max_size: submissions that do not fit are refused whole; nothing else ever is."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.errors import QueueFull
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.ledger.queues import Define
from tasks.ledger.runs import Advance
from tasks.queries import Queries
from tasks.queues import QueueQueries
from tasks.records import QueueStats
from tasks.values import Accepted, Claimed, NewTask, Once, TaskError
from tests.support.waiting import eventually

QUEUE, TYPE = "narrow", "work"
OOPS = TaskError("actor_error", "oops")


class Board:
    """Two processes on one record, and a queue with room for three."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger, self.other = Ledger(url).start(), Ledger(url).start()
        self.queries, self.queues = Queries(database), QueueQueries(database)
        self.sql = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self.ledger.close()
        self.other.close()
        self.sql.close()

    def limit(self, max_size: int, queue: str = QUEUE) -> None:
        self.ledger.define_queue(Define(queue, max_size=max_size)).result(10)

    def submit(self, *tasks: NewTask, once: Once | None = None) -> list[Accepted]:
        asked = [task.id for task in tasks if task.run_id is None]
        return self.ledger.submit(tasks, once=once, asked=asked).result(10)

    def is_refused(self, *tasks: NewTask, once: Once | None = None) -> bool:
        """Whether a submission is refused because of a full queue; then nothing of it is on record."""
        before = self.count()
        try:
            self.submit(*tasks, once=once)
        except QueueFull:
            assert self.count() == before
            return True
        return False

    def claim(self) -> Claimed:
        (claim,) = self.ledger.fetch([QUEUE], [TYPE], 1).result(10)
        return claim

    def stats(self, queue: str = QUEUE) -> QueueStats:
        found = self.queues.stats(queue)
        assert found is not None
        return found

    def tallied(self) -> int:
        """How many submitted tasks the statistics know that are not folded yet."""
        row = self.sql.execute(
            "SELECT coalesce(sum(count), 0) FROM tallies WHERE status = 'submitted'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def count(self) -> int:
        row = self.sql.execute("SELECT count(*) FROM tasks").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def board(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Board]:
    opened = Board(shared, url)
    opened.sql.execute(
        "TRUNCATE tasks, task_state, attempts, events, dependencies, idempotency_keys, queues, dead_letters"
    )
    opened.limit(3)
    yield opened
    opened.close()


def a_task(**fields: Any) -> NewTask:
    return NewTask(**{"task_type": TYPE, "queue_name": QUEUE, **fields})


def a_run(**fields: Any) -> list[NewTask]:
    """A run and its first stage, in the same queue."""
    run = a_task(task_type="pipeline", is_run=True, **fields)
    return [run, a_stage(run.id)]


def a_stage(run_id: UUID, index: int = 0) -> NewTask:
    return a_task(run_id=run_id, stage="first", stage_index=index)


def test_a_full_queue_refuses_what_is_submitted_to_it_alone(board: Board) -> None:
    # Given a queue that holds as many waiting tasks as it may
    board.submit(a_task(), a_task(delay=3_600), a_task())

    # Then it takes no more, and others do
    assert board.is_refused(a_task())
    assert not board.is_refused(a_task(queue_name="other"))


def test_every_task_that_waits_takes_room_and_one_that_runs_or_is_over_does_not(board: Board) -> None:
    # Given one task that waits for its time, one for another task, and one that is ready
    (first,) = board.submit(a_task())
    board.submit(a_task(delay=3_600), a_task(depends_on=(first.id,)))
    assert board.is_refused(a_task())

    # When the ready one begins, then there is room for one
    claim = board.claim()
    assert not board.is_refused(a_task())
    assert board.is_refused(a_task())

    # When one is cancelled, too
    (waiting, *_) = board.sql.execute("SELECT id FROM task_state WHERE status = 'scheduled'").fetchall()
    board.ledger.cancel(waiting[0]).result(10)
    assert not board.is_refused(a_task())
    board.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
    assert board.is_refused(a_task())


def test_a_batch_fits_whole_or_not_at_all(board: Board) -> None:
    board.submit(a_task())

    assert board.is_refused(a_task(), a_task(queue_name="other"), a_task(), a_task())
    assert not board.is_refused(a_task(), a_task(queue_name="other"), a_task())


def test_of_what_is_committed_together_only_what_does_not_fit_is_refused(board: Board) -> None:
    # When many submissions come at once, of which every other one is for a queue with room for three
    tallied = board.tallied()
    narrow, wide, keys = [], [], [Once("ann", "POST /tasks", str(at), "same") for at in range(30)]
    for key in keys:
        task = a_task()
        narrow.append(board.ledger.submit([task], once=key, asked=[task.id]))
        wide.append(board.ledger.submit([a_task(queue_name="other")]))

    # Then three of those are recorded, and all others
    refused = [answer for answer in narrow if isinstance(answer.exception(10), QueueFull)]
    assert len(refused) == 27
    assert all(len(answer.result(10)) == 1 for answer in wide)
    assert board.count() == 33

    # And each is counted once, and only the keys of what was recorded are used up
    assert board.tallied() - tallied == 33
    assert board.sql.execute("SELECT count(*) FROM idempotency_keys").fetchone() == (3,)


def test_a_retry_finds_its_place_in_a_full_queue(board: Board) -> None:
    # Given a task that runs while its queue has filled up
    board.submit(a_task())
    claim = board.claim()
    board.submit(a_task(), a_task(), a_task())

    # When it fails and is to be retried
    assert board.ledger.fail(claim, OOPS, retry_in=60).result(10)

    # Then it waits there too, and the queue holds more than it would take
    task = board.queries.task(claim.id)
    assert task is not None
    assert task.status == "retrying"
    assert board.stats().size == 4
    assert board.is_refused(a_task())


def test_a_replay_finds_its_place_in_a_full_queue(board: Board) -> None:
    board.submit(a_task())
    claim = board.claim()
    board.ledger.fail(claim, OOPS, retry_in=None).result(10)
    board.submit(a_task(), a_task(), a_task())
    (letter,) = board.sql.execute("SELECT id FROM dead_letters").fetchall()

    assert board.ledger.replay(letter[0]).result(10) == "replayed"
    assert board.stats().queued == 4


def test_stages_are_never_refused_and_a_run_takes_one_place_until_it_is_over(board: Board) -> None:
    # Given a run whose stages wait in the same queue, and two tasks
    run, stage = a_run()
    board.submit(run, stage)
    board.submit(a_task(), a_task())
    assert board.is_refused(*a_run())

    # When its next stages come, then they find their place
    more = [a_stage(run.id, index) for index in range(1, 5)]
    assert board.ledger.advance(Advance(run.id, more)).result(10)
    assert (board.stats().queued, board.stats().size) == (7, 3)

    # And the run keeps its place while it runs
    board.claim()
    eventually(lambda: board.queries.run(run.id).status == "running")  # type: ignore[union-attr]

    # When it is over, then there is room again
    board.ledger.advance(Advance(run.id, status="failed", error={"code": "x", "message": "y"})).result(10)
    assert not board.is_refused(*a_run())


def test_two_processes_at_once_never_take_more_than_there_is_room_for(board: Board) -> None:
    # Given room for a hundred
    board.limit(100)

    # When two processes submit 600, alone and in batches
    futures: list[Future[list[Accepted]]] = []
    for size in (1, 2, 3) * 50:
        for ledger in (board.ledger, board.other):
            futures.append(ledger.submit([a_task() for _ in range(size)]))
    errors = [future.exception(20) for future in futures]

    # Then exactly a hundred are on record, and all others were told so
    assert board.count() == 100
    assert {type(error) for error in errors} == {type(None), QueueFull}


def test_a_submission_of_unknown_outcome_that_was_stored_is_not_refused_by_itself(board: Board) -> None:
    tasks = [a_task(), a_task(), a_task()]
    first = board.submit(*tasks)

    assert board.submit(*tasks) == first
    assert board.count() == 3


def test_a_repeated_request_is_answered_also_when_the_queue_is_full(board: Board) -> None:
    once = Once("ann", "POST /tasks", "key", "fingerprint")
    (first,) = board.submit(a_task(unique_key="k"), once=once)
    board.submit(a_task(), a_task())

    assert board.submit(a_task(), once=once) == [first]
    assert board.submit(a_task(unique_key="k")) == [first]


def test_what_is_refused_uses_up_neither_of_its_keys(board: Board) -> None:
    # Given a request that was refused because of a full queue
    once = Once("ann", "POST /tasks", "key", "fingerprint")
    board.submit(a_task(), a_task(), a_task())
    assert board.is_refused(a_task(unique_key="k"), once=once)

    # When it is repeated as soon as there is room
    board.claim()
    task = a_task(unique_key="k")
    (accepted,) = board.submit(task, once=once)

    # Then it is recorded
    assert accepted.id == task.id


def test_settings_that_are_left_out_stay_as_they_are(board: Board) -> None:
    first = board.ledger.define_queue(Define("mail", concurrency=2)).result(10)
    second = board.ledger.define_queue(Define("mail", max_size=9)).result(10)

    assert (first.is_new, second.is_new) == (True, False)
    assert (second.queue.concurrency, second.queue.max_size) == (2, 9)
    assert board.queues.queue("mail") == second.queue


def test_two_processes_define_the_same_queues_at_once(board: Board) -> None:
    futures = [
        ledger.define_queue(Define(f"queue-{n % 5}", concurrency=n + 1))
        for n in range(50)
        for ledger in (board.ledger, board.other)
    ]

    assert sum(future.result(10).is_new for future in futures) == 5


def test_the_statistics_of_a_queue_tell_what_is_in_it(board: Board) -> None:
    # Given one of everything
    (first,) = board.submit(a_task())
    done, failed, retried, running = (board.submit(a_task(queue_name="all"))[0] for _ in range(4))
    claims = {one.id: one for one in board.ledger.fetch(["all"], [TYPE], 4).result(10)}
    board.ledger.complete(claims[done.id], Complete(done.id, claims[done.id].token, 1)).result(10)
    board.ledger.fail(claims[failed.id], OOPS, retry_in=None).result(10)
    board.ledger.fail(claims[retried.id], OOPS, retry_in=60).result(10)
    board.submit(
        a_task(queue_name="all"),
        a_task(queue_name="all", delay=60),
        a_task(queue_name="all", depends_on=(first.id,)),
    )

    # When its statistics are asked for
    found = board.stats("all")

    # Then each is counted once
    assert (found.queued, found.running, found.scheduled, found.retrying, found.blocked) == (1, 1, 1, 1, 1)
    assert (found.completed, found.failed, found.dead, found.size) == (1, 1, 1, 4)
    assert (found.capacity, found.concurrency, found.paused) == (None, None, False)
    assert found.oldest_age_s is not None
    assert found.oldest_age_s >= 0
    assert found.throughput > 0
    assert found.wait_ms.p50 is not None
    assert found.run_ms.p95 is not None
    assert running.id in claims


def test_a_wait_begins_when_a_task_is_ready_and_not_when_it_was_submitted(board: Board) -> None:
    board.submit(a_task(queue_name="late", delay=0.5))
    eventually(lambda: board.ledger.promote().result(10))
    (claim,) = board.ledger.fetch(["late"], [TYPE], 1).result(10)
    board.ledger.complete(claim, Complete(claim.id, claim.token, 1)).result(10)

    task, waited = board.queries.task(claim.id), board.stats("late").wait_ms.p50
    assert task is not None
    assert task.started_at is not None
    assert waited is not None
    assert waited <= (task.started_at - task.created_at).total_seconds() * 1_000 - 499


def test_an_empty_queue_has_statistics_and_an_unknown_one_has_none(board: Board) -> None:
    found = board.stats()

    assert (found.size, found.capacity, found.oldest_age_s, found.throughput) == (0, 3, None, 0)
    assert (found.wait_ms.p50, found.run_ms.p50) == (None, None)
    assert board.queues.stats("nix") is None
