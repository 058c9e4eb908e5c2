"""Copies of dead letters on RabbitMQ: each failure has one in ``.XQ``, one that comes back is a replay."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from dramatiq import Message

from tasks.errors import Conflict, InvalidField
from tasks.ids import new_id
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


def test_a_copy_leaves_soon_after_its_letter_is_resolved_whoever_resolves_it(board: Installation) -> None:
    # Given three tasks that failed for good
    flags = [board.raise_flag(f"moody-{n}") for n in range(3)]
    ids = [board.submit("moody", {"key": flag.name}) for flag in flags]
    board.all_finished(ids)
    copies = {UUID(one.message_id): body for one, body in looked_at(board, 3)}
    # When one is retried, one is deleted, and the copy of the third is moved back
    for flag in flags:
        flag.unlink()
    assert board.kit.ledger.retry(ids[0]).result(10) == "retried"
    assert board.kit.ledger.delete(ids[1]).result(10) == "deleted"
    move_back(board, copies[ids[2]])
    # Then their copies leave, and what ran ran once
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        eventually(lambda: channel.queue_declare(DEAD, passive=True).method.message_count == 0, 15)
    for task_id, key in ((ids[0], "moody-0"), (ids[2], "moody-2")):
        board.has_status(task_id, "completed")
        assert board.traces(key) == ["start", "start"]
    # When a copy is moved back whose letter was resolved meanwhile
    move_back(board, copies[ids[0]], copies[ids[1]])
    board.finished(board.submit("work", {"key": "behind"}))
    # Then nothing runs again, and no message is left
    assert board.traces("moody-0") == ["start", "start"]
    assert board.traces("moody-1") == ["start"]
    with channel_to(board.broker_url) as channel:
        eventually(lambda: channel.queue_declare(QUEUE, passive=True).method.message_count == 0)
        assert channel.queue_declare(DEAD, passive=True).method.message_count == 0


def looked_at(board: Installation, count: int) -> list[tuple[Any, bytes]]:
    """So many messages of ``.XQ``, as soon as they are there; they go back."""
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        eventually(lambda: channel.queue_declare(DEAD, passive=True).method.message_count == count, 15)
        taken = [channel.basic_get(DEAD) for _ in range(count)]
    return [(properties, body) for _, properties, body in taken]


def foreign_letter(board: Installation, body: bytes) -> UUID:
    """The dead letter of a message of others that is thrown into the queue."""
    move_back(board, body)
    sql = "SELECT dead_letter FROM foreign_messages WHERE body = %s"
    return eventually(lambda: board.value(sql, body), 15)


def test_a_dramatiq_message_of_others_is_replayed_as_a_task(board: Installation) -> None:
    # Given a message that calls a type of ours, but was sent by somebody who knows no record
    call: Message[Any] = Message(QUEUE, "work", ({"key": "called"},), {}, {}, message_id="m-1")
    letter = foreign_letter(board, call.encode())
    # When it is replayed, then it is a task that runs, once
    replayer = board.kit.stray_replayer
    assert replayer.replay(letter, created_by="user:ann") == "replayed"
    assert replayer.replay(letter, created_by="user:ann") == "resolved"
    task_id = board.value("SELECT replayed_as FROM foreign_messages WHERE dead_letter = %s", letter)
    task = board.finished(task_id)
    assert (task.status, task.payload, task.created_by) == ("completed", {"key": "called"}, "user:ann")
    assert board.traces("called") == ["start", "end"]


def test_a_message_of_others_that_does_not_fit_is_refused_with_the_reason(board: Installation) -> None:
    two: Message[Any] = Message(QUEUE, "work", (1, 2), {}, {}, message_id="m-2")
    letter = foreign_letter(board, two.encode())
    with pytest.raises(Conflict, match="2 arguments"):
        board.kit.stray_replayer.replay(letter, created_by="system")
    wrong: Message[Any] = Message(QUEUE, "work", ({"no": "key"},), {}, {}, message_id="m-3")
    letter = foreign_letter(board, wrong.encode())
    with pytest.raises(InvalidField, match="payload"):
        board.kit.stray_replayer.replay(letter, created_by="system")
    assert board.value("SELECT resolution FROM dead_letters WHERE id = %s", letter) is None
    assert board.kit.stray_replayer.replay(new_id(), created_by="system") == "missing"


def test_another_message_of_others_goes_back_to_its_queue(board: Installation) -> None:
    letter = foreign_letter(board, b"not for us")
    assert board.kit.stray_replayer.replay(letter, created_by="system") == "replayed"
    # There our worker rejects it again, and so it is a new dead letter
    sql = "SELECT count(*) FROM foreign_messages WHERE body = %s"
    eventually(lambda: board.value(sql, b"not for us") == 2, 20)
    owed = "SELECT owed OR returned_at IS NULL FROM foreign_messages WHERE dead_letter = %s"
    assert board.value(owed, letter) is False


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
