"""How late 10,000 schedules are that are all due in the same second, with one clock and with three."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.ids import new_id
from tasks.ledger.schedules import Make
from tasks.schedule_records import Definition
from tests.benchmarks.outcome import Outcome, table
from tests.support.processes import Installation, installation
from tests.support.servers import postgres_server, rabbitmq_server
from tests.support.waiting import eventually

SCHEDULES = 10_000
FAR = datetime(2100, 1, 1, tzinfo=UTC)

_DUE = """
WITH due AS (SELECT date_trunc('second', now()) + interval '4 s' AS at)
UPDATE schedules SET next_fire = due.at, next_run_at = due.at FROM due RETURNING next_fire"""
_FIRED = "SELECT count(*) FROM fires"
_LATE = "SELECT max(late), percentile_cont(0.5) WITHIN GROUP (ORDER BY late) FROM fires"


def run(folder: Path) -> Outcome:
    """Measure both brokers; ``folder`` is not needed."""
    figures: dict[str, Any] = {}
    with postgres_server() as postgres_url, rabbitmq_server() as node:
        for broker, url in (("embedded", None), ("rabbitmq", node.url)):
            for clocks in (1, 3):
                figures[f"{broker}, {clocks} clocks"] = measure(postgres_url, url, clocks)
    rows = [
        [name, f"{one['p50']:.2f}", f"{one['max']:.2f}", f"{one['seen']:.2f}"]
        for name, one in figures.items()
    ]
    return Outcome(
        table(["10,000 schedules", "late p50, s", "max, s", "all committed after, s"], rows), figures
    )


def measure(postgres_url: str, broker_url: str | None, clocks: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        make_all(board, SCHEDULES)
        for _ in range(clocks):
            board.start_clock()
        kinds = "SELECT count(*) FROM workers WHERE kind = 'clock'"
        eventually(lambda: board.value(kinds) == clocks, 30)
        time.sleep(1)
        due = board.value(_DUE)
        eventually(lambda: board.value(_FIRED) >= SCHEDULES, 60)
        seen = board.value("SELECT extract(epoch FROM clock_timestamp() - %s)::float8", due)
        worst, median = board.rows(_LATE)[0]
        assert board.value("SELECT count(*) FROM tasks") == SCHEDULES
        return {"p50": median, "max": worst, "seen": seen}


def make_all(board: Installation, count: int) -> None:
    """Schedules of different expressions, none of which is due soon by itself."""
    answers = []
    for number in range(count):
        asked = Definition(
            name=f"schedule-{number}",
            task_type="benchmark",
            cron_expr=f"{number % 60} {number // 60 % 24} {1 + number // 1440} 1 *",
            timezone=("UTC", "Europe/Berlin", "America/New_York")[number % 3],
        )
        next_fire = FAR
        answers.append(board.kit.ledger.make_schedule(Make(new_id(), asked, next_fire, next_fire)))
    for answer in answers:
        answer.result(60)
