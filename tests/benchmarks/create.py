"""How many tasks the API accepts in a second, one by one and by batch, beside one that groups nothing.

Every task is committed with ``synchronous_commit`` before its 202. The API is what ``callboard api`` runs, on
a real RabbitMQ and a Postgres that waits for the disk; no worker takes anything away. The application of
`tests.benchmarks.per_request` gets the same requests in turn with it. ``ROUNDS=5`` and ``SECONDS=8`` in the
environment measure longer.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.http_load import Load, drive
from tests.benchmarks.http_servers import Place, callboard_api, per_request_app, place
from tests.benchmarks.outcome import Outcome, table

ROUNDS, SECONDS, WARM_UP_SECONDS = 3, 4.0, 1.0
CONNECTIONS = (16, 64)
BATCH, BATCH_CONNECTIONS = 1_000, 2
TASK = {"task_type": "benchmark", "payload": {"number": 1, "text": "what is to be done"}}
_OURS = "SELECT count(*) FROM tasks JOIN task_state USING (id) WHERE queue_name = %s"
_THEIRS = "SELECT count(*) FROM per_request_tasks"
_SENT = "SELECT count(*) FROM task_state WHERE dispatch IS NOT NULL"


def run(folder: Path) -> Outcome:
    """Measure in turn, and check that what was accepted is on record; ``folder`` is not needed."""
    rounds, seconds = int(os.environ.get("ROUNDS", ROUNDS)), float(os.environ.get("SECONDS", SECONDS))
    with tempfile.TemporaryDirectory() as data, place(Path(data)) as at:
        with callboard_api(at) as ours, per_request_app(at) as theirs:
            loads = _measure(at, ours, theirs, rounds, seconds)
        versions = at.versions()
    return Outcome(_report(loads), {name: _figures(ones) for name, ones in loads.items()}, versions)


def _measure(
    at: Place, ours: str, theirs: str, rounds: int, seconds: float
) -> dict[str, list[tuple[int, Load]]]:
    """The loads of all rounds by their names, each with the number of tasks of one request."""
    one = json.dumps({**TASK, "queue_name": at.queue}).encode()
    many = json.dumps({"tasks": [{**TASK, "queue_name": at.queue}] * BATCH}).encode()
    plans = []
    for connections in CONNECTIONS:
        plans.append((f"one by one, {connections}", f"{ours}/api/v1/tasks", one, connections, 1))
        plans.append((f"per request, {connections}", f"{theirs}/tasks", one, connections, 1))
    plans.append((f"by batch of {BATCH:,}", f"{ours}/api/v1/tasks/batch", many, BATCH_CONNECTIONS, BATCH))
    loads: dict[str, list[tuple[int, Load]]] = {name: [] for name, *_ in plans}
    accepted = {ours: 0, theirs: 0}
    for nth in range(rounds + 1):
        for name, url, body, connections, size in plans:
            lasting = seconds if nth else WARM_UP_SECONDS
            load = drive(url, body, connections=connections, seconds=lasting)
            accepted[ours if url.startswith(ours) else theirs] += size * load.accepted
            if nth:
                loads[name].append((size, load))
    _check(at, accepted[ours], accepted[theirs])
    return loads


def _check(at: Place, ours: int, theirs: int) -> None:
    """Whether what was accepted is on record, and what was to be published is on RabbitMQ."""
    sent = at.count(_SENT)
    found = {
        "our tasks": (at.count(_OURS, at.queue), ours),
        "their tasks": (at.count(_THEIRS), theirs),
        "our messages": (at.message_count(at.queue), sent),
        "their messages": (at.message_count(f"{at.queue}-per-request"), theirs),
    }
    wrong = [f"{have:,} {what} instead of {want:,}" for what, (have, want) in found.items() if have != want]
    if wrong or not sent:
        raise AssertionError(f"there are {', '.join(wrong) or 'no messages of ours'}")


def _figures(loads: Sequence[tuple[int, Load]]) -> dict[str, Any]:
    rates = [size * load.rate for size, load in loads]
    return {
        "rate": median(rates),
        "rates": rates,
        "p50_ms": median(load.percentile(0.5) for _, load in loads),
        "p99_ms": median(load.percentile(0.99) for _, load in loads),
        "load_cpu_share": median(load.cpu_seconds / load.seconds for _, load in loads),
    }


def _report(loads: dict[str, list[tuple[int, Load]]]) -> str:
    figures = {name: _figures(ones) for name, ones in loads.items()}
    rows = []
    for name, one in figures.items():
        beside = figures.get(name.replace("one by one", "per request"))
        ratio = f"{one['rate'] / beside['rate']:.1f} x" if beside not in (None, one) else ""
        rows.append(
            [
                name,
                f"{one['rate']:,.0f}",
                f"{min(one['rates']):,.0f}-{max(one['rates']):,.0f}",
                f"{one['p50_ms']:.1f}",
                f"{one['p99_ms']:.1f}",
                ratio,
            ]
        )
    return table(["accepted, connections", "tasks/s", "spread", "p50 ms", "p99 ms", "per request"], rows)
