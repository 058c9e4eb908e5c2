"""Runs benchmarks: ``python -m tests.benchmarks [names…]``, all of them without names.

Each one prints its report and leaves its figures in ``.bench/<name>.json``.
"""

import os

# As in our workers; it has to be said before numpy is imported, which the benchmarks do.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import machine, versions
from tests.benchmarks.outcome import Outcome

BENCHMARKS = {  # each module has a `run(folder)` that returns an `Outcome`
    "mixed": "tests.benchmarks.mixed",
    "progress": "tests.benchmarks.progress",
    "search": "tests.benchmarks.search",
    "conversion": "tests.benchmarks.conversion",
    "create": "tests.benchmarks.create",
    "fairness": "tests.benchmarks.fairness",
    "ingestion": "tests.benchmarks.ingestion",
    "footprint": "tests.benchmarks.footprint",
    "growth": "tests.benchmarks.growth",
    "idle": "tests.benchmarks.idle",
    "hostile": "tests.benchmarks.hostile",
    "latency": "tests.benchmarks.latency",
    "library": "tests.benchmarks.library",
    "reads": "tests.benchmarks.reads",
    "scaling": "tests.benchmarks.scaling",
    "schedules": "tests.benchmarks.schedules",
    "streams": "tests.benchmarks.streams",
    "workers": "tests.benchmarks.workers",
}
FOLDER = Path(".bench")


def main(words: Sequence[str]) -> None:
    """Run the benchmarks that ``words`` name, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Run the benchmarks.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of: {', '.join(BENCHMARKS)} (default: all)"
    )
    names = parser.parse_args(words).names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: use {', '.join(BENCHMARKS)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        started = datetime.now(UTC)
        outcome: Outcome = importlib.import_module(BENCHMARKS[name]).run(FOLDER)
        _report(name, outcome, started)


def _report(name: str, outcome: Outcome, started: datetime) -> None:
    """Print what came out, and keep the figures."""
    target = FOLDER / f"{name}.json"
    record: dict[str, Any] = {
        "benchmark": name,
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "machine": machine(),
        "versions": versions() | outcome.versions,
        "figures": outcome.figures,
    }
    target.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"# {name}\n")
    print(outcome.report)
    print("\nMachine: " + ", ".join(f"{key} {value}" for key, value in record["machine"].items()))
    print("Versions: " + ", ".join(f"{key} {value}" for key, value in record["versions"].items()))
    print(f"{record['seconds']} s; figures in {target}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
