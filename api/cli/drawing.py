"""Drawing a run for a terminal: its stages in their order, and where each comes from."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.text import clean, one_line, seconds
from tasks.records import RunGraph, StageNode
from tasks.states import CANCELLED, COMPLETED, FAILED, RUNNING

#: A sign and a colour for each status; all others wait.
SIGNS: Mapping[str, tuple[str, str]] = {
    COMPLETED: ("✓", "green"),
    FAILED: ("✗", "red"),
    CANCELLED: ("✗", "yellow"),
    RUNNING: ("▶", "cyan"),
    "skipped": ("−", "dim"),
    "pending": ("○", "dim"),
}
WAITING = ("◦", "yellow")
#: What is said of a stage that does not simply come next.
WORDS = {
    "map": "for each of",
    "then": "if",
    "otherwise": "unless",
    "failure": "if there fails",
    "next": "after",
}


def show_run(console: Console, run: RunGraph) -> None:
    """Show a run as a table of its stages."""
    table = Table(box=None, pad_edge=False, title=_title(run), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    before = ""
    for stage in run.stages:
        sign, colour = SIGNS.get(stage.status, WAITING)
        table.add_row(
            Text(f"{sign} {clean(stage.stage)}", colour),
            Text(stage.status, colour),
            _count(stage),
            _time(stage),
            Text(_remark(run, stage, before), "dim"),
        )
        before = stage.stage
    console.print()
    console.print(table)


def _title(run: RunGraph) -> str:
    version = "" if run.version is None else f" version {run.version.partition('-')[0]}"
    return clean(f"{run.pipeline}{version}  {run.progress:.0f}%")


def _count(stage: StageNode) -> str:
    whole = stage.total or stage.tasks
    return f"{stage.completed}/{whole}" if whole > 1 else ""


def _time(stage: StageNode) -> str:
    if stage.completed:
        return seconds(stage.duration_ms / 1_000)
    return f"~ {seconds(stage.expected_ms / 1_000)}" if stage.expected_ms is not None else ""


def _remark(run: RunGraph, stage: StageNode, before: str) -> str:
    """Why it does not go on, or else where it comes from, unless that is the stage above."""
    if stage.error is not None:
        return one_line(f"{stage.error.get('code')}: {stage.error.get('message')}", 80)
    if stage.wait_reason is not None:
        return f"waits: {stage.wait_reason}"
    into: dict[str, list[str]] = {}
    for edge in run.edges:
        if edge.target == stage.stage:
            into.setdefault(edge.kind, []).append(edge.source)
    if into == {"next": [before]}:
        return ""
    said = [f"{WORDS.get(kind, kind)} {', '.join(sources)}" for kind, sources in into.items()]
    return clean(one_line("; ".join(said), 80))
