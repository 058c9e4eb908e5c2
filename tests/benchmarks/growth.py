"""How the rates change with what is on record: a million tasks that are over, or that wait; queues; payloads.

Every point is measured on a fresh copy of its record, on both brokers: how many tasks a second are accepted
in batches of 1,000 and one by one from 16 threads, and how many two worker processes complete of a backlog.
The points of a round follow each other; each rate is compared with that of the empty record in its round.

In the environment: ``FILL=20000`` fills fewer, ``ROUNDS=1`` measures once, ``POINTS="empty finished"`` and
``BROKERS=embedded`` measure some.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from actors.submission import Order
from tasks.ids import new_id
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.records import add_finished, add_queued, templates
from tests.support.processes import Installation, installation
from tests.support.servers import postgres_server, rabbitmq_server
from tests.support.waiting import eventually

TASKS, ROUNDS = 1_000_000, 3
BATCH, SUBMITTERS = 1_000, 16
PROCESSES, THREADS = 2, 8
SUBMIT_SECONDS, WARM_SECONDS, WORK_SECONDS = 2.0, 1.0, 4.0
#: Until then the pages of a copied record, of which a large one has many, are read for the first time.
COLD_SECONDS: Final = 4.0
#: More than are completed in the time.
BACKLOG: Final = 80_000
PATIENCE_SECONDS: Final = 60.0
#: What each rate must be of that of the empty record.
LEAST: Final = 0.9
RATES: Final = {"batch": "by batch", "single": "one by one", "work": "completed"}

# A look at the statistics: one at all tasks would keep the workers waiting.
_DONE = """
SELECT coalesce(sum(count), 0) FROM (
    SELECT count FROM statistics WHERE everyone AND level = 'all' AND status = 'completed'
    UNION ALL SELECT count FROM tallies WHERE status = 'completed') AS known"""
_COMPLETED = """
SELECT count(*) FILTER (WHERE finished_at BETWEEN %s AND %s), count(*) FILTER (WHERE finished_at > %s)
FROM task_state WHERE status = 'completed'"""


class Point(msgspec.Struct, frozen=True):
    """What is measured: on which record, over so many queues, with payloads of so many bytes.

    ``limited``: its rates have to be as those of the empty record.
    """

    name: str
    record: str = "empty"
    queues: int = 1
    payload: int = 0
    backlog: int = BACKLOG
    limited: bool = False

    @property
    def queue_names(self) -> list[str]:
        return ["default"] if self.queues == 1 else [f"queue_{number}" for number in range(self.queues)]


POINTS: Final = (
    Point("empty"),
    Point("finished", "finished", limited=True),
    Point("queued-elsewhere", "queued-elsewhere", limited=True),
    Point("queued-here", "queued-here", backlog=0, limited=True),
    Point("10-queues", queues=10),
    Point("1000-queues", queues=1_000),
    Point("1KB", payload=1_000),
    Point("1MB", payload=1_000_000, backlog=2_400),
)
Figures = dict[str, dict[str, list[float]]]


def run(folder: Path) -> Outcome:
    """Fill the records and measure; ``folder`` is not needed."""
    count = int(os.environ.get("FILL", TASKS))
    rounds = int(os.environ.get("ROUNDS", ROUNDS))
    points = [one for one in POINTS if one.name in _named("POINTS", [one.name for one in POINTS])]
    fills: dict[str, Callable[[str], None]] = {
        "empty": lambda _: None,
        "finished": partial(add_finished, count=count),
        "queued-elsewhere": partial(add_queued, count=count, queues=["elsewhere"]),
        "queued-here": partial(add_queued, count=count, queues=["default"]),
    }
    needed = {one.record: fills[one.record] for one in points}
    figures: dict[str, Figures] = {}
    with (
        postgres_server(durable=True) as server,
        rabbitmq_server() as node,
        templates(server, needed) as names,
    ):
        brokers = {"embedded": None, "rabbitmq": node.url}
        for _ in range(rounds):
            for broker in _named("BROKERS", list(brokers)):
                for point in points:
                    rates = measure(server, brokers[broker], names[point.record], point)
                    kept = figures.setdefault(broker, {}).setdefault(point.name, {})
                    for name, rate in rates.items():
                        kept.setdefault(name, []).append(rate)
    return Outcome(report(figures, count, rounds), figures)


def _named(variable: str, names: Sequence[str]) -> list[str]:
    chosen = os.environ.get(variable, "").split()
    return [name for name in names if not chosen or name in chosen]


def measure(server: str, broker_url: str | None, template: str, point: Point) -> dict[str, float]:
    """The rates at one point, in tasks a second."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(server, broker_url, Path(folder), template=template) as board,
    ):
        submitting = _submitting(board, point)
        if point.backlog:
            payload = msgspec.json.encode(_payload(point.payload)).decode()
            add_queued(board.database_url, point.backlog, point.queue_names, payload)
        return submitting | {"work": _work(board)}


