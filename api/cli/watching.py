"""Watching tasks: bars that move and lines that are logged on a terminal, plain lines elsewhere, or JSON."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from api.cli.progress import stage_with_place
from api.cli.remote import Remote
from api.cli.text import clean, one_line
from api.client import Client, StreamEvent
from api.client import Progress as Snapshot
from tasks.records import Event, Task
from tasks.states import COMPLETED

_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}


class Display(Protocol):
    """Shows what happens to tasks."""

    def show(self, task_id: str, event: StreamEvent, now: Snapshot) -> None:
        """Show an event, and how far its task is with it."""


def watch(remote: Remote, ids: Sequence[str]) -> list[Task]:
    """Show what happens to tasks until all have ended, and return them."""
    now: dict[str, Snapshot] = {}
    with _display(remote, ids) as display:
        for task_id, event in _events(remote.client, list(dict.fromkeys(ids))):
            now[task_id] = _after(now.get(task_id), event)
            display.show(task_id, event, now[task_id])
    return [remote.client.task(task_id) for task_id in ids]


def _display(remote: Remote, ids: Sequence[str]) -> AbstractContextManager[Display]:
    if remote.as_json:
        return nullcontext(JsonLines())
    if remote.err.is_interactive:
        return LiveTasks(remote.err)
    return nullcontext(PlainTasks(remote.err, several=len(ids) > 1))


def _events(client: Client, ids: Sequence[str]) -> Iterator[tuple[str, StreamEvent]]:
    """The events of several tasks as they come."""
    if len(ids) == 1:
        yield from ((ids[0], event) for event in client.follow(ids[0]))
        return
    found: queue.SimpleQueue[tuple[str, StreamEvent | Exception | None]] = queue.SimpleQueue()

    def follow(task_id: str) -> None:
        try:
            for event in client.follow(task_id):
                found.put((task_id, event))
            found.put((task_id, None))
        except Exception as error:
            found.put((task_id, error))

    for task_id in ids:  # they end with the process, so that Ctrl-C ends at once
        threading.Thread(target=follow, args=(task_id,), daemon=True).start()
    left = len(ids)
    while left:
        task_id, event = found.get()
        if isinstance(event, Exception):
            raise event
        if event is None:
            left -= 1
        else:
            yield task_id, event


def _after(before: Snapshot | None, event: StreamEvent) -> Snapshot:
    """How far a task is after an event."""
    if isinstance(event.data, Snapshot):
        return event.data
    assert before is not None, "a stream begins with a snapshot"
    told = event.data
    changes: dict[str, Any] = {"status": told.status, "updated_at": told.timestamp}
    if told.progress is not None:
        changes["progress"] = told.progress
    if told.kind == "state" and told.status != COMPLETED:  # why it is tried again, or began anew
        changes["message"] = told.message
    if told.kind == "progress":
        changes |= {"message": told.message, "details": told.data or before.details}
        changes["phase"] = told.phase or before.phase
    return msgspec.structs.replace(before, **changes)


class JsonLines:
    """One JSON object a line for each event."""

    def show(self, task_id: str, event: StreamEvent, now: Snapshot) -> None:
        """Write the event."""
        write_line(task_id, event.event, event.data, event.id)


def write_line(task_id: str, kind: str, data: object, number: int | None = None) -> None:
    """Write an event for programs."""
    line = {"id": number, "event": kind, "task_id": task_id, "data": data}
    click.echo(msgspec.json.encode(line).decode())


class PlainTasks:
    """A line for each event."""

    def __init__(self, console: Console, *, several: bool) -> None:
        self._console = console
        self._several = several

    def show(self, task_id: str, event: StreamEvent, now: Snapshot) -> None:
        """Write the event."""
        line = _logged(event) if event.event == "log" else _state_of(now)
        shown = f"{task_id}  {line}" if self._several else line
        self._console.print(shown.rstrip(), markup=False, highlight=False, soft_wrap=True)


class LiveTasks:
    """A bar for each task; what it logs scrolls off above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            expand=True,
        )

    def __enter__(self) -> "LiveTasks":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, task_id: str, event: StreamEvent, now: Snapshot) -> None:
        """Move the bar of the task, or print its line."""
        if event.event == "log":
            style = _LEVELS.get(_level(event), "dim")
            self._console.print(Text(_logged(event), style), soft_wrap=True)
            return
        if task_id not in self._bars:
            self._bars[task_id] = self._progress.add_task("…", total=100, message="")
        self._progress.update(
            self._bars[task_id],
            completed=100 if now.status == COMPLETED else now.progress,
            description=stage_with_place(now),
            message=one_line(now.message or "", 200),
        )


def _state_of(now: Snapshot) -> str:
    return f"{now.progress:3.0f}%  {stage_with_place(now)}  {clean(now.message or '')}"


def _logged(event: StreamEvent) -> str:
    return f"      {_level(event):<7}  {clean(event.data.message or '')}"


def _level(event: StreamEvent) -> str:
    data = event.data.data if isinstance(event.data, Event) else None
    return clean(str((data or {}).get("level", "info")))
