"""Messages that are not ours: how they are told from ours, what is kept of them, and how they go back."""

import hashlib
from typing import Any
from uuid import UUID

import msgspec
import pika
from dramatiq import Message

from actors.kept import storable
from actors.rabbitmq.messages import Named, Returned, read
from tasks.ids import new_id
from tasks.ledger.strays import Keep
from tasks.strays import ForeignMessage

MOST_NAME = 200
#: Headers by which RabbitMQ would send a message to more queues than its own.
COPYING_HEADERS = ("CC", "BCC")
#: Headers that RabbitMQ adds when it delivers; they are others each time.
DELIVERY_HEADERS = ("x-delivery-count", "x-acquired-count")
_PROPERTIES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)


def letter_in(properties: Any) -> UUID | None:
    """The dead letter of which a message says that it is the copy; None if it says nothing like it."""
    named = (properties.headers or {}).get("dead_letter")
    try:
        return UUID(named) if isinstance(named, str) else None
    except ValueError:
        return None


def read_ours(body: bytes) -> list[Named] | Returned | None:
    """What a message of ours names; None if it is not ours."""
    try:
        return read(body)
    except Exception:  # a stranger's message can be wrong in any way
        return None


def call_in(body: bytes) -> "Message[Any] | None":
    """The Dramatiq message that a body is, or None."""
    try:
        message: Message[Any] = Message.decode(body)
    except Exception:
        return None
    is_call = (
        isinstance(message.actor_name, str)
        and isinstance(message.args, list | tuple)
        and isinstance(message.kwargs, dict)
    )
    return message if is_call else None


def kept(queue: str, properties: Any, body: bytes) -> Keep:
    """What is put on record of a message in ``<queue>.XQ``."""
    headers = properties.headers or {}
    # None rather than empty: the digest must not tell a first delivery from a later one.
    properties.headers = {key: headers[key] for key in headers if key not in DELIVERY_HEADERS} or None
    frame = _encoded(properties)
    message = call_in(body)
    return Keep(
        dead_letter=new_id(),
        queue=queue,
        task_type=storable(message.actor_name)[:MOST_NAME] if message is not None else "",
        message=storable(f"It is no message of Callboard{_why_dead(properties)}.")[: 5 * MOST_NAME],
        body=body,
        properties=_plain(properties),
        frame=frame,
        digest=hashlib.blake2b(frame + b"\0" + body, digest_size=32).digest(),
    )


def properties_of(message: ForeignMessage) -> Any:
    """The properties with which a message goes back: as they were, but that it goes to one queue only.

    RabbitMQ takes a ``user_id`` from nobody but that user.
    """
    properties = pika.BasicProperties()
    properties.decode(message.frame)
    properties.user_id = None
    if properties.headers:
        headers = {key: value for key, value in properties.headers.items() if key not in COPYING_HEADERS}
        properties.headers = headers
    return properties


def _why_dead(properties: Any) -> str:
    """Why RabbitMQ moved it here, if it did."""
    deaths = (properties.headers or {}).get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(first, dict):
        return ""
    return f": {first.get('reason')} in {first.get('queue')}"


def _encoded(properties: Any) -> bytes:
    try:
        return b"".join(properties.encode())
    except Exception:  # a header of a kind that can be read but not written
        bare = pika.BasicProperties(
            **{name: getattr(properties, name) for name in _PROPERTIES if name != "headers"}
        )
        return b"".join(bare.encode())


def _plain(properties: Any) -> dict[str, Any]:
    """The properties that are set, as JSON for people."""
    values = {name: getattr(properties, name) for name in _PROPERTIES}
    given = {name: value for name, value in values.items() if value is not None}
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(_readable(given)))
    return made


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {storable(str(key)): _readable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_readable(one) for one in value]
    if isinstance(value, bytes):
        return storable(value.decode("utf-8", "replace"))
    if isinstance(value, bool | float) or value is None:
        return value
    if isinstance(value, int):  # pika has a kind of its own
        return int(value)
    return storable(str(value))
