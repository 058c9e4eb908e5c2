"""Plain dramatiq: RabbitMQ with confirms and the default middleware; it records nothing, so the actors count.

``python -m dramatiq tests.benchmarks.peers.dramatiq_app`` works, ``python -m … enqueue 1000`` submits.
"""

import os
import sys
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.benchmarks.peers.stamps import Stamps

QUEUE = "peer_dramatiq"

stamps = Stamps(Path(os.environ["PEER_FOLDER"]))
submits = len(sys.argv) > 1 and sys.argv[1] == "enqueue"
# Whoever fills the queue before the measurement waits for no confirms; whoever works has them on.
broker = RabbitmqBroker(url=os.environ["PEER_BROKER_URL"], confirm_delivery=not submits)
dramatiq.set_broker(broker)


def _noop() -> None:
    stamps.note(time.time())


noop = dramatiq.actor(actor_name="noop", queue_name=QUEUE)(_noop)


class Writing(dramatiq.Middleware):
    """Writes the times down in every worker process."""

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """The process has started."""
        stamps.start()


broker.add_middleware(Writing())

if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        noop.send()
    broker.close()
