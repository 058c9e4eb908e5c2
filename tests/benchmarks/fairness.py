"""How long ten tasks of one tenant take alone, and beside another tenant's ten thousand, on both brokers."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tasks.values import NewTask
from tests.benchmarks.outcome import Outcome, table
from tests.support.processes import Installation, installation
from tests.support.servers import postgres_server, rabbitmq_server
from tests.support.waiting import eventually

FEW, MANY, ROUNDS = 10, 10_000, 5
PROCESSES, THREADS = 2, 4
WORK = {"no-op": ("benchmark", 0.0), "20 ms": ("work", 0.02), "0.5 s": ("work", 0.5)}

_COMPLETED = "SELECT count(*) FROM task_state WHERE status = 'completed' AND tenant = hashtext('many')"
_UNFINISHED = (
    "SELECT EXISTS (SELECT FROM task_state WHERE tenant = hashtext('few') AND status <> 'completed')"
)


def run(folder: Path) -> Outcome:
    """Measure both brokers and three kinds of work; ``folder`` is not needed."""
    figures: dict[str, Any] = {}
    with postgres_server() as postgres_url, rabbitmq_server() as node:
        for broker, url in (("embedded", None), ("rabbitmq", node.url)):
            with _board(postgres_url, url) as board:
                for work, (task_type, seconds) in WORK.items():
                    figures[f"{broker}, {work}"] = _compare(board, task_type, seconds)
    rows = [
        [name, f"{one['alone']:.0f}", f"{one['beside']:.0f}", f"{one['ratio']:.2f}"]
        for name, one in figures.items()
    ]
    return Outcome(table(["ten tasks", "alone, ms", "beside 10,000, ms", "ratio"], rows), figures)


@contextmanager
def _board(postgres_url: str, broker_url: str | None) -> Iterator[Installation]:
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        board.start_clock()
        board.start_workers(PROCESSES, threads=THREADS)
        board.all_finished([board.submit("benchmark") for _ in range(20)])
        yield board


def _compare(board: Installation, task_type: str, seconds: float) -> dict[str, float]:
    """Medians in milliseconds of several rounds."""
    alone = [_few(board, task_type, seconds) for _ in range(ROUNDS)]
    beside = []
    for _ in range(ROUNDS):
        _submit(board, task_type, seconds, MANY, "many")
        eventually(lambda: board.value(_COMPLETED) > 2 * PROCESSES * THREADS, 60)
        beside.append(_few(board, task_type, seconds))
        assert board.value("SELECT count(*) FROM task_state WHERE status = 'queued'") > 0, "too few"
        _forget(board)
    return {
        "alone": median(alone),
        "beside": median(beside),
        "ratio": median(beside) / median(alone),
    }


def _few(board: Installation, task_type: str, seconds: float) -> float:
    began = time.monotonic()
    _submit(board, task_type, seconds, FEW, "few")
    unfinished = (
        "SELECT EXISTS (SELECT FROM task_state WHERE tenant = hashtext('few') AND status <> 'completed')"
    )
    eventually(lambda: not board.value(unfinished), 120)
    took = time.monotonic() - began
    board.value("DELETE FROM task_state WHERE tenant = hashtext('few') RETURNING 1")
    return 1_000 * took


def _submit(board: Installation, task_type: str, seconds: float, count: int, user_id: str) -> None:
    payload = {"key": user_id, "seconds": seconds}
    some = [
        NewTask(task_type=task_type, queue_name="default", payload=payload, user_id=user_id)
        for _ in range(count)
    ]
    board.kit.ledger.submit(some).result(60)


def _forget(board: Installation) -> None:
    """Leave nothing of the many: what is on its way is dropped by the workers."""
    board.value("DELETE FROM task_state RETURNING 1")
    board.value("DELETE FROM tasks RETURNING 1")
