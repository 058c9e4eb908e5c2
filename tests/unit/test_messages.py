"""Messages on RabbitMQ: ours are read, and those that could do harm are not."""

import json

import pytest
from dramatiq import Message

from actors.rabbitmq.messages import Named, dispatch_of, encode, letters_for, read
from tasks.ids import new_id
from tasks.values import Arrival, Hint

HINT = Hint(queue="default", task_type="work", task_id=new_id(), dispatch=7, priority=5)


def test_a_message_names_its_task_and_its_dispatch() -> None:
    assert read(encode(HINT)) == [Named("work", Arrival(HINT.task_id, 7))]
    assert dispatch_of(encode(HINT)) == 7


def test_a_message_may_name_several_tasks_with_their_types() -> None:
    hints = [Hint(new_id(), kind, "default", 5, 7) for kind in ("work", "sleep", "work")]
    expected = [Named(one.task_type, Arrival(one.task_id, 7)) for one in hints]
    assert read(encode(*hints)) == expected
    # and it is a message of Dramatiq
    message: Message[object] = Message.decode(encode(*hints))
    assert (message.queue_name, message.actor_name) == ("default", "work")
    assert message.args == tuple(str(one.task_id) for one in hints)


def test_neighbours_of_one_queue_and_priority_share_messages_in_their_order() -> None:
    # Given a batch in which one overtakes
    hints = [Hint(new_id(), "work", "default", 8 if n == 5 else 5, 7) for n in range(10)]
    # When four may travel together
    letters = letters_for(hints, 4)
    # Then nobody changes places, and the one that overtakes travels on its own
    named = [read(one.body) for one in letters]
    assert [len(one) for one in named if isinstance(one, list)] == [4, 1, 1, 4]
    assert [one.arrival.task_id for some in named if isinstance(some, list) for one in some] == [
        one.task_id for one in hints
    ]
    assert [one.properties.priority for one in letters] == [5, 5, 8, 5]
    # and by default each does
    assert len(letters_for(hints)) == 10


def test_a_message_whose_types_and_tasks_do_not_match_is_not_one_of_ours() -> None:
    message = json.loads(encode(HINT, HINT))
    message["options"]["types"] = ["work"]
    with pytest.raises(ValueError, match="zip"):
        read(json.dumps(message).encode())


def test_a_message_as_it_was_before_several_could_share_one_is_read() -> None:
    old: Message[object] = Message("default", "work", (str(HINT.task_id),), {}, {"dispatch": 7})
    assert read(old.encode()) == [Named("work", Arrival(HINT.task_id, 7))]


def test_a_message_that_dramatiq_would_keep_for_later_is_not_one_of_ours() -> None:
    message = json.loads(encode(HINT))
    message["options"]["eta"] = 4_000_000_000_000
    with pytest.raises(ValueError, match="for now"):
        read(json.dumps(message).encode())
