"""Queues with limits and pauses, verb by verb: who may start, who goes back, and who is told."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.rabbitmq.publisher import new_dispatch
from tasks.errors import Conflict
from tasks.ledger import READY_CHANNEL, Ledger, NoOutlet
from tasks.ledger.queues import Change, Define
from tasks.notices import Listener
from tasks.queries import Queries
from tasks.queues import QueueQueries
from tasks.records import Queue, RateLimit
from tasks.values import Arrival, Claimed, Complete, Fetched, Hint, NewTask, Publication, Refused, TaskError
from tests.support.claims import claim_each
from tests.support.waiting import eventually

QUEUE, TYPE = "narrow", "work"
OOPS = TaskError("actor_error", "oops")


class Wire(NoOutlet):
    """What would be on RabbitMQ; its room is for processes that publish what they submit."""

    def __init__(self) -> None:
        self.hints: deque[Hint] = deque()
        self.takes_submissions = False

    def stamp(self) -> int | None:
        return new_dispatch() if self.takes_submissions else None

    def room(self, queue: str) -> int:
        return 64

    def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
        self.hints.extend(one for one in publications if isinstance(one, Hint))


class Desk:
    """Two processes on one record."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.url = url
        self.ledger, self.other = Ledger(url).start(), Ledger(url).start()
        self.wire = Wire()
        self.queries, self.queues = Queries(database), QueueQueries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, queues, dead_letters, workers, rate_buckets"
        )
        for one in (self.ledger, self.other):
            one.publish_through(self.wire)

    def close(self) -> None:
        self.ledger.close()
        self.other.close()
        self.sql.close()

    def define(self, queue: str = QUEUE, **settings: Any) -> Queue:
        return self.ledger.define_queue(Define(queue, **settings)).result(10).queue

    def change(self, queue: str = QUEUE, **settings: Any) -> Queue | None:
        return self.ledger.change_queue(Change(queue, **settings)).result(10)

    def submit(self, count: int = 1, queue: str = QUEUE, **fields: Any) -> list[UUID]:
        """Submit tasks one by one, so that each has the better rank than the next."""
        tasks = [NewTask(task_type=TYPE, queue_name=queue, **fields) for _ in range(count)]
        for task in tasks:
            self.ledger.submit([task]).result(10)
        return [task.id for task in tasks]

    def send(self, queue: str = QUEUE, limit: int = 100) -> list[Arrival]:
        """Publish what may be: the messages that arrive."""
        self.ledger.take(queue, limit, new_dispatch()).result(10)
        return self.arrivals()

    def arrivals(self) -> list[Arrival]:
        found = [Arrival(hint.task_id, hint.dispatch) for hint in self.wire.hints]
        self.wire.hints.clear()
        return found

    def sent_by_force(self, ids: Sequence[UUID]) -> list[Arrival]:
        """Messages that were published before their queue was steered, or by a clock that knew too little."""
        dispatch = new_dispatch()
        self.sql.execute(
            "UPDATE task_state SET dispatch = %s, dispatched_at = now(), wire = 5 WHERE id = ANY(%s)",
            (dispatch, list(ids)),
        )
        return [Arrival(one, dispatch) for one in ids]

    def claim(self, arrivals: Sequence[Arrival]) -> list[Claimed | Refused]:
        return claim_each(self.ledger, arrivals)

    def fetch(self, limit: int = 10, ledger: Ledger | None = None, queue: str = QUEUE) -> list[Claimed]:
        return (ledger or self.ledger).fetch([queue], [TYPE], limit).result(10)

    def start(self, how: str, limit: int = 10, queue: str = QUEUE) -> list[Claimed]:
        """Claim what may start, straight from the table or by message."""
        if how == "local":
            return self.fetch(limit, queue=queue)
        return [one for one in self.claim(self.send(queue, limit)) if isinstance(one, Claimed)]

    def complete(self, claim: Claimed) -> None:
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)

    def let_pass(self, seconds: float) -> None:
        """Time goes by for the buckets."""
        self.sql.execute(
            "UPDATE rate_buckets SET refilled_at = refilled_at - make_interval(secs => %s)", (seconds,)
        )

    def reason(self, task_id: UUID) -> str | None:
        task = self.queries.task(task_id)
        assert task is not None
        return task.wait_reason

    def serve(self) -> None:
        """Somebody says that he works on the queue, so that tasks do not wait for that."""
        self.sql.execute(
            "INSERT INTO workers (id, kind, host, pid, version, queues, types)"
            " VALUES (gen_random_uuid(), 'worker', 'here', 1, '0', %s, %s)",
            ([QUEUE], [TYPE]),
        )


