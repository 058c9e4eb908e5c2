"""What a process weighs and how fast it starts: API, worker and clock, on both brokers.

``ROUNDS=1`` in the environment measures once, ``FILL=1000`` runs fewer tasks before the second weighing.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
import psutil

from tests.benchmarks.outcome import Outcome, table
from tests.support.processes import Installation, Running, installation
from tests.support.servers import free_port, postgres_server, rabbitmq_server

ROUNDS, TASKS, BATCH = 3, 10_000, 1_000
THREADS: Final = 8
REST_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 60.0
#: What a process may take to start, and weigh (see `_weight`).
MOST_SECONDS, MOST_MEGABYTES = 2.0, 100.0
STEP_SECONDS: Final = 0.005

_CLOCKS = "SELECT count(*) FROM workers WHERE kind = 'clock'"
_DONE = "SELECT status = 'completed' FROM task_state WHERE id = %s"
_LEFT = "SELECT count(*) FROM task_state WHERE status <> 'completed'"
Figures = dict[str, list[float]]


def run(folder: Path) -> Outcome:
    """Measure both brokers; ``folder`` is not needed."""
    rounds = int(os.environ.get("ROUNDS", ROUNDS))
    figures: dict[str, Figures] = {}
    with postgres_server() as postgres_url, rabbitmq_server() as node:
        for _ in range(rounds):
            for broker, url in (("embedded", None), ("rabbitmq", node.url)):
                for process, values in _measure(postgres_url, url).items():
                    kept = figures.setdefault(f"{process}, {broker}", {})
                    for name, value in values.items():
                        kept.setdefault(name, []).append(value)
    return Outcome(report(figures, rounds), figures)


def _measure(postgres_url: str, broker_url: str | None) -> dict[str, dict[str, float]]:
    """Start the three kinds of processes on a record that is up to date, and have them work."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        port = free_port()
        processes: dict[str, Running] = {}
        seconds = {}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            processes["api"], seconds["api"] = _started(
                lambda: board.start_api(port), lambda: _is_healthy(client)
            )
            processes["clock"], seconds["clock"] = _started(
                board.start_clock, lambda: board.value(_CLOCKS) == 1
            )
            first = board.submit("benchmark")
            processes["worker"], seconds["worker"] = _started(
                lambda: board.start_worker(threads=THREADS), lambda: bool(board.value(_DONE, first))
            )
            time.sleep(REST_SECONDS)
            fresh = {kind: _weight(process.pid) for kind, process in processes.items()}
            _work(board, client)
        used = {kind: _weight(process.pid) for kind, process in processes.items()}
        return {
            kind: {"start_s": seconds[kind]}
            | {f"fresh_{name}": value for name, value in fresh[kind].items()}
            | {f"used_{name}": value for name, value in used[kind].items()}
            for kind in processes
        }


def _started(start: Callable[[], Running], is_up: Callable[[], bool]) -> tuple[Running, float]:
    began = time.monotonic()
    process = start()
    while not is_up():
        if process.has_ended or time.monotonic() - began > PATIENCE_SECONDS:
            raise TimeoutError(f"{process.name} did not start: {process.log.read_text(errors='replace')}")
        time.sleep(STEP_SECONDS)
    return process, time.monotonic() - began


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _work(board: Installation, client: httpx.Client) -> None:
    """Submit tasks over HTTP and wait for their end."""
    count = _count()
    for first in range(0, count, BATCH):
        tasks = [{"task_type": "benchmark"} for _ in range(min(BATCH, count - first))]
        client.post("/api/v1/tasks/batch", json={"tasks": tasks}).raise_for_status()
    until = time.monotonic() + PATIENCE_SECONDS
    while board.value(_LEFT):
        if time.monotonic() > until:
            raise TimeoutError(f"{board.value(_LEFT)} of {count} tasks are not completed")
        time.sleep(0.1)
    time.sleep(REST_SECONDS)


def _count() -> int:
    return int(os.environ.get("FILL", TASKS))


def _weight(pid: int) -> dict[str, float]:
    """Megabytes: what is resident of the heaviest process, and of all of its family its part and its own.

    An API is two processes: gunicorn's arbiter, and what serves.
    """
    process = psutil.Process(pid)
    memory: list[Any] = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
    return {
        "rss": max(one.rss for one in memory) / 1e6,
        "pss": sum(getattr(one, "pss", one.rss) for one in memory) / 1e6,
        "uss": sum(one.uss for one in memory) / 1e6,
    }


def report(figures: dict[str, Figures], rounds: int) -> str:
    """A row for each kind of process and broker; medians."""
    header = ["process, broker", "started, s", "MB: RSS", "PSS", "USS", "then: RSS", "PSS", "USS", ""]
    weights = [f"{when}_{name}" for when in ("fresh", "used") for name in ("rss", "pss", "uss")]
    rows = []
    for name, values in sorted(figures.items()):
        middle = {key: median(some) for key, some in values.items()}
        fine = middle["start_s"] < MOST_SECONDS and middle["used_rss"] < MOST_MEGABYTES
        shown = [f"{middle[key]:.0f}" for key in weights]
        rows.append([name, f"{middle['start_s']:.2f}", *shown, "" if fine else "over the limit"])
    return (
        f"{table(header, rows)}\n\nLimits: {MOST_SECONDS:g} s, {MOST_MEGABYTES:g} MB resident. Medians of"
        f" {rounds} rounds, after the start and after {_count():,} tasks. A worker has started when its first"
        " task is completed."
    )
