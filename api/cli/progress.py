"""Shows how tasks and documents get on: live bars on a terminal, plain lines elsewhere."""

import threading
import time
from contextlib import AbstractContextManager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from api.cli.text import clean, counted, one_line, seconds
from api.client import Progress as Snapshot
from api.ingest import STAGES, DocumentReport, Outcome, Unwatched, Watcher
from api.selection import Source
from tasks.states import FINAL, RUNNING

_LINE_EVERY = 1.0
_NAME_AT_MOST = 44
_STAGE_WIDTH = 24
_MARKS = {
    Outcome.NEW: ("✓", "green"),
    Outcome.CHANGED: ("✓", "green"),
    Outcome.UNCHANGED: ("=", "cyan"),
    Outcome.DUPLICATE: ("=", "yellow"),
    Outcome.FAILED: ("✗", "red"),
    Outcome.SENT: ("→", "cyan"),
}


class Display(Watcher, AbstractContextManager["Display"], Protocol):
    """A watcher that shows what it is told while it is entered."""


def document_display(console: Console, total: int, *, only_live: bool = False) -> Display:
    """Return the display that fits the console; ``only_live``: show nothing where there is no terminal."""
    if console.is_interactive:
        return LiveDocuments(console, total)
    return NoDocuments() if only_live else PlainDocuments(console, total)


class NoDocuments(Unwatched):
    """Shows nothing."""

    def __enter__(self) -> "NoDocuments":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class PlainDocuments:
    """A line for every document that is done, and now and then one for the stage of a slow one."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._said: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "PlainDocuments":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def started(self, source: Source) -> None:
        """Remember when; a document that is done soon has one line only."""
        with self._lock:
            self._said[source.name] = ("", time.monotonic())

    def progressed(self, source: Source, progress: Snapshot) -> None:
        """Tell the stage, if it is another one and the last line was a while ago."""
        stage = stage_of(progress)
        with self._lock:
            before, at = self._said[source.name]
            if stage not in (before, *FINAL) and time.monotonic() - at >= _LINE_EVERY:
                self._said[source.name] = (stage, time.monotonic())
                self._print(f"          {stage:<10} {progress.progress:3.0f}%  {source.name}")

    def finished(self, source: Source, report: DocumentReport) -> None:
        """Tell what became of it."""
        with self._lock:
            self._done += 1
            self._print(f"[{self._done}/{self._total}] {finished_line(report).plain}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDocuments:
    """A bar for each document under way and one for all; what is done scrolls off as one line."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        # The overall bar, the line below it and the prompt of before need room too.
        self._at_most = max(1, console.size.height - 4)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            TextColumn("{task.fields[stage]}", markup=False, table_column=Column(width=_STAGE_WIDTH)),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._overall = self._progress.add_task("all documents", total=total, stage=f"0 of {total}")
        self._total = total

    def __enter__(self) -> "LiveDocuments":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for bar in self._bars.values():
                self._progress.remove_task(bar)
            self._bars.clear()
        self._progress.stop()

    def started(self, source: Source) -> None:
        """Add its bar."""
        with self._lock:
            self._bars[source.name] = self._progress.add_task(
                one_line(source.name, _NAME_AT_MOST),
                total=100,
                stage="sending",
                visible=len(self._bars) < self._at_most,
            )

    def progressed(self, source: Source, progress: Snapshot) -> None:
        """Move its bar."""
        with self._lock:
            if source.name in self._bars:
                self._progress.update(
                    self._bars[source.name], completed=progress.progress, stage=stage_with_place(progress)
                )

    def finished(self, source: Source, report: DocumentReport) -> None:
        """Replace its bar by a line."""
        with self._lock:
            bar = self._bars.pop(source.name, None)
            if bar is None:
                return
            self._progress.remove_task(bar)
            for other in list(self._bars.values())[: self._at_most]:
                self._progress.update(other, visible=True)
            self._console.print(finished_line(report), soft_wrap=True)
            self._progress.advance(self._overall)
            done = self._progress.tasks[0].completed
            self._progress.update(self._overall, stage=f"{done:.0f} of {self._total}")


def finished_line(report: DocumentReport) -> Text:
    """Return what became of a document in one line."""
    mark, colour = _MARKS[report.outcome]
    line = Text.assemble((f"{mark} {report.outcome:<9}", colour), "  ", clean(report.name))
    if report.error is not None:
        return line.append(f"  {report.error.code}: {clean(report.error.message)}", "red")
    if report.outcome is Outcome.SENT:
        return line.append(f"  task {report.task_id}", "dim")
    if report.outcome is Outcome.DUPLICATE:
        line.append(f"  of document {report.duplicate_of}", "dim")
    return line.append(
        f"  {counted(report.chunks, 'chunk')}, {report.embedded:,} embedded, {seconds(report.seconds)}", "dim"
    )


def stage_of(progress: Snapshot) -> str:
    """Return the stage that a task is in, or its state while it is in none."""
    if progress.status == RUNNING and progress.phase:
        return progress.phase.rpartition(".")[2]
    return progress.status


def stage_with_place(progress: Snapshot) -> str:
    """Return the stage with its place among the stages, and how far it is: ``4/6 embed 64/200``."""
    stage = stage_of(progress)
    place = f"{STAGES.index(stage) + 1}/{len(STAGES)} " if stage in STAGES else ""
    details = progress.details or {}
    done, total = details.get("steps_done"), details.get("steps_total")
    return f"{place}{stage}" + (f" {done}/{total}" if done is not None and total else "")
