"""What a consumer does with the messages that arrive, above all with those that name several tasks."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import pytest
from dramatiq.errors import ConnectionClosed

from actors.delivery import Slots
from actors.rabbitmq import topology
from actors.rabbitmq.broker import RabbitBroker
from actors.rabbitmq.consumer import Intake, RabbitConsumer, RabbitDelivery
from actors.rabbitmq.publisher import new_dispatch
from tasks.ids import new_id
from tasks.values import Arrival, Claimed, Hint, Refused
from tests.support.claims import a_claim
from tests.support.offices import Office, a_queue, batch, count, messages
from tests.support.processes import channel_to
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually


@pytest.fixture
def queue(rabbit_node: RabbitNode) -> Iterator[str]:
    with a_queue(rabbit_node.url) as name:
        yield name


@pytest.fixture
def office(rabbit_node: RabbitNode) -> Iterator[Office]:
    office = Office(rabbit_node.url)
    yield office
    office.publisher.close()


@pytest.fixture
def proxy(rabbit_node: RabbitNode) -> Iterator[Proxy]:
    with proxy_to(rabbit_node.url) as proxy:
        yield proxy


class Desk:
    """What a consumer needs of a ledger: a claim is answered when the test says so."""

    def __init__(self, url: str, threads: int = 2) -> None:
        self.asked: list[Future[list[Claimed | Refused | None]]] = []
        self.released: list[Claimed] = []
        self.slots = Slots(threads)
        self.batches: list[list[UUID]] = []
        self.answers: dict[UUID, Claimed | Refused] = {}
        self.wrong: dict[UUID, Exception] = {}
        self.held: set[UUID] = set()
        self.postponed: list[Arrival] = []
        self.postponing: Future[bool] = Future()
        self.intake = Intake(
            topology.parameters([url]),
            "classic",
            self.slots,
            claim=self._claim,
            postpone=self._postpone,
            release=self._release,
            replay=lambda dead_letter: Future(),
            take_over=lambda refused: None,
            types={"work"},
        )

    def _claim(self, arrivals: Sequence[Arrival]) -> "Future[list[Claimed | Refused | None]]":
        self.asked.append(Future())
        self.batches.append([one.task_id for one in arrivals])
        for wrong in [self.wrong[one.task_id] for one in arrivals if one.task_id in self.wrong][:1]:
            self.asked[-1].set_exception(wrong)
            return self.asked[-1]
        if any(one.task_id in self.answers or one.task_id in self.held for one in arrivals):
            self.asked[-1].set_result(
                [None if one.task_id in self.held else self.answers.get(one.task_id) for one in arrivals]
            )
        return self.asked[-1]

    def _postpone(self, arrival: Arrival, seconds: float) -> "Future[bool]":
        self.postponed.append(arrival)
        return self.postponing

    def _release(self, claim: Claimed) -> "Future[bool]":
        self.released.append(claim)
        return Future()


def claimed(consumer: RabbitConsumer, number: int) -> list[RabbitDelivery]:
    """Let a consumer claim so many tasks, and take what it yields."""
    taken: list[RabbitDelivery] = []

    def is_enough() -> bool:
        one = next(consumer)
        taken.extend([one] if one is not None else [])
        return len(taken) == number

    eventually(is_enough)
    return taken


def end(consumer: RabbitConsumer, delivery: RabbitDelivery) -> None:
    """The outcome of a delivery is committed."""
    delivery.recorded = Future()
    consumer.ack(delivery)
    delivery.recorded.set_result(True)


def consume_until_stopped(consumer: RabbitConsumer, intake: Intake) -> list[object]:
    taken: list[object] = []
    while not intake.stopping.is_set():
        taken.append(next(consumer))
    return [one for one in taken if one is not None]


def test_a_consumer_that_waits_for_messages_hears_at_once_that_it_must_stop(
    rabbit_node: RabbitNode, queue: str
) -> None:
    # Given a consumer without a message
    broker = RabbitBroker(Desk(rabbit_node.url).intake)
    consumer = broker.consume(queue, prefetch=2, timeout=50)
    waiting = threading.Thread(target=lambda: list(consume_until_stopped(consumer, broker.intake)))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    # When it must stop, then it does, however long it would have waited
    broker.stop_consuming()
    waiting.join(1)
    assert not waiting.is_alive()
    consumer.close()


def together(office: Office, queue: str, size: int) -> list[Hint]:
    """Publish so many tasks in one message."""
    hints = batch(queue, size)
    office.publisher.share(hints[0].dispatch, 16)
    office.publish(hints)
    eventually(lambda: hints[0].dispatch in office.confirmed)
    return hints


def test_a_consumer_that_must_stop_does_not_wait_for_a_claim_and_gives_it_back_when_it_comes(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given a consumer that waits for a claim, since Postgres stands still
    desk = Desk(rabbit_node.url)
    office.publish(batch(queue, 1))
    consumer = RabbitConsumer(desk.intake, queue, prefetch=2, timeout=0.05)
    yielded: list[object] = []
    waiting = threading.Thread(target=lambda: yielded.extend(consume_until_stopped(consumer, desk.intake)))
    waiting.start()
    eventually(lambda: desk.asked)
    # When it must stop, then it does, and its slot is free
    desk.intake.stopping.set()
    waiting.join(5)
    assert not waiting.is_alive()
    assert yielded == []
    assert desk.slots.held == 0
    consumer.close()
    # And a claim that is committed later is given back
    claim = a_claim()
    desk.asked[0].set_result([claim])
    assert desk.released == [claim]


def test_a_message_about_several_tasks_is_acknowledged_when_the_last_of_them_is_settled(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given three tasks in one message: one is claimed, one is of a type that is unknown here, one is refused
    desk = Desk(rabbit_node.url)
    dispatch = new_dispatch()
    hints = [Hint(new_id(), kind, queue, 5, dispatch) for kind in ("work", "strange", "work")]
    desk.answers = {hints[0].task_id: a_claim(), hints[2].task_id: Refused(hints[2].task_id, "stale")}
    office.publisher.share(dispatch, 16)
    office.publish(hints)
    eventually(lambda: office.confirmed)
    assert count(rabbit_node.url, queue) == 1
    consumer = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    # When they arrive, then each is judged by itself
    [delivery] = claimed(consumer, 1)
    eventually(lambda: next(consumer) is None and sum(map(len, desk.batches)) == 2)
    assert [arrival.task_id for arrival in desk.postponed] == [hints[1].task_id]
    # and only when all outcomes are committed the message may go
    end(consumer, delivery)
    assert consumer._acks.collect() == []
    desk.postponing.set_result(True)
    consumer.close()
    assert count(rabbit_node.url, queue) == 0


def test_of_what_arrived_together_only_what_is_held_or_wrong_has_to_wait(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given four tasks in one message: two can be claimed, one is held by somebody, one cannot be recorded
    desk = Desk(rabbit_node.url, threads=4)
    good, other, held, wrong = hints = batch(queue, 4)
    desk.answers = {one.task_id: a_claim() for one in (good, held, other)}
    desk.held = {held.task_id}
    desk.wrong = {wrong.task_id: ValueError("it cannot be recorded")}
    office.publisher.share(hints[0].dispatch, 16)
    office.publish(hints)
    consumer = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    # When they arrive, then each is asked for alone, since one spoils the batch, and two can be worked on
    taken = claimed(consumer, 2)
    assert [one.message_id for one in taken] == [str(good.task_id), str(other.task_id)]
    assert desk.batches[1:5] == [[one.task_id] for one in hints]
    assert desk.slots.held == 2
    # and what is held is claimed as soon as it is let go; only the message of the wrong one stays
    desk.held.clear()
    taken += claimed(consumer, 1)
    assert taken[-1].message_id == str(held.task_id)
    assert desk.slots.held == 3
    consumer.close()
    assert count(rabbit_node.url, queue) == 1


def test_a_consumer_that_is_ended_amid_its_claims_keeps_no_slot_and_no_claim_but_those_it_has_yielded(
    rabbit_node: RabbitNode, office: Office, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given six tasks that are claimed by one verb
    desk = Desk(rabbit_node.url, threads=6)
    hints = together(office, queue, 6)
    desk.answers = {one.task_id: a_claim() for one in hints}
    consumer = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    see_to = consumer._see_to

    # When its thread is ended after it has seen to two of them
    def see_to_two(one: Any, answer: Any) -> None:
        if len(consumer._claimed) == 2:
            raise SystemExit
        see_to(one, answer)

    monkeypatch.setattr(consumer, "_see_to", see_to_two)
    with pytest.raises(SystemExit):
        claimed(consumer, 6)
    # Then the claims behind the one that it was at are given back, and their slots
    assert [claim.id for claim in desk.released] == [desk.answers[one.task_id].id for one in hints[3:]]
    assert desk.slots.held == 3
    # and those that it had seen to as soon as it is closed
    consumer.close()
    assert len(desk.released) == 5
    assert desk.slots.held == 1


def test_a_message_of_which_some_tasks_run_here_is_given_back_once_for_the_others(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given six tasks in one message, of which two are claimed, and no thread becomes free
    desk = Desk(rabbit_node.url)
    hints = batch(queue, 6)
    desk.answers = {one.task_id: a_claim() for one in hints}
    office.publisher.share(hints[0].dispatch, 16)
    office.publish(hints)
    consumer = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    deliveries = claimed(consumer, 2)
    # When it has been so for a while, then the message is there for others
    eventually(lambda: next(consumer) is None and count(rabbit_node.url, queue) == 1)
    # and what ends here later acknowledges nothing
    for one in deliveries:
        end(consumer, one)
    assert consumer._acks.collect() == []
    consumer.close()
    [(_, _, message)] = messages(rabbit_node.url, queue)
    assert message.args == tuple(str(one.task_id) for one in hints)


def test_when_the_connection_breaks_amid_a_message_of_several_tasks_the_others_come_again(
    rabbit_node: RabbitNode, office: Office, queue: str, proxy: Proxy
) -> None:
    # Given six tasks in one message, of which two are claimed
    desk = Desk(proxy.url)
    hints = together(office, queue, 6)
    desk.answers = {one.task_id: a_claim() for one in hints}
    first = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    begun = claimed(first, 2)
    # When the connection breaks, then what was not claimed is forgotten here
    proxy.cut()
    with pytest.raises(ConnectionClosed):
        consume_until_stopped(first, desk.intake)
    # and what ends meanwhile is acknowledged to nobody
    for delivery in begun:
        end(first, delivery)
    first.close()
    # and the message comes again: the two are refused, as they are over, and the four are claimed
    for delivery, one in zip(begun, hints, strict=False):
        assert delivery.message_id == str(one.task_id)
        desk.answers[one.task_id] = Refused(one.task_id, "finished")
    second = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    for delivery in claimed(second, 2):
        end(second, delivery)
    assert count(rabbit_node.url, queue) == 0
    for delivery in claimed(second, 2):
        end(second, delivery)
    second.close()
    # and only then it is gone
    assert count(rabbit_node.url, queue) == 0
    assert desk.slots.held == 0


def test_a_drain_amid_a_message_of_several_tasks_leaves_the_others_to_other_workers(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given six tasks in one message, of which two are claimed
    desk = Desk(rabbit_node.url)
    hints = together(office, queue, 6)
    desk.answers = {one.task_id: a_claim() for one in hints}
    consumer = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    begun = claimed(consumer, 2)
    # When the worker stops, then the message is there for others before the two are over
    desk.intake.stopping.set()
    eventually(lambda: next(consumer) is None and count(rabbit_node.url, queue) == 1)
    # and the two end here, and nothing is claimed any more
    for delivery in begun:
        end(consumer, delivery)
    assert next(consumer) is None
    consumer.close()
    assert sum(map(len, desk.batches)) == 2
    [(_, _, message)] = messages(rabbit_node.url, queue)
    assert message.args == tuple(str(one.task_id) for one in hints)


def test_a_message_of_several_tasks_that_meets_no_queue_is_reported_with_all_of_them(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given a queue that is deleted behind the publisher's back
    together(office, queue, 2)
    with channel_to(rabbit_node.url) as channel:
        channel.queue_delete(queue)
    # When tasks in one message are published to it, then their batch is to be dispatched again
    hints = batch(queue, 6)
    office.publisher.share(hints[0].dispatch, 16)
    office.publish(hints)
    eventually(lambda: hints[0].dispatch in office.confirmed + office.unconfirmed)
    # or, where its queue was counted in between, it has arrived as a whole
    if hints[0].dispatch in office.confirmed:
        [(_, _, message)] = messages(rabbit_node.url, queue)
        assert len(message.args) == 6
    # and what comes next arrives
    again = together(office, queue, 6)
    [(_, _, message)] = messages(rabbit_node.url, queue)
    assert message.args == tuple(str(one.task_id) for one in again)