@pytest.fixture
def desk(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Desk]:
    opened = Desk(shared, url)
    yield opened
    opened.close()


both_ways = pytest.mark.parametrize("how", ["local", "by message"])


# --- how many run at once ----------------------------------------------------------------------------


@both_ways
def test_no_more_tasks_of_a_queue_run_at_once_than_may(desk: Desk, how: str) -> None:
    # Given a queue of which two may run, and five tasks
    desk.define(concurrency=2)
    ids = desk.submit(5)

    # When all are asked for, then the two best begin
    claims = desk.start(how)
    assert {claim.id for claim in claims} == set(ids[:2])
    assert desk.start(how) == []

    # When one is done, then the next one begins, and none has used an attempt meanwhile
    desk.complete(claims[0])
    (third,) = desk.start(how)
    assert (third.id, third.attempt) == (ids[2], 1)
    assert desk.start(how) == []


@both_ways
def test_what_nobody_defined_has_no_limit(desk: Desk, how: str) -> None:
    desk.submit(30, queue="free")

    assert len(desk.start(how, 30, queue="free")) == 30
    assert desk.queues.queue("free").concurrency is None  # type: ignore[union-attr]


def test_what_arrives_over_the_limit_goes_back_and_comes_again(desk: Desk) -> None:
    # Given messages that are on the wire already when their queue gets a limit
    desk.wire.takes_submissions = True
    ids = desk.submit(4)
    arrivals = desk.arrivals()
    assert len(arrivals) == 4
    desk.define(concurrency=1)

    # When they arrive, then one may run, and the others are as they were
    first, *others = desk.claim(arrivals)
    assert isinstance(first, Claimed)
    assert others == [Refused(one, "sent_back") for one in ids[1:]]
    states = desk.sql.execute(
        "SELECT status, dispatch, attempt, events FROM task_state WHERE id <> %s", (first.id,)
    ).fetchall()
    assert states == [("queued", None, 0, 1)] * 3

    # And they are not sent again before there is a place
    assert desk.send() == []
    desk.complete(first)
    (arrival,) = desk.send()
    assert arrival.task_id == ids[1]
    assert desk.send() == [], "there is one place, and one message for it"


def test_processes_that_claim_at_once_never_take_more_places_than_there_are(desk: Desk) -> None:
    # Given four places, and forty tasks of which half are on the wire
    desk.define(concurrency=4)
    ids = desk.submit(40)
    arrivals = desk.sent_by_force(ids[:20])

    # When two processes claim and fetch at the same time
    ledgers = [desk.ledger, desk.other] * 10
    futures = [ledger.claim([one]) for ledger, one in zip(ledgers, arrivals, strict=True)]
    fetched = [ledger.fetch([QUEUE], [TYPE], 3) for ledger in (desk.ledger, desk.other) * 5]
    claims = [one for future in futures for one in future.result(20) if isinstance(one, Claimed)]
    claims += [one for future in fetched for one in future.result(20)]
    claims += desk.fetch(20)

    # Then four run
    assert len(claims) == len({claim.id for claim in claims}) == 4


def test_a_queue_under_its_limit_and_one_without_are_claimed_together(desk: Desk) -> None:
    desk.define(concurrency=1)
    ids = [*desk.submit(2), *desk.submit(2, queue="free")]

    outcomes = desk.claim(desk.sent_by_force(ids))

    assert [type(one) for one in outcomes] == [Claimed, Refused, Claimed, Claimed]


@both_ways
def test_a_limit_that_is_changed_counts_at_once(desk: Desk, how: str) -> None:
    desk.define(concurrency=1)
    desk.submit(10)
    claims = desk.start(how)
    assert len(claims) == 1

    # When there may be more, then there are
    desk.define(concurrency=4)
    claims += desk.start(how)
    assert len(claims) == 4

    # When there may be fewer, then those that run go on, and none begins before they are fewer
    desk.change(concurrency=2)
    desk.complete(claims.pop())
    desk.complete(claims.pop())
    assert desk.start(how) == []
    desk.complete(claims.pop())
    assert len(desk.start(how)) == 1

    # When the limit is taken away, then all may run
    desk.change(concurrency=None)
    assert len(desk.start(how)) == 5


