"""What becomes of hostile documents, how long that takes, and how much memory a worker needs for it.

Each is converted as a worker converts it, by a process that has converted something else before. Counted is
what this process and its converter hold together, above what they held before the first hostile one.
"""

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.documents.conversion import convert, end_idle_children
from pipelines.documents.detection import detect
from tasks.errors import CallboardError
from tests.benchmarks.outcome import Outcome, table
from tests.support import documents
from tests.support.hostile import Hostile, hostile_files
from tests.support.memory import MEBIBYTE, watching

MOST_MEGABYTES, MOST_SECONDS = 300, 30


@dataclass(frozen=True)
class Row:
    """One document: the code it failed with or "text", whether that is right, and what it cost."""

    document: str
    kilobytes: float
    outcome: str
    is_right: bool
    seconds: float
    processor_seconds: float
    megabytes: float


def run(folder: Path) -> Outcome:
    """Convert all hostile documents, one after the other; ``folder`` is not needed."""
    with tempfile.TemporaryDirectory() as place:
        harmless = Path(place) / "harmless.docx"
        harmless.write_bytes(documents.docx(["Nothing to be afraid of."]))
        base = _converted(harmless)[1]
        rows = [_row(what, file, Path(place), base) for what, file in hostile_files().items()]
    end_idle_children()
    return Outcome(_report(rows), {"rows": [vars(row) for row in rows]})


def _row(what: str, file: Hostile, folder: Path, base: int) -> Row:
    path = folder / file.name
    path.write_bytes(file.make())
    size = path.stat().st_size
    began, used = time.perf_counter(), _processor_seconds()
    outcome, most = _converted(path)
    seconds = time.perf_counter() - began
    end_idle_children()  # whose time counts once they have ended
    used = _processor_seconds() - used
    path.unlink()
    is_right = file.is_right(outcome)
    code = outcome if outcome in file.codes else "text"
    return Row(what, size / 1000, code, is_right, seconds, used, (most - base) / MEBIBYTE)


def _converted(path: Path) -> tuple[str, int]:
    """The code of the failure or else the Markdown, and the most bytes held."""
    with watching(lambda: [psutil.Process()]) as memory:
        try:
            outcome = convert(path, detect(path, path.name))
        except CallboardError as error:
            outcome = error.code
    return outcome, memory.most


def _processor_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _report(rows: list[Row]) -> str:
    lines = [
        [
            row.document,
            f"{row.kilobytes:,.0f}",
            row.outcome if row.is_right else f"WRONG: {row.outcome}",
            f"{row.seconds:.1f}",
            f"{row.processor_seconds:.1f}",
            f"{max(0.0, row.megabytes):.0f}",
        ]
        for row in rows
    ]
    header = ["document", "kB", "outcome", "s", "processor s", "MB above base"]
    wrong = [row.document for row in rows if not row.is_right]
    most, longest = max(row.megabytes for row in rows), max(row.seconds for row in rows)
    verdict = (
        f"{len(rows) - len(wrong)} of {len(rows)} end as they should; at most {most:.0f} MB above the base "
        f"(allowed: {MOST_MEGABYTES}) and {longest:.1f} s (allowed: {MOST_SECONDS})."
    )
    return f"{table(header, lines)}\n\n{verdict}"
