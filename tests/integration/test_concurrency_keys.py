"""Limits on how many tasks with the same key run at once: exact among processes, on both brokers."""

import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.rabbitmq.publisher import new_dispatch
from actors.submission import Order
from tasks.ledger import Ledger, NoOutlet, concurrency
from tasks.queries import Queries
from tasks.queues import QueueQueries
from tasks.records import Page, TaskFilter
from tasks.values import Arrival, Claimed, Complete, Hint, NewTask, Publication, Refused
from tests.support.claims import claim_each
from tests.support.processes import Installation, Running
from tests.support.waiting import eventually

QUEUE, TYPE = "default", "work"


class Wire(NoOutlet):
    """What would be on RabbitMQ."""

    def __init__(self) -> None:
        self.hints: deque[Hint] = deque()

    def publish(self, dispatch: int, publications: Sequence[Publication]) -> None:
        self.hints.extend(one for one in publications if isinstance(one, Hint))


class Desk:
    """Two processes on one record."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger, self.other = Ledger(url).start(), Ledger(url).start()
        self.wire = Wire()
        for one in (self.ledger, self.other):
            one.publish_through(self.wire)
        self.queries, self.queues = Queries(database), QueueQueries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute("TRUNCATE tasks, task_state, attempts, events, queues, dead_letters")

    def close(self) -> None:
        self.ledger.close()
        self.other.close()
        self.sql.close()

    def submit(
        self, count: int = 1, most: int = 1, key: str | None = "a", queue: str = QUEUE, **fields: Any
    ) -> list[UUID]:
        limit: dict[str, Any] = {} if key is None else {"concurrency": most, "concurrency_key": key}
        tasks = [NewTask(task_type=TYPE, queue_name=queue, **limit, **fields) for _ in range(count)]
        self.ledger.submit(tasks).result(10)
        return [task.id for task in tasks]

    def send(self, limit: int = 100) -> list[Arrival]:
        """Publish what is ready: the messages that arrive."""
        self.ledger.take(QUEUE, limit, new_dispatch()).result(10)
        arrivals = []
        while self.wire.hints:
            hint = self.wire.hints.popleft()
            arrivals.append(Arrival(hint.task_id, hint.dispatch))
        return arrivals

    def claim(self, arrivals: Sequence[Arrival]) -> list[Claimed | Refused]:
        return claim_each(self.ledger, arrivals)

    def fetch(
        self, limit: int = 10, ledger: Ledger | None = None, queues: Sequence[str] = (QUEUE,)
    ) -> list[Claimed]:
        return (ledger or self.ledger).fetch(list(queues), [TYPE], limit).result(10)

    def complete(self, claim: Claimed) -> None:
        self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)

    def count(self, where: str) -> int:
        row = self.sql.execute(f"SELECT count(*) FROM task_state WHERE {where}").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def desk(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Desk]:
    opened = Desk(shared, url)
    yield opened
    opened.close()


# --- claims ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_message", [True, False], ids=["by message", "by fetch"])
def test_two_processes_at_once_never_take_the_last_place_twice(desk: Desk, by_message: bool) -> None:
    # Given many tasks of four keys, of each of which two may run, and threads of two processes that work
    ids = [one for key in "abcd" for one in desk.submit(25, most=2, key=key)]
    key_of = {one: "abcd"[at // 25] for at, one in enumerate(ids)}
    running: Counter[str] = Counter()
    lock, most_seen = threading.Lock(), 0
    done: set[UUID] = set()

    def work(ledger: Ledger) -> None:
        nonlocal most_seen
        while len(done) < len(ids):
            claims = desk.fetch(5, ledger) if not by_message else claimed_by_message(ledger)
            with lock:
                running.update(key_of[claim.id] for claim in claims)
                most_seen = max([most_seen, *running.values()])
            for claim in claims:
                with lock:
                    running[key_of[claim.id]] -= 1
                ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
                done.add(claim.id)

    def claimed_by_message(ledger: Ledger) -> list[Claimed]:
        ledger.take(QUEUE, 5, new_dispatch()).result(10)
        hints = [desk.wire.hints.popleft() for _ in range(len(desk.wire.hints) // 2 + 1) if desk.wire.hints]
        answers = claim_each(ledger, [Arrival(hint.task_id, hint.dispatch) for hint in hints])
        return [one for one in answers if isinstance(one, Claimed)]

    # When they work all off
    threads = [threading.Thread(target=work, args=(one,)) for one in (desk.ledger, desk.other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    # Then every task has run, and never more than two of a key at once
    assert desk.count("status = 'completed'") == len(ids)
    assert desk.count("attempt = 1") == len(ids)
    assert 1 <= most_seen <= 2


def test_a_message_that_finds_no_place_is_dropped_and_uses_no_attempt(desk: Desk) -> None:
    # Given two tasks of one place whose messages arrive
    desk.submit(2)
    arrivals = desk.send()

    # When they are claimed, one after the other
    (claim,) = desk.claim(arrivals[:1])
    second = arrivals[1].task_id
    (refused,) = desk.claim(arrivals[1:])

    # Then one runs, the message of the other is void, and no other one is published
    assert isinstance(claim, Claimed)
    assert refused == Refused(second, "parked")
    assert desk.claim(arrivals[1:]) == [Refused(second, "stale")]
    assert desk.send() == []

    # When there is a place, then it is published again
    desk.complete(claim)
    eventually(lambda: [one.task_id for one in desk.send()] == [second])


def test_a_message_that_arrives_twice_is_claimed_once(desk: Desk) -> None:
    desk.submit(most=2)
    (arrival,) = desk.send()

    answers = desk.claim([arrival, arrival])

    assert [isinstance(one, Claimed) for one in answers].count(True) == 1
    assert Refused(arrival.task_id, "running", desk.ledger.owner) in answers


def test_what_waits_behind_a_full_key_is_parked_with_it_at_once(desk: Desk) -> None:
    # Given so many tasks of one place that no window and no worker should look at each
    desk.submit(300)

    # When a few of their messages arrive
    desk.claim(desk.send(5))

    # Then none of the others is published at all
    assert desk.count("parked") == 299
    assert desk.send() == []


def test_a_key_whose_lock_another_process_has_is_judged_a_little_later(desk: Desk) -> None:
    # Given a task whose key another process has in hand
    (task_id,) = desk.submit()

    # When it is fetched meanwhile, then that waits, and nothing else does
    with desk.sql.transaction():
        name = concurrency._lock_of("a")
        desk.sql.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        fetched = desk.ledger.fetch([QUEUE], [TYPE], 1)
        desk.submit(key=None)
        assert not fetched.done()

    assert [claim.id for claim in fetched.result(10)] == [task_id]


def test_a_place_that_nobody_gave_to_the_next_is_found_by_the_clock(desk: Desk) -> None:
    # Given tasks that wait for places of several keys, and a process that died after it gave them back
    ids = {one for key in "abc" for one in desk.submit(2, key=key)}
    claims = desk.fetch()
    desk.fetch()
    sql = "UPDATE task_state SET status = 'completed', finished_at = now() WHERE id = ANY(%s)"
    desk.sql.execute(sql, ([claim.id for claim in claims],))
    assert desk.fetch() == []

    # When the clock looks
    assert desk.ledger.sweep_parked().result(10) is None

    # Then they run
    assert {claim.id for claim in desk.fetch()} == ids - {claim.id for claim in claims}
    desk.ledger.sweep_parked().result(10)
    assert desk.count("parked") == 0


def test_a_queue_that_lets_nothing_start_keeps_no_place_of_a_key_from_another(desk: Desk) -> None:
    # Given a key with one place, for which many wait in a queue that is paused, and some in another one
    desk.submit()
    (running,) = desk.fetch()
    slow = set(desk.submit(20, queue="slow"))
    assert desk.fetch(queues=("slow",)) == []
    fast = set(desk.submit(3))
    assert desk.fetch() == []
    desk.ledger.pause_queue("slow").result(10)
    # When one after the other is done, then the next one comes at once, though older ones are held back
    for _ in range(3):
        desk.complete(running)
        (running,) = desk.fetch(queues=("slow", QUEUE))
        fast.remove(running.id)
    # And when the queue is resumed, its tasks come too, one at a time
    desk.ledger.resume_queue("slow").result(10)
    for _ in range(20):
        desk.complete(running)
        (running,) = desk.fetch(queues=("slow", QUEUE))
        slow.remove(running.id)


def test_the_clock_looks_at_some_keys_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in "abc":
        desk.submit(2, key=key)
    desk.fetch()
    monkeypatch.setattr(concurrency, "BATCH", 2)

    assert desk.ledger.sweep_parked().result(10) == "b"
    assert desk.ledger.sweep_parked("b").result(10) is None


def test_what_waits_for_a_place_is_found_and_counted_as_queued(desk: Desk) -> None:
    desk.submit(3)
    desk.fetch()

    page = desk.queries.tasks(TaskFilter(statuses=("queued",)), Page())
    stats = desk.queues.stats(QUEUE)

    assert [task.wait_reason for task in page.tasks] == ["concurrency"] * 2
    assert stats is not None
    assert (stats.queued, stats.running) == (2, 1)
    assert QUEUE not in desk.queries.backlog()


# --- workers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workers(house: Installation) -> list[Running]:
    """Two workers of four threads, shared by the tests of this module; the last one ends one of them."""
    return [house.start_worker(), house.start_worker()]


@pytest.fixture
def board(house: Installation, workers: list[Running]) -> Iterator[Installation]:
    yield house
    house.show_logs()


def most_at_once(traces: list[str]) -> int:
    """How many actors were between start and end at most, by their own traces."""
    now = most = 0
    for word in traces:
        now += {"start": 1, "end": -1}.get(word, 0)
        most = max(most, now)
    return most


def test_never_more_run_at_once_than_may_and_all_complete(board: Installation) -> None:
    # Given tasks of lanes in which two may be at once
    lanes = ["north", "south"]
    orders = [
        Order(task_type="in_lane", payload={"key": str(number), "lane": lane, "seconds": 0.02})
        for number in range(20)
        for lane in lanes
    ]

    # When all are submitted at once, and others that have no limit behind them
    ids = board.submit_all(orders)
    others = board.submit_all([Order(task_type="work", payload={"key": "free"}) for _ in range(10)])
    board.all_finished([*ids, *others])

    # Then all have run once, and never more than two in a lane
    for lane in lanes:
        traces = board.traces(lane)
        assert Counter(traces) == {"start": 20, "end": 20}
        assert most_at_once(traces) == 2
    assert all(board.moves(one) == ["queued", "running", "completed"] for one in ids[::7])


def test_whoever_waits_for_a_place_takes_no_thread(board: Installation) -> None:
    # Given a lane that is taken, and more that wait for it than there are threads
    first = board.submit("alone_in_lane", {"key": "first", "lane": "narrow", "seconds": 60})
    board.has_status(first, "running")
    payload = {"key": "next", "lane": "narrow"}
    waiting = board.submit_all([Order(task_type="alone_in_lane", payload=payload) for _ in range(12)])
    eventually(lambda: {board.task(one).wait_reason for one in waiting} == {"concurrency"})

    # When something else comes, then it runs
    free = board.submit("work", {"key": "free"})
    assert board.finished(free).status == "completed"

    # And when the lane is free, the others have it
    board.kit.ledger.cancel(first).result(10)
    board.all_finished(waiting)
    assert most_at_once(board.traces("narrow")[1:]) == 1


def test_a_worker_that_is_killed_gives_its_places_back(board: Installation, workers: list[Running]) -> None:
    # Given one that kills its process, and others that wait for its place
    payloads = [{"key": key, "lane": "deadly"} for key in ("fatal", "next", "last")]
    ids = board.submit_all([Order(task_type="alone_in_lane", payload=payload) for payload in payloads])

    # Then all complete all the same, one after the other
    board.all_finished(ids)
    assert sum(worker.has_ended for worker in workers) == 1
    assert [board.task(one).status for one in ids] == ["completed"] * 3
    traces = board.traces("deadly")
    assert Counter(traces) == {"died": 1, "start": 3, "end": 3}
    assert most_at_once(traces) == 1
