"""What a task did, for a terminal: its history, the errors of its attempts, its log."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.text import clean, moment
from tasks.records import Attempt, Event, LogLine
from tasks.states import CANCELLED, COMPLETED, FAILED, RUNNING

COLOURS = {COMPLETED: "green", FAILED: "red", CANCELLED: "yellow", RUNNING: "cyan"}
_LEVELS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "red"}


def show_history(console: Console, history: list[Event]) -> None:
    """Show the events of a task as a table."""
    table = Table(box=None, pad_edge=False, title="history", title_justify="left")
    for heading in ("TIME", "EVENT", "STATUS", "PHASE", "PROGRESS", "MESSAGE"):
        table.add_column(heading)
    for event in history:
        percent = "" if event.progress is None else f"{event.progress:.0f}%"
        status = Text(event.status, COLOURS.get(event.status, ""))
        message = Text(clean(event.message or ""))
        table.add_row(
            moment(event.timestamp), event.kind, status, Text(clean(event.phase or "")), percent, message
        )
    console.print()
    console.print(table)


def show_errors(console: Console, attempts: Sequence[Attempt]) -> None:
    """Show why attempts ended badly, with their tracebacks."""
    for attempt in attempts:
        if attempt.error:
            why = f"{attempt.error.get('code')}: {attempt.error.get('message')}"
            console.print()
            console.print(Text(clean(f"attempt {attempt.attempt}  {why}"), "red"), soft_wrap=True)
            console.print(Text(clean(attempt.traceback or ""), "dim"), soft_wrap=True)


def show_lines(console: Console, lines: Sequence[LogLine], *, title: bool = True) -> None:
    """Show what a task logged, line by line."""
    if lines and title:
        console.print()
        console.print(Text("log", "italic"))
    for line in lines:
        style = _LEVELS.get(line.level.lower(), "")
        text = f"{moment(line.timestamp)}  {line.level.upper():<8}  {line.message or ''}"
        console.print(Text(clean(text), style), soft_wrap=True)
