"""How late the events of running tasks reach those who follow them, and whether the API still answers."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psutil

from actors.submission import Order
from pipelines.bootstrap import Kit
from tests.benchmarks.house import REPOSITORY, ended, house
from tests.benchmarks.outcome import Outcome, table
from tests.support.api import served

TASKS: Final = 50
STREAMS: Final = 200
SOCKETS: Final = 500
SECONDS: Final = 20.0
REPORTS_A_SECOND: Final = 2.0
HEALTH_EVERY: Final = 0.05


def run(_: Path) -> Outcome:
    """Run it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        house(Path(folder)) as (kit, start_worker),
        served(kit.settings) as (address, api),
    ):
        ids = _submit(kit)
        clients = _start_clients(address, ids)
        for _ in range(2):  # only now does anybody work on the tasks
            start_worker(TASKS // 2)
        used = psutil.Process(api.pid).children(recursive=True)
        answers = _ask_for_health(address, clients)
        cpu = sum(sum(process.cpu_times()[:2]) for process in used)
        delays = json.loads(clients.communicate()[0])
        ended(kit, ids, 30)
    return _outcome(sorted(delays), sorted(answers), cpu)


def _submit(kit: Kit) -> list[UUID]:
    talk = {"seconds": SECONDS, "rate": REPORTS_A_SECOND}
    orders = [Order(task_type="talker", payload=talk) for _ in range(TASKS)]
    kit.submission.record([kit.submission.prepare(order) for order in orders]).result(20)
    return [order.id for order in orders]


def _start_clients(address: str, ids: Sequence[UUID]) -> "subprocess.Popen[str]":
    """Start the clients and wait until all are connected."""
    url = urlsplit(address)
    asked: dict[str, Any] = {
        "host": url.hostname,
        "port": url.port,
        "streams": [str(ids[number % TASKS]) for number in range(STREAMS)],
        "sockets": [
            [str(ids[number % TASKS]), str(ids[(number * 7 + 1) % TASKS])] for number in range(SOCKETS)
        ],
    }
    clients = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.stream_clients", json.dumps(asked)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert clients.stdout is not None
    assert clients.stdout.readline() == "open\n"
    return clients


def _ask_for_health(address: str, clients: "subprocess.Popen[str]") -> list[float]:
    """Ask again and again while the tasks run; how long each answer took, in seconds."""
    took = []
    until = time.monotonic() + SECONDS + 5
    with httpx.Client(base_url=address, trust_env=False) as http:
        while time.monotonic() < until and clients.poll() is None:
            begun = time.perf_counter()
            http.get("/health").raise_for_status()
            took.append(time.perf_counter() - begun)
            time.sleep(HEALTH_EVERY)
    return took


def _outcome(delays: list[float], answers: list[float], cpu: float) -> Outcome:
    expected = round(TASKS * SECONDS * REPORTS_A_SECOND / TASKS) * (STREAMS + 2 * SOCKETS)
    figures = {
        "expected": expected,
        "received": len(delays),
        "delay_p50_ms": _at(delays, 0.5),
        "delay_p99_ms": _at(delays, 0.99),
        "health_p99_ms": _at(answers, 0.99),
        "api_cpu_s": cpu,
    }
    header = ["reports to clients", "received", "delay p50 ms", "p99 ms", "/health p99 ms", "API CPU s"]
    row = [f"{expected:,}", f"{len(delays):,}", *(f"{value:.1f}" for value in list(figures.values())[2:])]
    return Outcome(table(header, [row]), figures)


def _at(values: Sequence[float], share: float) -> float:
    return values[int(len(values) * share)] * 1_000
