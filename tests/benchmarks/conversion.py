"""How much of real documents comes through conversion: their text, and their headings (see CONVERSION.md)."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from pipelines.documents.conversion import convert, end_idle_children
from pipelines.documents.detection import detect
from tasks.errors import CallboardError
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.real_files import RealFile, fetch, unpack_package
from tests.benchmarks.references import NoReference, markdown_headings, reference

PYPDF = "pypdf-7.1.1.tar.gz"
POOR = 0.9
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?:[^()\s]|\([^()]*\))*(?:\s+\"[^\"]*\")?\)")
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W_\u3040-\ud7af\uf900-\ufaff]+"
)


@dataclass(frozen=True)
class Row:
    """One file: the code that it failed with, if it did, and its scores where there is a reference."""

    format: str
    file: str
    failure: str | None = None
    f1: float | None = None
    heading_recall: float | None = None
    headings: int = 0


def run(folder: Path) -> Outcome:
    """Fetch the files into ``folder``, convert them all and compare."""
    paths = fetch(folder)
    pypdf = unpack_package(folder, PYPDF, "pypdf")
    try:
        rows = [_row(one, path, pypdf) for one, path in paths.items()]
    finally:
        end_idle_children()
    return Outcome(report(rows), {"files": [asdict(row) for row in rows]})


def _row(one: RealFile, path: Path, pypdf: Path) -> Row:
    name = f"{one.archive.partition('-')[0]}: {one.name}"
    try:
        markdown = convert(path, detect(path, path.name))
    except CallboardError as error:
        return Row(one.format, name, failure=error.code)
    try:
        said = reference(path, one.format, pypdf)
    except NoReference:
        return Row(one.format, name)
    f1 = token_f1(tokens(said.text), tokens(markdown)) if tokens(said.text) else None
    if not said.headings:
        return Row(one.format, name, f1=f1)
    recall = heading_recall(said.headings, markdown_headings(markdown))
    return Row(one.format, name, f1=f1, heading_recall=recall, headings=len(said.headings))


def tokens(text: str) -> Counter[str]:
    """The words of a text, or of Markdown without the addresses of its links; CJK by the character."""
    return Counter(_TOKEN.findall(_LINK.sub(r" \1 ", text).lower()))


def token_f1(wanted: Counter[str], found: Counter[str]) -> float:
    """The harmonic mean of precision and recall of two multisets of tokens."""
    common = (wanted & found).total()
    return 2 * common / (wanted.total() + found.total()) if wanted or found else 1.0


def heading_recall(wanted: Sequence[str], found: Sequence[str]) -> float:
    """The share of the headings that are headings in the Markdown too, whatever their level."""
    names = [Counter(" ".join(tokens(one)) for one in headings) for headings in (wanted, found)]
    return (names[0] & names[1]).total() / names[0].total()


def report(rows: Sequence[Row]) -> str:
    """A line for each format, what failed, and what came through badly."""
    lines = [
        _line(kind, [row for row in rows if row.format == kind]) for kind in sorted({r.format for r in rows})
    ]
    header = ["format", "files", "converted", "compared", "text F1", "with headings", "heading recall"]
    failures = [f"- {row.format}, {row.file}: `{row.failure}`" for row in rows if row.failure]
    poor = [
        f"- {row.format}, {row.file}: F1 {_shown(row.f1)}, heading recall {_shown(row.heading_recall)}"
        for row in rows
        if min(row.f1 if row.f1 is not None else 1, 1 if row.heading_recall is None else row.heading_recall)
        < POOR
    ]
    parts = [table(header, lines), "Failed:", "\n".join(failures), f"Below {POOR}:", "\n".join(poor)]
    return "\n\n".join(parts)


def _line(kind: str, rows: Sequence[Row]) -> list[str]:
    scores = [row.f1 for row in rows if row.f1 is not None]
    recalls = [row.heading_recall for row in rows if row.heading_recall is not None]
    converted = sum(row.failure is None for row in rows)
    counts = [str(len(rows)), str(converted), str(len(scores))]
    means = [_shown(fmean(one) if one else None) for one in (scores, recalls)]
    return [kind, *counts, means[0], str(len(recalls)), means[1]]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
