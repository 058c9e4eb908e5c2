"""How many no-op tasks two worker processes complete and record in a second, submitted by batch.

Both brokers, one after the other; the clock starts at the submission and stops with the last task.
"""

import tempfile
import time
from pathlib import Path

from actors.submission import Order
from tests.benchmarks.outcome import Outcome, table
from tests.support.processes import Installation, installation
from tests.support.servers import postgres_server, rabbitmq_server
from tests.support.waiting import eventually

TASKS, BATCH = 20_000, 5_000
PROCESSES, THREADS = 2, 8
WARM_UP = 500


def run(folder: Path) -> Outcome:
    """Measure both brokers; ``folder`` is not needed."""
    with postgres_server() as postgres_url, rabbitmq_server() as node:
        rates = {
            "embedded": _rate(postgres_url, None),
            "rabbitmq": _rate(postgres_url, node.url),
        }
    rows = [[name, f"{rate:,.0f}"] for name, rate in rates.items()]
    return Outcome(table(["no-op tasks, 2 processes × 8 threads", "tasks/s"], rows), rates)


def _rate(postgres_url: str, broker_url: str | None) -> float:
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        board.start_clock()
        board.start_workers(PROCESSES, threads=THREADS)
        _submit(board, WARM_UP)
        _all_done(board)
        started = time.monotonic()
        for _ in range(TASKS // BATCH):
            _submit(board, BATCH)
        _all_done(board)
        return TASKS / (time.monotonic() - started)


def _submit(board: Installation, count: int) -> None:
    board.submit_all([Order(task_type="benchmark") for _ in range(count)])


def _all_done(board: Installation) -> None:
    unfinished = "SELECT EXISTS (SELECT FROM task_state WHERE status IN ('queued', 'running'))"
    eventually(lambda: not board.value(unfinished), 120)
