"""What workers of ours complete and record: the tasks are on record before they start, as with the peers."""

import tempfile
import time
from pathlib import Path

from actors.submission import Order
from tests.benchmarks.databases import settle
from tests.support.processes import Installation, installation

PROCESSES, THREADS = 2, 8
BATCH = 5_000
SECONDS = 120
POLL_SECONDS = 0.25
FORMS = {"callboard, RabbitMQ": True, "callboard, no broker": False}
TASKS = 50_000
CONFIGURATION = f"{PROCESSES} processes × {THREADS} threads and a clock, as by default"

_UNFINISHED = "SELECT EXISTS (SELECT FROM task_state WHERE status <> 'completed')"
_TIMES = "SELECT extract(epoch FROM finished_at)::float8 FROM task_state"


def completions(postgres_url: str, broker_url: str | None, tasks: int) -> list[float]:
    """Let the workers work on so many tasks; when each of them was completed, in seconds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        for start in range(0, tasks, BATCH):
            board.submit_all([Order(task_type="benchmark") for _ in range(min(BATCH, tasks - start))])
        settle(board.database_url)
        board.start_clock()
        board.start_workers(PROCESSES, threads=THREADS)
        _wait(board)
        times = [float(at) for (at,) in board.rows(_TIMES)]
    assert len(times) == tasks, "a task was lost"
    return times


def _wait(board: Installation) -> None:
    until = time.monotonic() + SECONDS
    while board.value(_UNFINISHED):
        if time.monotonic() > until:
            board.show_logs()
            raise TimeoutError(f"our tasks were not completed within {SECONDS} s")
        time.sleep(POLL_SECONDS)
