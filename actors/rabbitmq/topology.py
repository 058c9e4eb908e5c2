"""What Callboard declares on RabbitMQ, and how it connects."""

from collections.abc import Sequence
from typing import Any

import pika
import pika.exceptions
from dramatiq.common import xq_name
from dramatiq.errors import ConnectionClosed

from actors.errors import BrokerError

MOST_PRIORITY = 10
DEAD_MESSAGE_TTL_MS = 7 * 86_400_000
#: High: busy workers give back what they cannot start, which RabbitMQ counts; poison is our own affair.
DELIVERY_LIMIT = 200
#: RabbitMQ 4 has a limit of 20 where none is given, and takes -1 for none; older ones refuse that.
NO_DELIVERY_LIMIT = 1_000_000_000
HEARTBEAT_SECONDS = 10
PATIENCE_SECONDS = 5
CONNECTION_ERRORS = (pika.exceptions.AMQPError, OSError, AssertionError)


def parameters(urls: Sequence[str]) -> list[pika.URLParameters]:
    """Connection parameters with time limits of a few seconds, one for each URL.

    Raises:
      BrokerError: a URL cannot be read.
    """
    found = []
    for url in urls:
        try:
            one = pika.URLParameters(url)
        except (ValueError, TypeError):  # what is wrong with it may quote the password
            raise BrokerError(
                "CALLBOARD_BROKER_URL holds a URL that cannot be read: use amqp://user:password@host, "
                "with %2F for a slash in the password"
            ) from None
        one.heartbeat = HEARTBEAT_SECONDS
        one.blocked_connection_timeout = PATIENCE_SECONDS
        one.socket_timeout = PATIENCE_SECONDS
        one.stack_timeout = PATIENCE_SECONDS
        one.connection_attempts = 1
        found.append(one)
    return found


def declarations(queue: str, queue_type: str) -> list[tuple[str, dict[str, Any]]]:
    """The queues behind one name, with their arguments: the dead letters' first, then the queue itself."""
    dead: dict[str, Any] = {"x-message-ttl": DEAD_MESSAGE_TTL_MS}
    work: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": xq_name(queue)}
    if queue_type == "quorum":
        # The janitor looks at what lies there, and each look counts as a delivery.
        dead |= {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}
        work |= {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    else:
        work |= {"x-max-priority": MOST_PRIORITY, "x-queue-version": 2}
    return [(xq_name(queue), dead), (queue, work)]


def connect(urls: Sequence[pika.URLParameters]) -> Any:
    """A new blocking connection to the first URL that answers (pika's, which has no types).

    Raises:
      ConnectionClosed: none does; Dramatiq tries again.
    """
    try:
        return pika.BlockingConnection(list(urls))
    except CONNECTION_ERRORS as error:
        raise lost(error) from None


def lost(error: BaseException) -> ConnectionClosed:
    """The error that tells Dramatiq to connect again."""
    return ConnectionClosed(error)  # type: ignore[no-untyped-call]


def message_counts(connection: Any, names: Sequence[str]) -> dict[str, int]:
    """RabbitMQ's own counts of the ready messages of queues; one that does not exist is left out.

    Raises:
      AMQPError, OSError: the connection is lost.
    """
    found: dict[str, int] = {}
    channel = connection.channel()
    for name in names:
        try:
            found[name] = channel.queue_declare(name, passive=True).method.message_count
        except pika.exceptions.ChannelClosedByBroker:  # that is how it says that there is none
            channel = connection.channel()
    channel.close()
    return found
