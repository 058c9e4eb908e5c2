"""Plain dramatiq: RabbitMQ with confirms and the default middleware; it records nothing, so the actors count.

``python -m dramatiq tests.benchmarks.peers.dramatiq_app`` works, ``python -m … enqueue 1000`` submits, and
``python -m … produce 50 500 100`` submits 50 a second, 500 of them, of which the first 100 are a warm-up.
"""

import os
import sys
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.benchmarks.peers.stamps import Stamps, paced

QUEUE = "peer_dramatiq"

stamps = Stamps(Path(os.environ["PEER_FOLDER"]))
# Whoever fills the queue before a measurement waits for no confirms; everybody else has them on.
fills = len(sys.argv) > 1 and sys.argv[1] == "enqueue"
broker = RabbitmqBroker(url=os.environ["PEER_BROKER_URL"], confirm_delivery=not fills)
dramatiq.set_broker(broker)


def _noop() -> None:
    stamps.note(time.time())


def _timed(sent: float) -> None:
    now = time.time()
    if sent:
        stamps.note(now - sent)


noop = dramatiq.actor(actor_name="noop", queue_name=QUEUE)(_noop)
timed = dramatiq.actor(actor_name="timed", queue_name=QUEUE)(_timed)


def main(verb: str, *numbers: int) -> None:
    """Submit."""
    if verb == "enqueue":
        for _ in range(numbers[0]):
            noop.send()
    else:
        for sent in paced(*numbers):
            timed.send(sent)
    broker.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
