"""What Callboard does on RabbitMQ: the queues that it declares, and batches with their confirms."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from dramatiq import Message

from actors.delivery import Slots
from actors.errors import BrokerError
from actors.rabbitmq import topology
from actors.rabbitmq.consumer import Intake, RabbitConsumer, RabbitDelivery
from actors.rabbitmq.publisher import Publisher, new_dispatch
from actors.submission import Order
from tasks.ids import new_id
from tasks.values import Arrival, Claimed, Hint, Refused
from tests.support.claims import a_claim
from tests.support.processes import Installation, channel_to, installation
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually


class Office:
    """A publisher, and what it said about its batches."""

    def __init__(self, url: str, *, queue_type: str = "classic", window: int = 1_000) -> None:
        self.confirmed: list[int] = []
        self.unconfirmed: list[int] = []
        self.publisher = Publisher(
            topology.parameters([url]),
            queue_type,
            confirmed=self.confirmed.append,
            unconfirmed=self.unconfirmed.append,
            window=window,
        ).start()
        eventually(lambda: self.publisher.is_open)

    def publish(self, hints: list[Hint]) -> int:
        self.publisher.publish(hints[0].dispatch, hints)
        return hints[0].dispatch


@pytest.fixture
def queue(rabbit_node: RabbitNode) -> Iterator[str]:
    """The name of a queue that is not there yet."""
    name = f"queue-{uuid4().hex[:8]}"
    yield name
    with channel_to(rabbit_node.url) as channel:
        channel.queue_delete(name)
        channel.queue_delete(f"{name}.XQ")


@pytest.fixture
def office(rabbit_node: RabbitNode) -> Iterator[Office]:
    office = Office(rabbit_node.url, window=10)
    yield office
    office.publisher.close()


@pytest.fixture
def proxy(rabbit_node: RabbitNode) -> Iterator[Proxy]:
    with proxy_to(rabbit_node.url) as proxy:
        yield proxy


@pytest.fixture
def proxied_board(postgres_url: str, proxy: Proxy, tmp_path: Path) -> Iterator[Installation]:
    """A clock and a worker that reach RabbitMQ through the proxy alone."""
    with installation(postgres_url, proxy.url, tmp_path) as board:
        board.start_clock()
        board.start_worker()
        yield board
        board.show_logs()
        proxy.open()


def work(count: int, seconds: float) -> list[Order]:
    return [Order(task_type="work", payload={"key": f"task-{n}", "seconds": seconds}) for n in range(count)]


def batch(queue: str, count: int, *, priority: int = 5) -> list[Hint]:
    dispatch = new_dispatch()
    return [Hint(new_id(), "work", queue, priority, dispatch) for _ in range(count)]


def messages(url: str, queue: str) -> list[tuple[Any, Any, "Message[Any]"]]:
    """Take all messages of a queue: how and with what each was delivered."""
    taken: list[tuple[Any, Any, Message[Any]]] = []
    with channel_to(url) as channel:
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return taken
            taken.append((method, properties, Message.decode(body)))


def count(url: str, queue: str) -> int:
    with channel_to(url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_is_confirmed_as_a_whole_when_all_of_it_is_on_rabbitmq(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    hints = batch(queue, 500)
    dispatch = office.publish(hints)
    eventually(lambda: office.confirmed == [dispatch])
    assert count(rabbit_node.url, queue) == 500
    assert office.unconfirmed == []


def test_a_message_is_a_persistent_hint_that_names_its_task_and_its_dispatch(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    [hint] = batch(queue, 1, priority=8)
    office.publish([hint])
    eventually(lambda: office.confirmed)
    [(_, properties, message)] = messages(rabbit_node.url, queue)
    assert (message.queue_name, message.actor_name) == (queue, "work")
    assert message.args == (str(hint.task_id),)
    assert message.options["dispatch"] == hint.dispatch
    assert (properties.delivery_mode, properties.priority) == (2, 8)


def test_many_batches_at_once_are_each_confirmed_once(office: Office, queue: str) -> None:
    batches = [batch(queue, 20) for _ in range(50)]
    threads = [
        threading.Thread(target=lambda part=part: [office.publish(one) for one in part])
        for part in (batches[:25], batches[25:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(office.confirmed) == 50)
    assert sorted(office.confirmed) == sorted(one[0].dispatch for one in batches)
    assert office.unconfirmed == []


def test_a_high_priority_overtakes_on_its_queue(rabbit_node: RabbitNode, office: Office, queue: str) -> None:
    low, high = batch(queue, 3, priority=2), batch(queue, 3, priority=8)
    office.publish(low)
    office.publish(high)
    eventually(lambda: len(office.confirmed) == 2)
    order = [message.args[0] for _, _, message in messages(rabbit_node.url, queue)]
    assert order == [str(hint.task_id) for hint in high + low]


# --- queues --------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_queue_is_declared_before_its_first_message_and_its_dead_letters_beside_it(
    rabbit_node: RabbitNode, queue: str, queue_type: str
) -> None:
    # Given a message on a queue that nobody has declared
    office = Office(rabbit_node.url, queue_type=queue_type)
    office.publish(batch(queue, 1))
    eventually(lambda: office.confirmed)
    office.publisher.close()
    # When it is rejected
    with channel_to(rabbit_node.url) as channel:
        method, _, body = channel.basic_get(queue)
        channel.basic_nack(method.delivery_tag, requeue=False)
    # Then it is among the dead letters
    eventually(lambda: count(rabbit_node.url, f"{queue}.XQ") == 1)
    [(_, _, dead)] = messages(rabbit_node.url, f"{queue}.XQ")
    assert dead == Message.decode(body)


def test_a_queue_that_is_deleted_is_declared_again_and_its_batch_is_reported(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given a queue that is deleted behind the publisher's back
    first = office.publish(batch(queue, 1))
    eventually(lambda: office.confirmed == [first])
    with channel_to(rabbit_node.url) as channel:
        channel.queue_delete(queue)
        second = office.publish(batch(queue, 3))
        # Then what met no queue is confirmed only if it is there, and else to be dispatched again
        eventually(lambda: second in office.confirmed + office.unconfirmed)
    third = office.publish(batch(queue, 2))
    eventually(lambda: third in office.confirmed)
    arrived = 2 + 3 * (second in office.confirmed)
    assert count(rabbit_node.url, queue) == arrived


# --- the window ----------------------------------------------------------------------------------


def test_the_window_closes_at_its_limit_and_opens_when_messages_are_taken(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    assert office.publisher.room(queue) == 10
    # When it is filled
    office.publish(batch(queue, 7))
    eventually(lambda: office.publisher.room(queue) == 3)
    office.publish(batch(queue, 3))
    # Then it is closed
    eventually(lambda: office.publisher.room(queue) == 0)
    # and opens when somebody has taken messages
    assert len(messages(rabbit_node.url, queue)) == 10
    eventually(lambda: office.publisher.room(queue) == 10)


def test_what_waits_on_rabbitmq_is_known_of_queues_that_only_others_publish_to(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given a queue on which another process has published
    other = Office(rabbit_node.url)
    other.publish(batch(queue, 4))
    eventually(lambda: other.confirmed)
    other.publisher.close()
    assert office.publisher.ready_count(queue) is None
    # When it is watched, then its messages are counted
    office.publisher.watch([queue])
    eventually(lambda: office.publisher.ready_count(queue) == 4)


# --- connections ---------------------------------------------------------------------------------


def test_a_batch_whose_connection_breaks_is_confirmed_or_reported_never_forgotten(
    proxy: Proxy, queue: str
) -> None:
    # Given batches on their way when the connection is cut
    office = Office(proxy.url)
    batches = [batch(queue, 200) for _ in range(20)]
    for number, one in enumerate(batches):
        office.publish(one)
        if number == 10:
            proxy.cut()
    # Then one word is said about each of them
    eventually(lambda: len(office.confirmed) + len(office.unconfirmed) == 20)
    assert sorted(office.confirmed + office.unconfirmed) == sorted(one[0].dispatch for one in batches)
    # and the publisher comes back
    eventually(lambda: office.publisher.is_open)
    last = office.publish(batch(queue, 1))
    eventually(lambda: last in office.confirmed)
    office.publisher.close()


def test_while_rabbitmq_is_away_nothing_is_stamped_and_batches_are_refused(proxy: Proxy, queue: str) -> None:
    office = Office(proxy.url)
    proxy.shut()
    eventually(lambda: not office.publisher.is_open)
    assert office.publisher.stamp() is None
    assert office.publisher.room(queue) == 0
    refused = office.publish(batch(queue, 1))
    assert office.unconfirmed == [refused]
    proxy.open()
    eventually(lambda: office.publisher.stamp())
    office.publisher.close()


def test_of_several_urls_any_one_that_answers_will_do(
    rabbit_node: RabbitNode, proxy: Proxy, queue: str
) -> None:
    proxy.shut()
    done: list[int] = []
    publisher = Publisher(
        topology.parameters([proxy.url, rabbit_node.url]), "classic", confirmed=done.append, unconfirmed=print
    ).start()
    eventually(lambda: publisher.is_open)
    hints = batch(queue, 1)
    publisher.publish(hints[0].dispatch, hints)
    eventually(lambda: done == [hints[0].dispatch])
    publisher.close()


def test_a_url_that_cannot_be_read_is_refused_with_the_name_of_its_setting() -> None:
    with pytest.raises(BrokerError, match="CALLBOARD_BROKER_URL"):
        topology.parameters(["amqp://host:port-that-is-none/"])


def test_a_password_in_a_url_that_cannot_be_read_is_not_told() -> None:
    with pytest.raises(BrokerError) as refused:
        topology.parameters(["amqp://user:secret/part@host"])
    assert "part" not in str(refused.value)
    assert "secret" not in str(refused.value)


class Desk:
    """What a consumer needs of a ledger: a claim is answered when the test says so."""

    def __init__(self, url: str, threads: int = 2) -> None:
        self.asked: list[Future[list[Claimed | Refused | None]]] = []
        self.released: list[Claimed] = []
        self.slots = Slots(threads)
        self.batches: list[list[UUID]] = []
        self.answers: dict[UUID, Claimed | Refused] = {}
        self.wrong: dict[UUID, Exception] = {}
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
        if any(one.task_id in self.answers for one in arrivals):
            self.asked[-1].set_result([self.answers.get(one.task_id) for one in arrivals])
        return self.asked[-1]

    def _postpone(self, arrival: Arrival, seconds: float) -> "Future[bool]":
        self.postponed.append(arrival)
        return self.postponing

    def _release(self, claim: Claimed) -> "Future[bool]":
        self.released.append(claim)
        return Future()


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
    desk.answers = {good.task_id: a_claim(), other.task_id: a_claim()}
    desk.wrong = {wrong.task_id: ValueError("it cannot be recorded")}
    office.publisher.share(hints[0].dispatch, 16)
    office.publish(hints)
    consumer = RabbitConsumer(desk.intake, queue, prefetch=4, timeout=0.05)
    taken: list[RabbitDelivery] = []
    taking = threading.Thread(target=lambda: taken.extend(claimed(consumer, 3)))
    # When they arrive
    taking.start()
    # Then each is asked for alone, since one spoils the batch, and those after the held one wait for it
    eventually(lambda: len(desk.batches) == 5)
    assert sorted(desk.batches[1:]) == sorted([one.task_id] for one in hints)
    claim = a_claim()
    desk.asked[desk.batches.index([held.task_id])].set_result([claim])
    # and all that can be claimed is worked on; only the message of the wrong one stays
    taking.join(10)
    assert {one.claim.id for one in taken} == {claim.id, *(one.id for one in desk.answers.values())}
    assert desk.slots.held == 3
    consumer.close()
    assert count(rabbit_node.url, queue) == 1


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


def consume_until_stopped(consumer: RabbitConsumer, intake: Intake) -> list[object]:
    taken: list[object] = []
    while not intake.stopping.is_set():
        taken.append(next(consumer))
    return [one for one in taken if one is not None]


def test_a_queue_of_another_kind_under_our_name_is_no_reason_to_give_up(
    rabbit_node: RabbitNode, office: Office, queue: str
) -> None:
    # Given a queue that somebody declared without our arguments
    with channel_to(rabbit_node.url) as channel:
        channel.queue_declare(queue)
    # When a batch is for it, then the batch is reported, and other queues are still served
    bad = office.publish(batch(queue, 1))
    eventually(lambda: bad in office.unconfirmed)
    good = office.publish(batch(f"{queue}-good", 1))
    eventually(lambda: good in office.confirmed)
    assert office.publisher.room(queue) == 0
    assert count(rabbit_node.url, queue) == 0
    with channel_to(rabbit_node.url) as channel:
        channel.queue_delete(f"{queue}-good")
        channel.queue_delete(f"{queue}-good.XQ")


# --- workers whose connections break ----------------------------------------------------------------------


def test_when_connections_to_rabbitmq_break_nothing_is_lost_and_nothing_runs_twice(
    proxied_board: Installation, proxy: Proxy
) -> None:
    # Given a worker in the middle of its tasks
    ids = proxied_board.submit_all(work(60, 0.2))
    eventually(lambda: len(proxied_board.traces()) > 10, 20)
    # When all connections are cut, twice
    assert proxy.cut() >= 3
    eventually(lambda: len(proxied_board.traces()) > 60, 20)
    proxy.cut()
    # Then every task completes, and each ran once
    proxied_board.all_finished(ids)
    assert {proxied_board.task(task_id).status for task_id in ids} == {"completed"}
    assert [proxied_board.traces(f"task-{n}") for n in range(60)] == [["start", "end"]] * 60
    assert proxied_board.value("SELECT max(deaths) FROM task_state") == 0


def test_what_is_submitted_while_rabbitmq_is_away_runs_when_it_is_back(
    proxied_board: Installation, proxy: Proxy
) -> None:
    # Given a RabbitMQ that cannot be reached
    proxied_board.finished(proxied_board.submit("work", {"key": "before"}), 20)
    proxy.shut()
    # When tasks are submitted, then they are accepted
    ids = proxied_board.submit_all(work(20, 0))
    assert {proxied_board.task(task_id).status for task_id in ids} == {"queued"}
    # and they run once it is back
    with pytest.raises(AssertionError):
        proxied_board.all_finished(ids, timeout=1)
    proxy.open()
    proxied_board.all_finished(ids)
    assert [proxied_board.traces(f"task-{n}") for n in range(20)] == [["start", "end"]] * 20
