"""What travels: hints about ready tasks, and the copies of dead letters. Both are messages of Dramatiq."""

from typing import Any
from uuid import UUID

import msgspec
import pika
from dramatiq import Message
from dramatiq.common import xq_name

from actors.rabbitmq.topology import MOST_PRIORITY
from tasks.values import Arrival, DeadLetter, Hint, Publication

MOST_DISPATCH = (1 << 63) - 1


class Letter(msgspec.Struct, frozen=True):
    """A message as it is published: to its ``queue``, or to that queue's dead letters."""

    queue: str
    routing_key: str
    body: bytes
    properties: Any


class Returned(msgspec.Struct, frozen=True):
    """The copy of a dead letter that somebody moved back to its queue: a wish to replay it."""

    dead_letter: UUID


def letter_for(publication: Publication) -> Letter:
    """The message about a ready task, or the copy of a dead letter."""
    if isinstance(publication, Hint):
        return Letter(publication.queue, publication.queue, encode(publication), _properties(publication))
    return _copy(publication)


def encode(hint: Hint) -> bytes:
    """The message about a task: a Dramatiq message whose argument is the task's id."""
    return _encode(hint.queue, hint.task_type, hint.task_id, {"dispatch": hint.dispatch})


def read(body: bytes) -> tuple[Any, Arrival | Returned]:
    """The message and what it names; raises anything if it is not one of ours."""
    message: Message[Any] = Message.decode(body)
    if not isinstance(message.actor_name, str):
        raise TypeError("its type is not what ours have")
    if "eta" in message.options:
        raise ValueError("ours are for now: Dramatiq would keep it, and its claim, until then")
    if "dead_letter" in message.options:
        return message, Returned(UUID(message.options["dead_letter"]))
    dispatch = int(message.options["dispatch"])
    if not 0 <= dispatch <= MOST_DISPATCH:
        raise ValueError("its dispatch is not what ours have")
    return message, Arrival(UUID(message.args[0]), dispatch)


def _encode(queue: str, task_type: str, task_id: UUID, options: dict[str, Any]) -> bytes:
    message: Message[Any] = Message(
        queue_name=queue,
        actor_name=task_type,
        args=(str(task_id),),
        kwargs={},
        options=options,
        message_id=str(task_id),
    )
    return message.encode()


def _properties(hint: Hint) -> pika.BasicProperties:
    return pika.BasicProperties(
        delivery_mode=2,
        content_type="application/json",
        priority=min(hint.priority, MOST_PRIORITY),
        message_id=str(hint.task_id),
        headers={"dispatch": str(hint.dispatch)},
    )


def _copy(dead: DeadLetter) -> Letter:
    options = {
        "dead_letter": str(dead.id),
        "attempt": dead.attempt,
        "error": f"{dead.code}: {dead.message}",
        "traceback": dead.traceback,
    }
    properties = pika.BasicProperties(
        delivery_mode=2,
        content_type="application/json",
        message_id=str(dead.task_id),
        headers={"dispatch": str(dead.dispatch), "dead_letter": str(dead.id), "error": dead.code},
    )
    body = _encode(dead.queue, dead.task_type, dead.task_id, options)
    return Letter(dead.queue, xq_name(dead.queue), body, properties)
