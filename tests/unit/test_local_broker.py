"""Claiming without RabbitMQ: what becomes of claims when a worker stops, and who is woken."""

import threading
from concurrent.futures import Future
from typing import Any

from actors.delivery import Slots
from actors.local_broker import LocalBroker
from tasks.values import Claimed
from tests.support.claims import a_claim
from tests.support.waiting import eventually


class StandingLedger:
    """A ledger whose Postgres answers when the test says so."""

    def __init__(self) -> None:
        self.fetched: list[Future[list[Claimed]]] = []
        self.released: list[Claimed] = []

    def fetch(self, queues: list[str], types: list[str], most: int) -> "Future[list[Claimed]]":
        self.fetched.append(Future())
        return self.fetched[-1]

    def release(self, claim: Claimed) -> "Future[bool]":
        self.released.append(claim)
        return Future()


def test_a_consumer_that_must_stop_does_not_wait_for_claims_and_gives_them_back_when_they_come() -> None:
    # Given a consumer that waits for its claims
    ledger: Any = StandingLedger()
    slots = Slots(2)
    broker = LocalBroker(ledger, slots)
    consumer = broker.consume("default")
    yielded: list[object] = []
    waiting = threading.Thread(target=lambda: yielded.append(next(consumer)))
    waiting.start()
    eventually(lambda: ledger.fetched)
    # When it must stop, then it does, and its slots are free
    broker.stopping.set()
    broker.wake()
    waiting.join(5)
    assert yielded == [None]
    assert slots.held == 0
    # And claims that are committed later are given back
    claims = [a_claim(), a_claim()]
    ledger.fetched[0].set_result(claims)
    assert ledger.released == claims


def test_of_the_consumers_of_one_queue_the_last_one_is_woken() -> None:
    ledger: Any = StandingLedger()
    broker = LocalBroker(ledger, Slots(1))
    first, second, other = (broker.consume(queue) for queue in ("default", "default", "mail"))
    broker.wake()
    assert [one.wake.is_set() for one in (first, second, other)] == [False, True, True]
