"""Celery on RabbitMQ, its results in Postgres.

``python -m celery -A tests.benchmarks.peers.celery_app worker`` works, ``python -m … enqueue 1000`` submits.
"""

import os
import sys

from celery import Celery

QUEUE = "peer_celery"

app = Celery("peer", broker=os.environ["PEER_BROKER_URL"])
app.conf.update(
    result_backend="db+" + os.environ["PEER_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"),
    task_default_queue=QUEUE,
    worker_prefetch_multiplier=int(os.environ["PEER_PREFETCH"]),
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


def _noop() -> None:
    """Do nothing."""


noop = app.task(_noop, name="noop")

if __name__ == "__main__":
    app.backend.ResultSession().close()  # creates the tables
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(int(sys.argv[2])):
            noop.apply_async(producer=producer)
