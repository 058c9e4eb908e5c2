"""How late 10,000 schedules are that are all due in the same second, with one clock and with three."""

import tempfile
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
ZONES = ("UTC", "Europe/Berlin", "America/New_York")
FAR = datetime(2100, 1, 1, tzinfo=UTC)

_DUE = """
WITH due AS (SELECT date_trunc('second', now()) + interval '5 s' AS at)
UPDATE schedules SET next_fire = due.at, next_run_at = due.at FROM due RETURNING next_fire"""
_LATE = "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY late), max(late) FROM fires"
_SINCE = "SELECT extract(epoch FROM clock_timestamp() - %s)::float8"
_CLOCKS = "SELECT count(*) FROM workers WHERE kind = 'clock'"


def run(folder: Path) -> Outcome:
    """Measure both brokers; ``folder`` is not needed."""
    figures: dict[str, Any] = {}
    with postgres_server() as postgres_url, rabbitmq_server() as node:
        for broker, url in (("embedded", None), ("rabbitmq", node.url)):
            for clocks in (1, 3):
                figures[f"{broker}, {clocks} clocks"] = measure(postgres_url, url, clocks)
    rows = [
        [name, f"{one['p50']:.2f}", f"{one['max']:.2f}", f"{one['over']:.2f}"]
        for name, one in figures.items()
    ]
    return Outcome(table(["10,000 schedules", "late, s: p50", "most", "all committed after"], rows), figures)


def measure(
    postgres_url: str, broker_url: str | None, clocks: int, count: int = SCHEDULES
) -> dict[str, float]:
    """Seconds after the time at which all are due: the median and the last fire, and the last commit."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(postgres_url, broker_url, Path(folder)) as board,
    ):
        _make_all(board, count)
        for _ in range(clocks):
            board.start_clock()
        eventually(lambda: board.value(_CLOCKS) == clocks, 30)
        due = board.value(_DUE)
        eventually(lambda: board.value("SELECT count(*) FROM fires") >= count, 60)
        over = board.value(_SINCE, due)
        assert board.value("SELECT count(*) FROM tasks") == count
        median, most = board.rows(_LATE)[0]
        return {"p50": median, "max": most, "over": over}


def _make_all(board: Installation, count: int) -> None:
    """Schedules with expressions of their own, none of which is due soon by itself."""
    answers = []
    for number in range(count):
        asked = Definition(
            name=f"number-{number}",
            task_type="benchmark",
            cron_expr=f"{number % 60} {number // 60 % 24} {1 + number // 1_440} 1 *",
            timezone=ZONES[number % len(ZONES)],
        )
        answers.append(board.kit.ledger.make_schedule(Make(new_id(), asked, FAR, FAR)))
    for answer in answers:
        answer.result(60)
