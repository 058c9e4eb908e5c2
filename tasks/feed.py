"""The feed: what came after an event, for many tasks in one go. Nothing here writes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tasks import history
from tasks.database import Database, session
from tasks.records import Event
from tasks.states import FINAL

#: Of one task, one reading takes so many rows at most; the rest is left to the next.
MOST_ROWS = 500


class Standing(msgspec.Struct, frozen=True):
    """How far a task is, as of its event ``event_id``. ``progress`` is 0-100."""

    task_id: UUID
    event_id: int
    status: str
    phase: str | None
    progress: float
    message: str | None
    details: dict[str, Any] | None
    updated_at: datetime

    @property
    def is_over(self) -> bool:
        """Whether the state is final."""
        return self.status in FINAL


class News(msgspec.Struct, frozen=True):
    """What came after an event, in ascending order; ``is_over``: with it the task has ended."""

    events: Sequence[Event]
    is_over: bool


class _State(msgspec.Struct, frozen=True):
    """What of a task's row its events are derived from."""

    id: UUID
    run_at: datetime | None
    created_at: datetime
    events: int
    status: str
    running_event: int | None
    started_at: datetime | None
    finished_at: datetime | None
    error: dict[str, Any] | None


class _Attempt(msgspec.Struct, frozen=True):
    """What of an attempt its events are derived from."""

    started_event: int | None
    started_at: datetime | None
    ended_event: int
    status: str
    ended_at: datetime
    error: dict[str, Any] | None


class _Row(msgspec.Struct, frozen=True):
    """An event that is a row."""

    event_id: int
    kind: str
    phase: str | None
    progress: float | None
    message: str | None
    status: str
    at: datetime
    data: dict[str, Any] | None


_STANDING = """
SELECT s.id, s.events, s.status, s.phase, round(s.progress::numeric, 2)::float8, s.message, s.details,
    s.updated_at
FROM task_state s JOIN tasks t USING (id) WHERE s.id = ANY(%s) AND (%s::text IS NULL OR t.user_id = %s)"""

_STATES = """
SELECT s.id, t.run_at, t.created_at, s.events, s.status, s.running_event, s.started_at, s.finished_at,
    CASE WHEN s.status = 'failed' THEN jsonb_build_object('message', s.error->>'message') END
FROM task_state s JOIN tasks t USING (id) WHERE s.id = ANY(%s)"""

_WANTED = "unnest(%s::uuid[], %s::integer[], %s::integer[]) AS w(id, after, upto)"

_ATTEMPTS = f"""
SELECT a.task_id, a.started_event, a.started_at, a.ended_event, a.status, a.ended_at,
    jsonb_build_object('message', a.error->>'message')
FROM {_WANTED} JOIN attempts a ON a.task_id = w.id AND a.ended_event > w.after AND a.ended_event <= w.upto"""

_ROWS = f"""
SELECT e.task_id, e.event_id, e.kind, e.phase, e.progress, e.message, e.status, e.at, e.data
FROM {_WANTED} CROSS JOIN LATERAL (
    SELECT * FROM events e WHERE e.task_id = w.id AND e.event_id > w.after AND e.event_id <= w.upto
    ORDER BY e.event_id LIMIT %s
) AS e"""


class Feed:
    """What happens to tasks, read from one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standings(self, ids: Sequence[UUID], *, owner: str | None = None) -> dict[UUID, Standing]:
        """How far these tasks are; those that do not exist or are not ``owner``'s are left out."""
        with session(self._database):
            rows = self._database.execute_sql(_STANDING, (list(ids), owner, owner)).fetchall()
        return {row[0]: Standing(*row) for row in rows}

    def history(self, task_id: UUID) -> list[Event]:
        """Every event of a task, oldest first; empty if there is no such task."""
        news = self.events_after({task_id: 0}, most=None).get(task_id)
        return [] if news is None else list(news.events)

    def events_after(self, last: Mapping[UUID, int], *, most: int | None = MOST_ROWS) -> dict[UUID, News]:
        """What came after the event ``last[task]`` of each task; tasks that are gone are left out.

        Of each task so many rows are read at ``most`` (None: all).

        The states are read first, and what came after them is left to the next reading: of that, some
        would be missing.
        """
        with session(self._database):
            found = self._database.execute_sql(_STATES, (list(last),)).fetchall()
            states = [_State(*row) for row in found]
            moved = [state for state in states if state.events > last[state.id]]
            wanted = (
                [state.id for state in moved],
                [last[state.id] for state in moved],
                [state.events for state in moved],
            )
            attempts = self._read(_ATTEMPTS, wanted, _Attempt) if moved else {}
            rows = self._read(_ROWS, (*wanted, most), _Row) if moved else {}
        still = {state.id: News((), state.status in FINAL) for state in states}
        return still | {
            state.id: _news(state, last[state.id], attempts.get(state.id, []), rows.get(state.id, []), most)
            for state in moved
        }

    def _read(self, sql: str, wanted: Sequence[Any], kind: Any) -> dict[UUID, list[Any]]:
        by_task: dict[UUID, list[Any]] = defaultdict(list)
        for row in self._database.execute_sql(sql, wanted).fetchall():
            by_task[row[0]].append(kind(*row[1:]))
        return by_task


def _news(
    state: _State, after: int, attempts: Iterable[_Attempt], rows: Sequence[_Row], most: int | None
) -> News:
    is_cut_off = len(rows) == most
    upto = max(row.event_id for row in rows) if is_cut_off else state.events
    events = [
        event for event in history.derive(state, state, attempts, rows) if after < event.event_id <= upto
    ]
    return News(events, state.status in FINAL and upto == state.events)
