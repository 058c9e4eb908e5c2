"""Taskiq on RabbitMQ, its results in Postgres.

``python -m taskiq worker tests.benchmarks.peers.taskiq_app:broker`` works, ``… enqueue 1000`` submits.
"""

import asyncio
import os
import sys

import asyncpg
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_pg.asyncpg import AsyncpgResultBackend

QUEUE = "peer_taskiq"
DATABASE_URL = os.environ["PEER_DATABASE_URL"]
BATCH = 500

broker = AioPikaBroker(
    os.environ["PEER_BROKER_URL"],
    qos=int(os.environ["PEER_PREFETCH"]),
    exchange=Exchange(name=QUEUE),
    task_queues=[Queue(name=QUEUE, type=QueueType.CLASSIC)],
    dead_letter_queue=Queue(name=f"{QUEUE}.dead", type=QueueType.CLASSIC),
).with_result_backend(AsyncpgResultBackend(DATABASE_URL, keep_results=True))


async def _noop() -> None:
    """Do nothing."""


noop = broker.task(task_name="noop")(_noop)


async def enqueue(count: int) -> None:
    """Create the tables and submit; the result's row is made to say when it was written."""
    await broker.startup()
    connection = await asyncpg.connect(DATABASE_URL)
    await connection.execute(
        "ALTER TABLE taskiq_results ADD COLUMN written_at timestamptz DEFAULT clock_timestamp()"
    )
    await connection.close()
    for start in range(0, count, BATCH):
        await asyncio.gather(*(noop.kiq() for _ in range(min(BATCH, count - start))))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[2])))
