"""What Callboard does on RabbitMQ: the queues that it declares, and batches with their confirms."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dramatiq import Message

from actors.errors import BrokerError
from actors.rabbitmq import publisher, topology
from actors.rabbitmq.publisher import Publisher
from actors.submission import Order
from tests.support.offices import Office, a_queue, batch, count, messages
from tests.support.processes import Installation, channel_to, installation
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually


@pytest.fixture
def queue(rabbit_node: RabbitNode) -> Iterator[str]:
    with a_queue(rabbit_node.url) as name:
        yield name


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


def test_a_queue_that_was_quiet_is_counted_all_the_same_and_soon_if_something_goes_on_there(
    rabbit_node: RabbitNode, office: Office, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a queue in which nothing happens
    monkeypatch.setattr(publisher, "LIVELY_SECONDS", 0.0)
    office.publisher.watch([queue])
    eventually(lambda: office.publisher.ready_count(queue) == 0)
    # When another process publishes, then that is seen within the time of a round
    other = Office(rabbit_node.url)
    other.publish(batch(queue, 4))
    eventually(lambda: office.publisher.ready_count(queue) == 4, publisher.QUIET_SECONDS + 5)
    other.publisher.close()
    # And at once where somebody says so
    monkeypatch.setattr(publisher, "LIVELY_SECONDS", 60.0)
    assert len(messages(rabbit_node.url, queue)) == 4
    office.publisher.heed([queue])
    eventually(lambda: office.publisher.ready_count(queue) == 0, 2)


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
    outlet = Publisher(
        topology.parameters([proxy.url, rabbit_node.url]), "classic", confirmed=done.append, unconfirmed=print
    ).start()
    eventually(lambda: outlet.is_open)
    hints = batch(queue, 1)
    outlet.publish(hints[0].dispatch, hints)
    eventually(lambda: done == [hints[0].dispatch])
    outlet.close()


def test_a_url_that_cannot_be_read_is_refused_with_the_name_of_its_setting() -> None:
    with pytest.raises(BrokerError, match="CALLBOARD_BROKER_URL"):
        topology.parameters(["amqp://host:port-that-is-none/"])


def test_a_password_in_a_url_that_cannot_be_read_is_not_told() -> None:
    with pytest.raises(BrokerError) as refused:
        topology.parameters(["amqp://user:secret/part@host"])
    assert "part" not in str(refused.value)
    assert "secret" not in str(refused.value)


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
