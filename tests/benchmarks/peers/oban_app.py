"""Oban on Postgres, on uvloop and orjson as its own command has it, without that command's log line a job.

``python -m tests.benchmarks.peers.oban_app work`` is a worker, ``… enqueue 1000`` submits, and
``… produce 50 500 100`` submits 50 a second, 500 of them, of which the first 100 are a warm-up.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson
import uvloop
from oban import Oban, worker
from oban.schema import install
from psycopg.types.json import set_json_dumps, set_json_loads

from tests.benchmarks.peers.stamps import Stamps, paced

BATCH = 1_000

stamps = Stamps(Path(os.environ["PEER_FOLDER"]))


class Noop:
    """The job."""

    async def process(self, _: Any) -> None:
        """Do nothing."""


class Timed:
    """The job that notes how long it waited."""

    async def process(self, job: Any) -> None:
        """Note it."""
        now = time.time()
        if sent := job.args["sent"]:
            stamps.note(now - sent)


NoopWorker = worker(queue="default")(Noop)
TimedWorker = worker(queue="default")(Timed)


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


async def produce(*numbers: int) -> None:
    """Submit one after the other, at a rate."""
    pool = await Oban.create_pool(os.environ["PEER_DATABASE_URL"])
    oban = Oban(pool=pool)
    for sent in paced(*numbers):  # nothing else is to run here meanwhile, so it may wait as it does
        await oban.enqueue(TimedWorker.new({"sent": sent}))
    await pool.close()


VERBS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "work": work,
    "enqueue": enqueue,
    "produce": produce,
}

if __name__ == "__main__":  # the jobs' names begin with "__main__." for who submits and for who works
    set_json_dumps(orjson.dumps)
    set_json_loads(orjson.loads)
    uvloop.run(VERBS[sys.argv[1]](*map(int, sys.argv[2:])))
