"""Oban on Postgres, on uvloop and orjson as its own command has it, without that command's log line a job.

``python -m tests.benchmarks.peers.oban_app work`` is a worker, ``… enqueue 1000`` submits.
"""

import asyncio
import os
import sys
from typing import Any

import orjson
import uvloop
from oban import Oban, worker
from oban.schema import install
from psycopg.types.json import set_json_dumps, set_json_loads

BATCH = 1_000


class Noop:
    """The job."""

    async def process(self, _: Any) -> None:
        """Do nothing."""


NoopWorker = worker(queue="default")(Noop)


async def work() -> None:
    """Work until the process is ended."""
    pool = await Oban.create_pool(os.environ["PEER_DATABASE_URL"])
    async with Oban(pool=pool, queues={"default": int(os.environ["PEER_LIMIT"])}):
        await asyncio.Event().wait()


async def enqueue(count: int) -> None:
    """Create the tables and submit."""
    pool = await Oban.create_pool(os.environ["PEER_DATABASE_URL"])
    await install(pool)
    oban = Oban(pool=pool)
    for start in range(0, count, BATCH):
        await oban.enqueue_many(NoopWorker.new() for _ in range(min(BATCH, count - start)))
    await pool.close()


if __name__ == "__main__":  # the job's name is "__main__.Noop" for who submits and for who works
    set_json_dumps(orjson.dumps)
    set_json_loads(orjson.loads)
    uvloop.run(work() if sys.argv[1] == "work" else enqueue(int(sys.argv[2])))
