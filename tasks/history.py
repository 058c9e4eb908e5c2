"""A task's history, derived: from its columns, its ended attempts, and the events that are rows."""

from collections.abc import Iterable, Iterator
from typing import Any

from tasks.records import Event
from tasks.states import FAILED, FINAL, QUEUED, RUNNING, SCHEDULED


def derive(task: Any, state: Any, attempts: Iterable[Any], events: Iterable[Any]) -> list[Event]:
    """Every event of a task in ascending order of its id.

    ``task``, ``state``, ``attempts`` and ``events`` are rows of `tasks.models`.
    """
    found: dict[int, Event] = {}
    for event in _derived(task, state, list(attempts)):
        found.setdefault(event.event_id, event)
    for row in events:
        progress = None if row.progress is None else round(row.progress, 2)
        found[row.event_id] = Event(
            row.event_id, row.kind, row.phase, progress, row.message, row.status, row.at, row.data or None
        )
    return [found[event_id] for event_id in sorted(found)]


def _derived(task: Any, state: Any, attempts: list[Any]) -> Iterator[Event]:
    first = SCHEDULED if task.run_at is not None else QUEUED
    yield _move(1, first, task.created_at)
    for attempt in attempts:
        if attempt.started_event is not None:
            yield _move(attempt.started_event, RUNNING, attempt.started_at)
        message = (attempt.error or {}).get("message")
        yield _move(attempt.ended_event, attempt.status, attempt.ended_at, message)
    if state.running_event is not None and state.started_at is not None:
        yield _move(state.running_event, RUNNING, state.started_at)
    if state.status in FINAL:
        message = (state.error or {}).get("message") if state.status == FAILED else None
        yield _move(state.events, state.status, state.finished_at, message)


def _move(event_id: int, status: str, at: Any, message: str | None = None) -> Event:
    progress = 100.0 if status == "completed" else None
    return Event(event_id, "state", None, progress, message, status, at)
