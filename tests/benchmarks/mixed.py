"""How many no-op tasks a second are submitted over HTTP by batch, worked off and recorded, all at once.

An API, a clock and two worker processes on a real RabbitMQ and a Postgres that waits for the disk. Measured
from the first request to the end of the last task. ``ROUNDS=5`` in the environment measures more often.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.http_load import drive
from tests.benchmarks.http_servers import Place, callboard, callboard_api, place
from tests.benchmarks.outcome import Outcome, table
from tests.support.waiting import eventually

ROUNDS, BATCHES, BATCH, CONNECTIONS = 3, 20, 1_000, 2
PROCESSES, THREADS = 2, 8
_UNFINISHED = (
    "SELECT count(*) FROM (SELECT FROM task_state WHERE status IN ('queued', 'running') LIMIT 1) AS one"
)
_COMPLETED = "SELECT count(*) FROM task_state WHERE status = 'completed'"


def run(folder: Path) -> Outcome:
    """Submit, wait for the end, and check that all were completed; ``folder`` is not needed."""
    rounds = int(os.environ.get("ROUNDS", ROUNDS))
    workers = ["worker", "--processes", str(PROCESSES), "--threads", str(THREADS)]
    with tempfile.TemporaryDirectory() as data, place(Path(data)) as at:
        with (
            callboard_api(at) as address,
            callboard(at, "pipelines.clock"),
            callboard(at, "api.cli", *workers, "--queues", at.queue),
        ):
            _round(at, address, 1)
            took = [_round(at, address, BATCHES) for _ in range(rounds)]
        assert at.count(_COMPLETED) == (1 + BATCHES * rounds) * BATCH, "some tasks were not completed"
        versions = at.versions()
    submitted, done = ([BATCHES * BATCH / one[which] for one in took] for which in (0, 1))
    rows = [
        [name, f"{median(rates):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"]
        for name, rates in (("submitted", submitted), ("submitted and completed", done))
    ]
    report = table([f"by batch of {BATCH:,}, 2 processes × 8 threads", "tasks/s", "spread"], rows)
    return Outcome(report, {"submitted": submitted, "completed": done, "rate": median(done)}, versions)


def _round(at: Place, address: str, batches: int) -> tuple[float, float]:
    """Seconds until the last batch was accepted, and until the last task was done."""
    task = {"task_type": "benchmark", "payload": {"number": 1}, "queue_name": at.queue}
    body = json.dumps({"tasks": [task] * BATCH}).encode()
    began = time.monotonic()
    load = drive(
        f"{address}/api/v1/tasks/batch", body, connections=min(CONNECTIONS, batches), requests=batches
    )
    assert load.accepted == batches
    eventually(lambda: at.count(_UNFINISHED) == 0, 60)
    return load.seconds, time.monotonic() - began
