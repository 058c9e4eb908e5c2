"""What travels: hints about ready tasks, and the copies of dead letters. Both are messages of Dramatiq."""

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any
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


class Named(msgspec.Struct, frozen=True):
    """A task that a message names, with its type: who does not know that leaves the task to others."""

    task_type: str
    arrival: Arrival


class Returned(msgspec.Struct, frozen=True):
    """The copy of a dead letter that somebody moved back to its queue: a wish to replay it."""

    dead_letter: UUID


class _Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options of ours. ``types`` are those of all tasks, where a message names several."""

    dispatch: Annotated[int, msgspec.Meta(ge=0, le=MOST_DISPATCH)] | None = None
    types: list[str] | None = None
    dead_letter: UUID | None = None
    attempt: int | None = None
    error: str | None = None
    traceback: str | None = None
    eta: Any = None


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a Dramatiq message, whose arguments are the ids of tasks."""

    queue_name: str
    actor_name: str
    args: list[UUID]
    kwargs: dict[str, Any]
    options: _Options
    message_id: str
    message_timestamp: int


class _Sent(msgspec.Struct, frozen=True):
    """As much of a body as tells in which dispatch it was published."""

    options: _Options


_ENCODER = msgspec.json.Encoder()
_BODIES = msgspec.json.Decoder(_Body)
_SENT = msgspec.json.Decoder(_Sent)


def letters_for(publications: Sequence[Publication], together: int = 1) -> list[Letter]:
    """The messages of a batch: up to ``together`` ready tasks in each, in order; copies are on their own."""
    letters: list[Letter] = []
    for _, run in groupby(publications, key=_goes_with):
        alike = list(run)
        hints = [one for one in alike if isinstance(one, Hint)]
        letters += [_hint(hints[n : n + together]) for n in range(0, len(hints), together)]
        letters += [_copy(one) for one in alike if isinstance(one, DeadLetter)]
    return letters


def encode(*hints: Hint) -> bytes:
    """The message about ready tasks of one queue: a Dramatiq message whose arguments are their ids."""
    first = hints[0]
    types = [one.task_type for one in hints] if len(hints) > 1 else None
    options = _Options(dispatch=first.dispatch, types=types)
    return _encode(first.queue, first.task_type, [one.task_id for one in hints], options)


def read(body: bytes) -> list[Named] | Returned:
    """What a message names; raises anything if it is not one of ours."""
    message = _BODIES.decode(body)
    options = message.options
    if options.eta is not None:
        raise ValueError("ours are for now: Dramatiq would keep it, and its claim, until then")
    if options.dead_letter is not None:
        return Returned(options.dead_letter)
    if options.dispatch is None or not message.args:
        raise ValueError("it names no task, or no dispatch")
    types = options.types or [message.actor_name]
    pairs = zip(types, message.args, strict=True)
    return [Named(task_type, Arrival(task_id, options.dispatch)) for task_type, task_id in pairs]


def dispatch_of(body: bytes) -> int | None:
    """In which dispatch a message of ours was published."""
    return _SENT.decode(body).options.dispatch


def call_of(queue: str, named: Named) -> "Message[Any]":
    """One of the tasks that a message names, as Dramatiq calls it."""
    task_id = str(named.arrival.task_id)
    return Message(queue, named.task_type, (task_id,), {}, {}, message_id=task_id)


def _goes_with(publication: Publication) -> tuple[object, ...]:
    """What two neighbours have in common that may travel in one message."""
    if isinstance(publication, Hint):
        return (publication.queue, publication.priority)
    return (publication.id,)


def _hint(hints: Sequence[Hint]) -> Letter:
    first = hints[0]
    properties = pika.BasicProperties(
        delivery_mode=2, content_type="application/json", priority=min(first.priority, MOST_PRIORITY)
    )
    return Letter(first.queue, first.queue, encode(*hints), properties)


def _encode(queue: str, task_type: str, task_ids: list[UUID], options: _Options) -> bytes:
    now = int(time.time() * 1_000)
    return _ENCODER.encode(_Body(queue, task_type, task_ids, {}, options, str(task_ids[0]), now))


def _copy(dead: DeadLetter) -> Letter:
    options = _Options(
        dispatch=dead.dispatch,
        dead_letter=dead.id,
        attempt=dead.attempt,
        error=f"{dead.code}: {dead.message}",
        traceback=dead.traceback,
    )
    properties = pika.BasicProperties(
        delivery_mode=2,
        content_type="application/json",
        message_id=str(dead.task_id),
        headers={"dead_letter": str(dead.id), "error": dead.code},
    )
    body = _encode(dead.queue, dead.task_type, [dead.task_id], options)
    return Letter(dead.queue, xq_name(dead.queue), body, properties)
