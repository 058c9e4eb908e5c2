"""Messages on RabbitMQ: ours are read, and those that could do harm are not."""

import json

import pytest

from actors.rabbitmq.messages import encode, read
from tasks.ids import new_id
from tasks.values import Arrival, Hint

HINT = Hint(queue="default", task_type="work", task_id=new_id(), dispatch=7, priority=5)


def test_a_message_names_its_task_and_its_dispatch() -> None:
    _, named = read(encode(HINT))
    assert named == Arrival(HINT.task_id, 7)


def test_a_message_that_dramatiq_would_keep_for_later_is_not_one_of_ours() -> None:
    message = json.loads(encode(HINT))
    message["options"]["eta"] = 4_000_000_000_000
    with pytest.raises(ValueError, match="for now"):
        read(json.dumps(message).encode())