def _payload(size: int) -> dict[str, str]:
    return {"text": "callboard "[: size % 10] + "callboard " * (size // 10)} if size else {}


def _submitting(board: Installation, point: Point) -> dict[str, float]:
    queues = cycle(point.queue_names)
    payload = _payload(point.payload)

    def some(count: int) -> list[Any]:
        orders = [
            Order(task_type="benchmark", id=new_id(), queue_name=next(queues), payload=payload)
            for _ in range(count)
        ]
        return [board.kit.submission.prepare(order) for order in orders]

    size = min(BATCH, max(1, 20_000_000 // (point.payload + 1)))
    _by_batch(board, partial(some, size), COLD_SECONDS)
    return {"batch": _by_batch(board, partial(some, size)), "single": _one_by_one(board, partial(some, 1))}


def _by_batch(board: Installation, some: Callable[[], list[Any]], seconds: float = SUBMIT_SECONDS) -> float:
    """The time that counts is the record's own: what is submitted was prepared before."""
    passed, count = 0.0, 0
    while passed < seconds:
        prepared = some()
        began = time.perf_counter()
        board.kit.submission.record(prepared).result(PATIENCE_SECONDS)
        passed += time.perf_counter() - began
        count += len(prepared)
    return count / passed


def _one_by_one(board: Installation, some: Callable[[], list[Any]]) -> float:
    counts: list[int] = []
    began = time.perf_counter()

    def submit() -> None:
        count = 0
        while time.perf_counter() - began < SUBMIT_SECONDS:
            board.kit.submission.record(some()).result(PATIENCE_SECONDS)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=submit) for _ in range(SUBMITTERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def _work(board: Installation) -> float:
    """Tasks that workers complete in a second, in the middle of a backlog."""
    before = board.value(_DONE)
    board.start_clock()
    board.start_workers(PROCESSES, threads=THREADS)
    eventually(lambda: board.value(_DONE) > before, PATIENCE_SECONDS)
    time.sleep(WARM_SECONDS)
    since = board.value("SELECT now()")
    time.sleep(WORK_SECONDS)
    until = board.value("SELECT now()")
    time.sleep(0.2)
    in_time, later = board.rows(_COMPLETED, since, until, until)[0]
    if not later:
        raise AssertionError(f"after {in_time} tasks nothing more was completed: the backlog is too small")
    return float(in_time / (until - since).total_seconds())


def report(figures: dict[str, Figures], count: int, rounds: int) -> str:
    """A row for each broker and point: rates, and their ratios to those of the empty record."""
    header = ["broker, point", *(f"{name}/s" for name in RATES.values())]
    header += [f"÷ empty: {name}" if not at else name for at, name in enumerate(RATES.values())] + [""]
    limited = {one.name for one in POINTS if one.limited}
    rows = []
    for broker, points in figures.items():
        empty = points.get("empty", {})
        for point, rates in points.items():
            ratios = [[a / b for a, b in zip(rates[name], empty.get(name, []))] for name in RATES]  # noqa: B905
            low = point in limited and any(median(some) < LEAST for some in ratios if some)
            shown = [
                f"{median(some):.2f} ({min(some):.2f}–{max(some):.2f})" if some else "" for some in ratios
            ]
            row = [f"{broker}, {point}", *(f"{median(rates[name]):,.0f}" for name in RATES), *shown]
            rows.append([*row, f"below {LEAST}" if low else ""])
    return f"{table(header, rows)}\n\nRecords of {count:,} tasks; medians of {rounds} rounds (least–most)."
