"""How many claims a worker holds ahead of its threads: some while tasks are short, else none."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.worker import _WorkQueueItem

from actors.delivery import Delivery, Slots, message_for
from actors.threads import Crew
from tasks import frequency
from tasks.frequency import MOMENT, Frequency
from tasks.values import Claimed
from tests.support.claims import a_claim
from tests.unit.test_threads import Counter


class Time:
    """A clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(frequency, "time", clock)
    return clock


def test_what_happened_is_known_for_a_moment_and_then_forgotten(time: Time) -> None:
    often = Frequency()
    for _ in range(5):
        often.count()
    assert often.lately == 5
    time.now += 1.1 * MOMENT
    often.count()
    assert often.lately == 5
    time.now += 1.1 * MOMENT
    assert often.lately == 1
    time.now += 2 * MOMENT
    assert often.lately == 0


def test_before_anything_is_finished_there_is_one_claim_for_each_thread(time: Time) -> None:
    slots = Slots(4)
    assert slots.take(100, 0) == 4
    assert slots.take(100, 0) == 0


def test_as_many_are_claimed_ahead_as_were_finished_lately(time: Time) -> None:
    slots = Slots(4, most_ahead=20)
    for _ in range(5):  # tasks that take no time
        taken = slots.take(100, 0)
        for _ in range(taken):
            slots.finish()
    assert slots.take(100, 0) == 4 + 20
    # And after a moment in which none was finished, no more
    time.now += 3 * MOMENT
    assert slots.ahead == 0
    assert slots.take(100, 0) == 0


def test_slots_that_were_of_no_use_do_not_count_as_finished(time: Time) -> None:
    slots = Slots(2)
    slots.give(slots.take(2, 0))
    assert slots.ahead == 0
    assert slots.free == 2


def test_what_was_never_begun_does_not_count_as_finished_and_is_over_once() -> None:
    slots = Slots(1)
    released: list[object] = []

    def release(claim: Claimed) -> "Future[bool]":
        released.append(claim)
        return Future()

    # Given more claims than threads, which are given back, some of them twice
    deliveries = [Delivery(message_for(claim), claim) for claim in (a_claim() for _ in range(9))]
    slots.give(-len(deliveries))
    assert [one.over(slots, release) for one in deliveries] == [True] * 9
    assert [one.over(slots, release) for one in deliveries] == [False] * 9
    # Then their slots are free, each was released, and nobody takes them for short tasks
    assert (slots.held, slots.ahead, slots.free) == (0, 0, 1)
    assert len(released) == 9


def test_while_half_of_what_was_claimed_ahead_waits_nobody_claims_a_few(time: Time) -> None:
    # Given a worker that has finished 40 short tasks, and claimed as many more
    slots = Slots(2)
    for _ in range(40):
        slots.take(1, 0)
        slots.finish()
    held = slots.take(100, 0)
    assert held == 42
    # When some of them are finished, then a claim waits for more to be
    began, taken = threading.Event(), []

    def claim() -> None:
        began.set()
        taken.append(slots.take(100, 5))

    claiming = threading.Thread(target=claim)
    claiming.start()
    began.wait(5)
    while not taken:
        slots.give()
        held -= 1
    claiming.join(5)
    assert taken[0] >= 20


def test_what_waits_for_a_thread_too_long_is_given_back_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given two deliveries that no thread has begun, one of them long ago
    crew: Any = Crew(StubBroker(middleware=[]), worker_threads=1, worker_timeout=50)
    consumer = crew.consumers["default"] = Counter()
    late, early = (Delivery(message_for(claim), claim) for claim in (a_claim(), a_claim()))
    late.since -= 1.0
    for one in (early, late):
        crew.work_queue.put(_WorkQueueItem(0, one))
    # When those are given back that have waited for longer than half a second
    crew.give_back(older_than=0.5)
    # Then it is the late one, and the other one can still be begun
    assert consumer.given_back == [late]
    assert crew.work_queue.get(timeout=1).message is early
