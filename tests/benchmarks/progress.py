"""What a call of ``progress`` costs the actor: eight threads of one worker make 200 a second together."""

import tempfile
from pathlib import Path
from typing import Final

from actors.submission import Order
from tests.benchmarks.house import ended, house
from tests.benchmarks.outcome import Outcome, table

THREADS: Final = 8
CALLS_A_SECOND: Final = 200
SECONDS: Final = 10.0


def run(_: Path) -> Outcome:
    """Run it."""
    with tempfile.TemporaryDirectory() as folder, house(Path(folder)) as kit_and_workers:
        kit, start_worker = kit_and_workers
        start_worker(THREADS)
        talk = {"seconds": SECONDS, "rate": CALLS_A_SECOND / THREADS}
        orders = [Order(task_type="talker", payload=talk) for _ in range(THREADS)]
        kit.submission.record([kit.submission.prepare(order) for order in orders]).result(20)
        tasks = ended(kit, [order.id for order in orders], SECONDS + 60)
        took = sorted(seconds * 1_000 for task in tasks for seconds in task.result)
        shown = sum(event.kind == "progress" for task in tasks for event in kit.queries.history(task.task_id))
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    figures = {"calls": len(took), "shown": shown, "p50_ms": p50, "p99_ms": p99, "max_ms": took[-1]}
    row = [f"{len(took):,}", f"{shown:,}", f"{p50:.3f}", f"{p99:.3f}", f"{took[-1]:.3f}"]
    return Outcome(table(["calls", "shown in history", "p50 ms", "p99 ms", "max ms"], [row]), figures)
