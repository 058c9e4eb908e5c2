"""The Dramatiq broker on RabbitMQ. Its consumers yield only what they have claimed; publishing is the
dispatcher's work, because a message that is not on record must not exist."""

from typing import Any

from dramatiq import Broker, Message

from actors.errors import BrokerError
from actors.rabbitmq.consumer import Intake, RabbitConsumer


class RabbitBroker(Broker):
    """A Dramatiq broker for workers; what its consumers need to know is their ``intake``."""

    def __init__(self, intake: Intake) -> None:
        super().__init__(middleware=[])
        self.intake = intake
        self.queues: set[str] = set()
        self._consumers: dict[str, RabbitConsumer] = {}

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 1_000) -> RabbitConsumer:
        """A consumer on a connection of its own; the queues behind the name are declared first."""
        consumer = RabbitConsumer(self.intake, queue_name, prefetch, timeout / 1_000)
        self._consumers[queue_name] = consumer
        return consumer

    def declare_queue(self, queue_name: str) -> None:
        """Serve a queue from now on; it is created on RabbitMQ by its consumer."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def declare_actor(self, actor: Any) -> None:
        """Know a type from now on."""
        super().declare_actor(actor)
        self.intake.types.add(actor.actor_name)

    def get_declared_queues(self) -> set[str]:
        """The queues that are served."""
        return self.queues.copy()

    def stop_consuming(self) -> None:
        """Take nothing in from now on; consumers that wait for messages hear of it at once."""
        self.intake.stopping.set()
        for consumer in list(self._consumers.values()):
            consumer.wake()

    def enqueue(self, message: "Message[Any]", *, delay: int | None = None) -> "Message[Any]":
        """Refused: work is submitted to the record, never enqueued beside it."""
        raise BrokerError("tasks are submitted, not enqueued: use submit() or POST /tasks")
