"""Inquests: a worker that gets the message of a task that runs elsewhere finds out if its owner lives."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.submission import Order
from tests.support.processes import Installation, Running, installation
from tests.support.proxy import Proxy
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually


@pytest.fixture
def board(postgres_url: str, rabbit_node: RabbitNode, tmp_path: Path) -> Iterator[Installation]:
    """An installation without a clock, which would find the dead too."""
    with installation(postgres_url, rabbit_node.url, tmp_path) as board:
        yield board
        board.show_logs()


@pytest.fixture
def proxy(rabbit_node: RabbitNode) -> Iterator[Proxy]:
    proxy = Proxy(rabbit_node.url)
    yield proxy
    proxy.end()


def at_work(board: Installation, worker: Running, count: int, seconds: float) -> list[Order]:
    """Tasks that ``worker`` has begun."""
    orders = [Order(task_type="work", payload={"key": f"task-{n}", "seconds": seconds}) for n in range(count)]
    board.submit_all(orders)
    eventually(lambda: len(board.traces_of_process(worker.pid)) == count, 20)
    return orders


def count_of(board: Installation, outcome: str) -> int:
    return int(board.value("SELECT count(*) FROM attempts WHERE outcome = %s", outcome))


def test_the_worker_that_gets_a_dead_ones_messages_takes_its_tasks_back_within_a_second(
    board: Installation,
) -> None:
    # Given a worker at work, and another one
    victim = board.start_worker(threads=4)
    ids = [order.id for order in at_work(board, victim, 4, seconds=6)]
    other = board.start_worker(threads=4)
    eventually(lambda: other.says("working on"), 20)
    # When the first one is killed, and its messages come to the other one
    victim.kill()
    killed_at = time.monotonic()
    # Then that takes everything back from it, once
    eventually(lambda: count_of(board, "lost") == 4)
    assert time.monotonic() - killed_at < 2.0
    assert other.says("which died")
    # and the tasks are run again.
    board.start_clock()
    board.all_finished(ids)
    assert all(board.task(one).status == "completed" for one in ids)
    assert count_of(board, "lost") == 4


def test_messages_that_come_again_while_their_worker_lives_disturb_nobody(
    board: Installation, proxy: Proxy
) -> None:
    # Given a worker at work whose connections to RabbitMQ can be cut, and another one
    flapping = board.start_worker(threads=4, BROKER_URL=proxy.url)
    ids = [order.id for order in at_work(board, flapping, 4, seconds=4)]
    other = board.start_worker(threads=4)
    eventually(lambda: other.says("working on"), 20)
    # When they are cut again and again, and the messages are delivered again
    for _ in range(3):
        assert eventually(proxy.cut)
        time.sleep(0.5)
    # Then each task is run once, and nobody is held for dead.
    board.all_finished(ids)
    assert [board.moves(one) for one in ids] == [["queued", "running", "completed"]] * 4
    assert all(board.traces(f"task-{n}") == ["start", "end"] for n in range(4))
    assert count_of(board, "lost") == 0
