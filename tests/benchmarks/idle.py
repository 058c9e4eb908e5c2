"""What processes at rest cost: shares of a core while nothing is to be done, by how many queues there are.

``QUEUES=100`` measures with so many queues alone, ``SECONDS=5`` for a shorter time.
"""

import os
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.processors import used
from tests.support.processes import installation
from tests.support.servers import free_port, postgres_server, rabbitmq_server
from tests.support.waiting import eventually

COUNTS = {"embedded": (1, 100, 1_000), "rabbitmq": (1, 100, 300)}
SECONDS, THREADS, REST_SECONDS, PATIENCE_SECONDS = 15.0, 8, 5.0, 90.0

_MORE = "INSERT INTO queues (name) SELECT 'quiet-' || n FROM generate_series(1, %s) AS n RETURNING name"
_SERVED = "SELECT max(cardinality(queues)) FROM workers WHERE kind = 'worker'"


def run(folder: Path) -> Outcome:
    """Measure both brokers; ``folder`` is not needed."""
    only = os.environ.get("QUEUES")
    figures: dict[str, dict[str, float]] = {}
    with postgres_server() as postgres_url, rabbitmq_server() as node:
        for broker, url in (("embedded", None), ("rabbitmq", node.url)):
            for queues in [int(only)] if only else COUNTS[broker]:
                figures[f"{broker}, {queues:,}"] = _measure(postgres_url, url, queues)
    return Outcome(report(figures), figures)


def _measure(postgres_url: str, broker_url: str | None, queues: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        board.rows(_MORE, queues - 1)
        processes = {
            "worker": board.start_worker(threads=THREADS).pid,
            "clock": board.start_clock().pid,
            "api": board.start_api(free_port()).pid,
        }
        eventually(lambda: (board.value(_SERVED) or 0) >= queues, PATIENCE_SECONDS)
        time.sleep(REST_SECONDS)
        seconds = float(os.environ.get("SECONDS", SECONDS))
        before, began = used(board, processes), time.monotonic()
        time.sleep(seconds)
        after, passed = used(board, processes), time.monotonic() - began
        shares = {kind: 100 * (after[kind] - before[kind]) / passed for kind in after}
        return shares | {"worker_rss": psutil.Process(processes["worker"]).memory_info().rss / 1e6}


def report(figures: dict[str, dict[str, float]]) -> str:
    """A row for each broker and number of queues."""
    kinds = ("worker", "clock", "api", "postgres", "rabbitmq")
    header = ["at rest, % of a core", *kinds, "worker, MB"]
    rows = [
        [name, *(f"{shares[kind]:.1f}" for kind in kinds), f"{shares['worker_rss']:.0f}"]
        for name, shares in figures.items()
    ]
    return (
        f"{table(header, rows)}\n\nOne worker of {THREADS} threads, a clock and an API that nobody asks for"
        " anything. Postgres: the connections of ours; RabbitMQ: all nodes of the machine."
    )
