"""What one more core and one more worker buy, and where the time of a task goes.

A backlog of no-op tasks is worked off by one, two and three worker processes, with all processes and servers
on one core, and on two: how many tasks a second are completed, and how much processor time each kind of
process takes for one of them. The first quarter is the warm-up. ``ROUNDS=1`` in the environment measures
once, ``TASKS=10000`` fewer.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from actors.submission import Order
from tests.benchmarks.databases import settle
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.processors import used
from tests.support.processes import installation
from tests.support.servers import postgres_server, rabbitmq_server
from tests.support.waiting import eventually

ROUNDS, TASKS, BATCH, THREADS = 3, 24_000, 4_000, 8
WORKERS = (1, 2, 3)
PATIENCE_SECONDS = 60.0
KINDS = ("workers", "clock", "postgres", "rabbitmq")
Figures = dict[str, dict[str, list[float]]]

_LEFT = "SELECT count(*) FROM task_state WHERE status IN ('queued', 'running')"


def run(folder: Path) -> Outcome:
    """Measure on as many cores as there are, up to two; ``folder`` is not needed."""
    rounds = int(os.environ.get("ROUNDS", ROUNDS))
    cores = sorted(os.sched_getaffinity(0))
    figures: Figures = {}
    for _ in range(rounds):
        for count in range(1, min(2, len(cores)) + 1):
            with _on(cores[:count]), postgres_server(durable=True) as postgres, rabbitmq_server() as node:
                for broker, url in (("no broker", None), ("RabbitMQ", node.url)):
                    for workers in WORKERS:
                        kept = figures.setdefault(f"{broker}, cores: {count}, workers: {workers}", {})
                        for name, value in _measure(postgres, url, workers).items():
                            kept.setdefault(name, []).append(value)
    return Outcome(report(figures, rounds), figures)


@contextmanager
def _on(cores: list[int]) -> Iterator[None]:
    """Inside, whatever is started runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measure(postgres_url: str, broker_url: str | None, workers: int) -> dict[str, float]:
    """The rate in tasks a second, and microseconds of a processor for each task by kind of process."""
    tasks = int(os.environ.get("TASKS", TASKS))
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        for _ in range(0, tasks, BATCH):
            board.submit_all([Order(task_type="benchmark") for _ in range(BATCH)])
        settle(board.database_url)
        processes = {
            "clock": board.start_clock().pid,
            "workers": board.start_workers(workers, threads=THREADS).pid,
        }
        eventually(lambda: board.value(_LEFT) < tasks * 3 // 4, PATIENCE_SECONDS)
        before, left, began = used(board, processes), board.value(_LEFT), time.monotonic()
        eventually(lambda: board.value(_LEFT) < tasks // 10, PATIENCE_SECONDS)
        after, done, seconds = used(board, processes), left - board.value(_LEFT), time.monotonic() - began
        return {"rate": done / seconds} | {kind: 1e6 * (after[kind] - before[kind]) / done for kind in KINDS}


def report(figures: Figures, rounds: int) -> str:
    """A row for each broker, number of cores and number of workers."""
    rows = [
        [name, *(f"{median(values[key]):,.0f}" for key in ("rate", *KINDS))]
        for name, values in figures.items()
    ]
    header = ["no-op tasks", "tasks/s", *(f"{kind}, µs" for kind in KINDS)]
    return (
        f"{table(header, rows)}\n\nMedians of {rounds} rounds; microseconds are of a processor, for each"
        " task. Postgres: the connections of ours; RabbitMQ: all nodes of the machine."
    )
