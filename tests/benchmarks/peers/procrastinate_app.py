"""Procrastinate on Postgres.

``python -m tests.benchmarks.peers.procrastinate_app work`` is a worker, ``… enqueue 1000`` submits.
"""

import asyncio
import os
import sys

from procrastinate import App, PsycopgConnector

CONCURRENCY = int(os.environ["PEER_CONCURRENCY"])

connector = PsycopgConnector(conninfo=os.environ["PEER_DATABASE_URL"], min_size=1, max_size=CONCURRENCY + 2)
app = App(connector=connector)


async def _noop() -> None:
    """Do nothing."""


noop = app.task(_noop, name="noop")


async def work() -> None:
    """Work until the process is ended."""
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY)


async def enqueue(count: int) -> None:
    """Create the tables and submit."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await noop.batch_defer_async(*({} for _ in range(count)))


if __name__ == "__main__":
    asyncio.run(work() if sys.argv[1] == "work" else enqueue(int(sys.argv[2])))