@both_ways
@pytest.mark.parametrize("end", ["complete", "fail", "retry", "cancel", "release", "lose", "rescue"])
def test_whatever_runs_no_more_gives_its_place_back_and_says_so(desk: Desk, how: str, end: str) -> None:
    # Given one that runs and one that waits for its place
    told: list[str] = []
    listener = Listener(desk.url, {READY_CHANNEL: told.append}).start()
    desk.define(concurrency=1)
    desk.submit(2)
    (claim,) = desk.start(how)
    eventually(lambda: desk.sql.execute("SELECT pg_notify(%s, 'hello')", (READY_CHANNEL,)) and told)
    told.clear()

    # When the one ends, in any way
    ledger = desk.ledger
    {
        "complete": lambda: ledger.complete(claim, Complete(claim.id, claim.token, 1)),
        "fail": lambda: ledger.fail(claim, OOPS, retry_in=None),
        "retry": lambda: ledger.fail(claim, OOPS, retry_in=60),
        "cancel": lambda: ledger.cancel(claim.id),
        "release": lambda: ledger.release(claim, 60),
        "lose": lambda: ledger.lose(claim, "It died"),
        "rescue": lambda: ledger.rescue(ledger.owner),
    }[end]().result(10)

    # Then whoever looks after the queue is told, and one may begin
    eventually(lambda: QUEUE in told)
    listener.close()
    assert len(desk.start(how)) == 1
    assert desk.start(how) == []


# --- how fast they start -----------------------------------------------------------------------------


@both_ways
def test_a_burst_starts_at_once_and_then_one_for_each_token(desk: Desk, how: str) -> None:
    # Given two starts a second, and three at once
    desk.define(rate_limit=RateLimit(120, 60, 3))
    desk.change(concurrency=None)
    desk.submit(10)

    # Then three begin, and one more each half a second
    assert len(desk.start(how)) == 3
    assert desk.start(how) == []
    desk.let_pass(0.5)
    assert len(desk.start(how)) == 1
    assert desk.start(how) == []

    # And what was not used is kept up to the burst
    desk.let_pass(3_600)
    assert len(desk.start(how)) == 3


def test_who_finds_no_token_is_told_when_there_is_one(desk: Desk) -> None:
    desk.define(rate_limit=RateLimit(1, 10, 1))
    desk.submit(2)
    assert len(desk.fetch()) == 1

    found = desk.fetch()
    backlog = desk.queries.backlog([QUEUE])[QUEUE]

    assert isinstance(found, Fetched)
    assert found == []
    assert 9 < (found.again_in or 0) <= 10
    assert (backlog.waiting, backlog.room) == (1, 0)
    assert 9 < (backlog.token_in or 0) <= 10


def test_two_processes_never_start_more_than_there_are_tokens(desk: Desk) -> None:
    desk.define(concurrency=1_000, rate_limit=RateLimit(7, 86_400, 7))
    desk.submit(50)

    fetched = [ledger.fetch([QUEUE], [TYPE], 2) for ledger in (desk.ledger, desk.other) * 20]

    # Whoever finds the queue in the hands of the other gets nothing, and may come again
    claims = [claim for one in fetched for claim in one.result(20)]
    assert len([*claims, *desk.fetch(20)]) == 7


# --- pauses ------------------------------------------------------------------------------------------


