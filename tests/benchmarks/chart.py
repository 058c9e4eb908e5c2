"""The picture of the README, from the figures of ``workers``: ``python -m tests.benchmarks.chart``.

It is an SVG of a few kilobytes that follows the reader's light or dark mode.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

FIGURES = Path(".bench/workers.json")
PICTURE = Path(__file__).parent / "workers.svg"

WIDTH, ROW, BAR = 760, 30, 18
TOP, BOTTOM = 62, 34
LABELS, VALUES = 190, 130  # the widths of the columns left and right of the bars
OURS = "callboard"

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.small, .note { font-size: 11px; fill: #59636e }
.ours { fill: #0969da } .recorded { fill: #8c959f }
.unrecorded { fill: none; stroke: #8c959f; stroke-width: 1.5 }
.spread { stroke: #1f2328; stroke-width: 1.5 } .base { stroke: #59636e; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small, .note { fill: #9198a1 }
.ours { fill: #4493f8 } .recorded { fill: #656c76 } .unrecorded { stroke: #9198a1 }
.spread { stroke: #f0f6fc } .base { stroke: #9198a1 }
}"""


def draw(record: Mapping[str, Any]) -> str:
    """The chart of what ``workers`` left: a bar for each contestant, the fastest one first."""
    contestants = record["figures"]["contestants"]
    most = max(one["high"] for one in contestants)
    scale = (WIDTH - LABELS - VALUES) / most
    height = TOP + ROW * len(contestants) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(_summary(contestants))}">',
        f"<style>{_STYLE}\n</style>",
        _text(0, 18, "No-op tasks completed a second by 2 worker processes", "title"),
        _text(0, 38, _circumstances(record, contestants), "small"),
        *_base_line(contestants, scale, height),
    ]
    for place, one in enumerate(contestants):
        parts += _row(one, TOP + ROW * place, scale)
    parts += [_text(0, height - 8, _LEGEND, "note"), "</svg>"]
    return "\n".join(parts) + "\n"


_LEGEND = (
    "Hollow bars record nothing, full ones each task in Postgres. Median, least and most of the rounds. "
    "Dashed: bare dramatiq."
)


def _row(one: Mapping[str, Any], top: float, scale: float) -> list[str]:
    """A name, a bar, its spread and its figure."""
    middle = top + ROW / 2
    kind = (
        "ours"
        if one["name"].startswith(OURS)
        else ("unrecorded" if one["records"] == "nothing" else "recorded")
    )
    low, high = LABELS + one["low"] * scale, LABELS + one["high"] * scale
    ratio = f" · {one['ratio']:.{1 if one['ratio'] >= 0.95 else 2}f}×" if one["ratio"] else ""
    return [
        _text(LABELS - 10, middle + 4.5, one["name"], "", "end"),
        f'<rect class="{kind}" x="{LABELS}" y="{middle - BAR / 2:g}" width="{one["median"] * scale:.1f}" '
        f'height="{BAR}" rx="2"/>',
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:g}" y2="{middle:g}"/>',
        _text(high + 8, middle + 4.5, f"{one['median']:,.0f}{ratio}"),
    ]


def _base_line(contestants: Sequence[Mapping[str, Any]], scale: float, height: int) -> list[str]:
    """Where bare dramatiq ends, to compare the others with; nothing if it was not measured."""
    ends = [LABELS + one["median"] * scale for one in contestants if one["ratio"] == 1]
    return [
        f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - BOTTOM + 4}"/>'
        for x in ends
    ]


def _circumstances(record: Mapping[str, Any], contestants: Sequence[Mapping[str, Any]]) -> str:
    versions = record["versions"]
    rounds = len(contestants[0]["rounds"])
    return (
        f"{record['machine']['cores']} cores with everything on them, Postgres "
        f"{versions['server server_version']} (fsync {versions['server fsync']}), RabbitMQ "
        f"{versions['server rabbitmq']}, {rounds} rounds in turns, {record['started_at'][:10]}"
    )


def _summary(contestants: Sequence[Mapping[str, Any]]) -> str:
    return "Tasks a second: " + ", ".join(f"{one['name']} {one['median']:,.0f}" for one in contestants)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (
        f' text-anchor="{anchor}"' if anchor != "start" else ""
    )
    return f'<text x="{x:g}" y="{y:g}"{attributes}>{escape(words)}</text>'


if __name__ == "__main__":
    figures, picture = map(Path, sys.argv[1:] or (FIGURES, PICTURE))
    picture.write_text(draw(json.loads(figures.read_text(encoding="utf-8"))), encoding="utf-8")
