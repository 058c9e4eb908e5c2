"""Copies of dead letters on RabbitMQ: each failure has one in ``.XQ``, one that comes back is a replay."""

from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq import Message

from tests.support.processes import Installation, channel_to, installation
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually

QUEUE, DEAD = "default", "default.XQ"


@pytest.fixture(scope="module")
def house(
    postgres_url: str, rabbit_node: RabbitNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with installation(postgres_url, rabbit_node.url, tmp_path_factory.mktemp("house")) as house:
        house.start_clock()
        yield house


@pytest.fixture
def board(house: Installation) -> Iterator[Installation]:
    """A clock and a worker."""
    house.start_worker()
    yield house
    house.show_logs()
    house.sweep()


def take_copies(board: Installation, count: int) -> list[tuple[Any, bytes]]:
    """Take so many messages out of ``.XQ``, as soon as they are there."""
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        eventually(lambda: channel.queue_declare(DEAD, passive=True).method.message_count == count, 15)
        taken = [channel.basic_get(DEAD, auto_ack=True) for _ in range(count)]
    return [(properties, body) for _, properties, body in taken]


def move_back(board: Installation, *bodies: bytes) -> None:
    """Put messages into their queue as a shovel or the management page does."""
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", QUEUE, body)


def owed(board: Installation) -> int:
    return int(board.value("SELECT count(*) FROM dead_letters WHERE copied_at IS NULL"))


def test_a_task_that_failed_for_good_has_one_copy_in_the_dead_letter_queue(board: Installation) -> None:
    # Given tasks that fail for good, and one that is retried and then works
    ids = [board.submit("hopeless", {"key": f"hopeless-{n}"}) for n in range(3)]
    board.finished(board.submit("flaky", {"key": "flaky", "failures": 1}), 20)
    # Then each failure has its copy, which says what it is about and why it failed
    copies = take_copies(board, 3)
    assert {properties.message_id for properties, _ in copies} == {str(task_id) for task_id in ids}
    message: Message[Any] = Message.decode(copies[0][1])
    assert message.actor_name == "hopeless"
    assert message.options["error"] == "page_missing: there is no such page"
    assert "raise Permanent" in message.options["traceback"]
    # and it is not sent again
    eventually(lambda: owed(board) == 0)
    board.finished(board.submit("work", {"key": "afterwards"}))
    assert take_copies(board, 0) == []


def test_a_copy_that_is_moved_back_to_its_queue_is_a_replay(board: Installation) -> None:
    # Given a task that failed for good, and works from now on
    board.raise_flag("moody")
    task_id = board.submit("moody", {"key": "moody"})
    board.finished(task_id, 20)
    ((_, body),) = take_copies(board, 1)
    (board.folder / "moody").unlink()
    # When its copy is moved back, three times
    move_back(board, body, body, body)
    # Then the task runs once more, and no message is left
    task = board.has_status(task_id, "completed")
    assert (task.status, task.result, task.attempts) == ("completed", "in a good mood", 2)
    board.finished(board.submit("work", {"key": "behind"}))
    assert board.traces("moody") == ["start", "start"]
    resolution = "SELECT resolution FROM dead_letters WHERE task_id = %s"
    assert board.value(resolution, task_id) == "replayed"
    # and the log says of the others why they were no replay
    eventually(lambda: board.any_log_says("is not replayed: "))


def test_the_copy_is_sent_when_the_dead_letter_queue_that_was_deleted_is_there_again(
    board: Installation,
) -> None:
    board.finished(board.submit("work", {"key": "first"}), 20)
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        channel.queue_delete(DEAD)
    task_id = board.submit("hopeless", {"key": "late"})
    board.finished(task_id)
    ((properties, _),) = take_copies_once_there(board)
    assert properties.message_id == str(task_id)


def take_copies_once_there(board: Installation) -> list[tuple[Any, bytes]]:
    eventually(lambda: owed(board) == 0, 30)
    return take_copies(board, 1)