@both_ways
def test_nothing_of_a_paused_queue_begins_and_all_of_it_goes_on(desk: Desk, how: str) -> None:
    # Given a queue without limits, in which one runs and some are on their way
    desk.wire.takes_submissions = True
    ids = desk.submit(3)
    on_the_wire = desk.arrivals()
    (running,) = desk.claim(on_the_wire[:1])
    assert isinstance(running, Claimed)

    # When it is paused
    paused = desk.ledger.pause_queue(QUEUE).result(10)
    assert paused is not None
    assert paused.paused
    desk.queues.wait_for_claims()

    # Then what is on the wire goes back, what comes stays, and what runs finishes
    assert desk.claim(on_the_wire[1:]) == [Refused(one, "sent_back") for one in ids[1:]]
    ids += desk.submit(2)
    assert desk.arrivals() == []
    assert desk.start(how) == []
    desk.complete(running)

    # When it is resumed, then all begin, in their order
    desk.ledger.resume_queue(QUEUE).result(10)
    claims = [*desk.start(how, limit=2), *desk.start(how)]
    assert [claim.id for claim in claims] == ids[1:]


def test_a_pause_waits_for_claims_that_have_begun_before_it(desk: Desk) -> None:
    # Given a claim whose transaction has begun
    desk.wire.takes_submissions = True
    desk.submit(1)
    (arrival,) = desk.arrivals()
    with psycopg.connect(desk.url) as connection:
        connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        claiming = desk.other.claim([arrival])
        eventually(
            lambda: desk.sql.execute(
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ).fetchall()
        )

        # When its queue is paused, then whoever waits for the claims is kept waiting
        desk.ledger.pause_queue(QUEUE).result(10)
        waiting = threading.Thread(target=desk.queues.wait_for_claims)
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        connection.rollback()

    # Until what has begun is over
    claiming.result(10)
    waiting.join(10)
    assert not waiting.is_alive()


def test_retries_that_are_due_and_stages_wait_in_a_paused_queue_too(desk: Desk) -> None:
    desk.submit(1)
    (claim,) = desk.fetch()
    desk.ledger.pause_queue(QUEUE).result(10)
    desk.wire.takes_submissions = True

    # When a retry is due in it, and a run that is elsewhere has a stage there
    desk.ledger.fail(claim, OOPS, retry_in=0).result(10)
    desk.ledger.promote().result(10)
    run = NewTask(task_type="pipeline", queue_name="free", is_run=True)
    stage = NewTask(task_type=TYPE, queue_name=QUEUE, run_id=run.id, stage="first", stage_index=0)
    desk.ledger.submit([run, stage]).result(10)

    # Then both wait, and go on when it does
    assert desk.arrivals() == []
    assert desk.start("by message") == []
    assert desk.fetch() == []
    desk.ledger.resume_queue(QUEUE).result(10)
    assert {one.id for one in desk.fetch()} == {claim.id, stage.id}


# --- with keys ---------------------------------------------------------------------------------------


@both_ways
def test_a_task_must_pass_the_limit_of_its_queue_and_that_of_its_key(desk: Desk, how: str) -> None:
    # Given two places in the queue and one for the key
    desk.define(concurrency=2)
    keyed = desk.submit(3, concurrency=1, concurrency_key="a")
    (plain, _) = desk.submit(2)

    # Then one of the key and one without begin, though the key's others have better ranks
    claims = desk.start(how)
    eventually(lambda: claims.extend(desk.start(how)) or len(claims) == 2)
    assert {claim.id for claim in claims} == {keyed[0], plain}
    assert desk.start(how) == []

    # When the one of the key is done, then its next has the place
    desk.complete(next(claim for claim in claims if claim.id == keyed[0]))
    assert [claim.id for claim in eventually(lambda: desk.start(how))] == [keyed[1]]


def test_a_key_whose_next_task_is_in_a_paused_queue_is_free_for_others(desk: Desk) -> None:
    # Given two tasks of a key, the first one in a queue that is paused
    limit: dict[str, Any] = {"concurrency": 1, "concurrency_key": "a"}
    first = desk.submit(1, **limit)
    second = desk.submit(1, queue="free", **limit)
    desk.ledger.pause_queue(QUEUE).result(10)

    # When both arrive, then the second one begins
    refused, claimed = desk.claim(desk.sent_by_force([*first, *second]))
    assert refused == Refused(first[0], "sent_back")
    assert isinstance(claimed, Claimed)


