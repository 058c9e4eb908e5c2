"""Claiming without RabbitMQ: what becomes of claims when a worker stops, and who is woken."""

import threading
from concurrent.futures import Future
from typing import Any

from actors.delivery import Slots
from actors.local_broker import LocalBroker, LocalConsumer
from tasks.values import Claimed
from tests.support.claims import a_claim
from tests.support.waiting import eventually


class StandingLedger:
    """A ledger whose Postgres answers when the test says so."""

    def __init__(self) -> None:
        self.fetched: list[Future[list[Claimed]]] = []
        self.released: list[Claimed] = []
        self.asked: list[tuple[list[str] | None, str]] = []

    def fetch(
        self, queues: list[str] | None, types: list[str], most: int, after: str
    ) -> "Future[list[Claimed]]":
        self.asked.append((queues, after))
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
    broker.stop_consuming()
    waiting.join(5)
    assert yielded == [None]
    assert slots.held == 0
    # And claims that are committed later are given back
    claims = [a_claim(), a_claim()]
    ledger.fetched[0].set_result(claims)
    assert ledger.released == claims


def test_one_consumer_fetches_from_all_queues_and_each_of_them_is_served() -> None:
    # Given a consumer for all queues
    ledger: Any = StandingLedger()
    broker = LocalBroker(ledger, Slots(2))
    consumer = broker.consume("default")
    # When tasks of other queues are claimed
    _answer(ledger, [a_claim(queue="mail"), a_claim(queue="heavy")], consumer)
    # Then it has asked for any queue, and these are known
    assert ledger.asked == [(None, "")]
    assert broker.queues == {"mail", "heavy"}
    # And after them it is the turn of the queues behind the last one
    assert next(consumer) is not None
    broker.slots.give(2)
    _answer(ledger, [a_claim()], consumer)
    assert ledger.asked[-1] == (None, "heavy")


def test_a_worker_for_some_queues_hears_only_of_those() -> None:
    ledger: Any = StandingLedger()
    broker = LocalBroker(ledger, Slots(1), ["mail"])

    broker.wake("default")
    assert not broker.woken.is_set()
    broker.wake("mail")
    assert broker.woken.is_set()

    _answer(ledger, [a_claim(queue="mail")], broker.consume("mail"))
    assert ledger.asked == [(["mail"], "")]


def _answer(ledger: StandingLedger, claims: list[Claimed] | Exception, consumer: LocalConsumer) -> None:
    """Have the consumer fetch, and get these claims; it yields the first of them. Or let that fail."""
    count = len(ledger.fetched)
    fetching = threading.Thread(target=lambda: next(consumer))
    fetching.start()
    eventually(lambda: len(ledger.fetched) > count)
    if isinstance(claims, Exception):
        ledger.fetched[-1].set_exception(claims)
    else:
        ledger.fetched[-1].set_result(claims)
    fetching.join(5)


def test_an_error_in_one_queue_does_not_stop_the_others() -> None:
    # Given three queues, of which one has something that cannot be claimed
    ledger: Any = StandingLedger()
    broker = LocalBroker(ledger, Slots(2))
    for queue in ("mail", "broken", "heavy"):
        broker.declare_queue(queue)
    consumer = broker.consume("default")
    # When a fetch from all of them fails
    _answer(ledger, ValueError("it cannot be read"), consumer)
    assert broker.slots.held == 0
    # Then each is asked by itself, and the others are served
    _answer(ledger, ValueError("it cannot be read"), consumer)
    _answer(ledger, [a_claim(queue="heavy")], consumer)
    _answer(ledger, [], consumer)
    assert broker.slots.held == 1
    assert [queues for queues, _ in ledger.asked] == [None, ["broken"], ["heavy"], ["mail"]]
    # and afterwards all at once again
    _answer(ledger, [], consumer)
    assert ledger.asked[-1][0] is None
