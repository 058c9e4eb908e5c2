"""Publishers on RabbitMQ, the batches that they publish, and what is in queues."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from dramatiq import Message

from actors.rabbitmq import topology
from actors.rabbitmq.publisher import Publisher, new_dispatch
from tasks.ids import new_id
from tasks.values import Hint
from tests.support.processes import channel_to
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


@contextmanager
def a_queue(url: str) -> Iterator[str]:
    """The name of a queue that is not there yet."""
    name = f"queue-{uuid4().hex[:8]}"
    yield name
    with channel_to(url) as channel:
        channel.queue_delete(name)
        channel.queue_delete(f"{name}.XQ")


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
