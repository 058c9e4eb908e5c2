"""A plain dramatiq application: its RabbitmqBroker, the default middleware, actors that note what they do.

The workers are ``python -m dramatiq tests.faults.peers.app``.
"""

import os
import signal
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.faults.peers.sink import Sink

sink = Sink(Path(os.environ["PEERS_SINK"]))
broker = RabbitmqBroker(
    url=os.environ["PEERS_BROKER_URL"], confirm_delivery=os.environ["PEERS_CONFIRM"] == "yes"
)
dramatiq.set_broker(broker)


@dramatiq.actor
def work(key: int, seconds: float) -> None:
    sink.write("start", key)
    time.sleep(seconds)
    sink.write("end", key)


@dramatiq.actor(min_backoff=1000, max_backoff=1000)
def fail_once(key: int, seconds: float) -> None:
    sink.write("start", key)
    time.sleep(seconds)
    if key not in sink.keys("fail"):
        sink.write("fail", key)
        raise RuntimeError("the first run fails")
    sink.write("end", key)


@dramatiq.actor
def kill(key: int, seconds: float) -> None:
    sink.write("start", key)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