def test_a_key_whose_next_task_finds_its_queue_full_is_free_for_others(desk: Desk) -> None:
    # Given a queue with one place, for which two compete, and a key of which another queue has a task
    limit: dict[str, Any] = {"concurrency": 1, "concurrency_key": "a"}
    desk.define(concurrency=1)
    ahead = desk.submit(1)
    keyed = desk.submit(1, **limit)
    elsewhere = desk.submit(1, queue="free", **limit)

    # When all arrive at once
    outcomes = desk.claim(desk.sent_by_force([*ahead, *keyed, *elsewhere]))

    # Then the place of the key is not lost: the other one has it at once, or is ready for it
    claims = [one for one in outcomes if isinstance(one, Claimed)]
    eventually(lambda: claims.extend(desk.fetch(queue="free")) or len(claims) == 2)
    assert [claim.id for claim in claims] == [*ahead, *elsewhere]


# --- what it waits for -------------------------------------------------------------------------------


def test_a_task_says_what_its_queue_keeps_it_waiting_for(desk: Desk) -> None:
    desk.serve()
    desk.define(concurrency=1)
    desk.submit(1)
    desk.fetch()
    (waiting,) = desk.submit(1)
    assert desk.reason(waiting) == "concurrency"

    desk.change(concurrency=None, rate_limit=RateLimit(1, 3_600, 1))
    assert desk.reason(waiting) is None
    desk.submit(1, priority=10)
    assert len(desk.fetch(1)) == 1
    assert desk.reason(waiting) == "rate"

    desk.ledger.pause_queue(QUEUE).result(10)
    assert desk.reason(waiting) == "paused"

    desk.ledger.resume_queue(QUEUE).result(10)
    desk.change(rate_limit=None)
    assert desk.reason(waiting) is None


# --- settings ----------------------------------------------------------------------------------------


def test_a_change_leaves_alone_what_it_does_not_name(desk: Desk) -> None:
    desk.define(concurrency=2, rate_limit=RateLimit(1, 2, 3), max_size=4)

    changed = desk.change(max_size=None)

    assert changed is not None
    assert (changed.concurrency, changed.rate_limit, changed.max_size) == (2, RateLimit(1, 2, 3), None)
    assert desk.change(rate_limit=None, concurrency=7).rate_limit is None  # type: ignore[union-attr]
    assert desk.queues.queue(QUEUE).concurrency == 7  # type: ignore[union-attr]
    assert desk.change("nix", concurrency=1) is None
    assert desk.ledger.pause_queue("nix").result(10) is None


def test_a_queue_is_deleted_when_nothing_is_left_in_it(desk: Desk) -> None:
    # Given a queue with a task that waits, runs, and dies
    desk.submit(1)
    drop = desk.ledger.delete_queue
    with pytest.raises(Conflict, match="1 unfinished"):
        drop(QUEUE).result(10)
    (claim,) = desk.fetch()
    with pytest.raises(Conflict, match="1 unfinished"):
        drop(QUEUE).result(10)
    desk.ledger.fail(claim, OOPS, retry_in=None).result(10)
    with pytest.raises(Conflict, match="1 open dead letter"):
        drop(QUEUE).result(10)

    # When its dead letter is settled, then it can be deleted, once
    desk.sql.execute("UPDATE dead_letters SET resolution = 'discarded'")
    assert drop(QUEUE).result(10)
    assert not drop(QUEUE).result(10)
    assert desk.queues.queue(QUEUE) is None


def test_a_queue_that_was_deleted_comes_back_with_its_next_task(desk: Desk) -> None:
    # Given a process that knows the queue, which another one deletes
    (task_id,) = desk.submit(1)
    desk.ledger.cancel(task_id).result(10)
    assert desk.other.delete_queue(QUEUE).result(10)

    # When that submits to it, then the clock finds out
    desk.submit(1)
    assert desk.other.adopt_queues().result(10) == 1
    assert desk.other.adopt_queues().result(10) == 0
    assert desk.queues.queue(QUEUE) is not None


def test_verbs_about_queues_may_be_repeated_by_many_at_once(desk: Desk) -> None:
    desk.define(concurrency=1)
    verbs: list[Any] = []
    for ledger in (desk.ledger, desk.other) * 10:
        verbs += [ledger.pause_queue(QUEUE), ledger.change_queue(Change(QUEUE, concurrency=3))]
        verbs += [ledger.resume_queue(QUEUE)]

    assert all(verb.result(20) is not None for verb in verbs)
    found = desk.queues.queue(QUEUE)
    assert found is not None
    assert found.concurrency == 3
