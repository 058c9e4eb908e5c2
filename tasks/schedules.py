"""Reading schedules: those that are there, those that are due, and what became of their fire times."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.schedule_records import Definition, Due, FireRecord, Lateness, ScheduleStats, Stored

#: So many of the newest fires tell how late they are.
NEWEST = 2_000
#: Of more fires than these nobody needs the number.
COUNTED_UP_TO = 10_000
FIRST = (datetime.min, UUID(int=0))

_COLUMNS = """id, version, definition, is_active, next_fire, next_run_at, last_run_at, last_task_id, fired,
    skipped, missed, refused, created_at, updated_at"""
_ONE = f"SELECT {_COLUMNS} FROM schedules WHERE name = %s"
_LIST = f"SELECT {_COLUMNS} FROM schedules ORDER BY name LIMIT %s OFFSET %s"

_DUE = """
SELECT id, version, definition::text, next_fire, next_run_at, now() FROM schedules
WHERE is_active AND next_run_at <= now() + make_interval(secs => %s) AND (next_run_at, id) > (%s, %s)
ORDER BY next_run_at, id LIMIT %s"""
_SECONDS_TO_NEXT = """
SELECT extract(epoch FROM min(next_run_at) - now())::float8 FROM schedules WHERE is_active"""

_FIRES = """
SELECT fire_time, outcome, task_id, fired_at, 1000 * late, missed, error
FROM fires WHERE schedule = %s ORDER BY fire_time DESC LIMIT %s OFFSET %s"""
_COUNT = f"SELECT count(*) FROM (SELECT FROM fires WHERE schedule = %s LIMIT {COUNTED_UP_TO}) AS counted"
_FIRED = """
SELECT fire_time FROM fires WHERE schedule = %s AND fire_time = ANY(%s) AND task_id IS NOT NULL"""

_STATS = """
SELECT count(*) FILTER (WHERE is_active), count(*) FILTER (WHERE NOT is_active),
    count(*) FILTER (WHERE is_active AND next_run_at <= now()), coalesce(sum(fired), 0)::bigint,
    coalesce(sum(skipped), 0)::bigint, coalesce(sum(missed), 0)::bigint,
    coalesce(sum(refused), 0)::bigint, max(last_run_at)
FROM schedules"""
_NEXT = """
SELECT next_run_at, name FROM schedules WHERE is_active AND next_run_at IS NOT NULL
ORDER BY next_run_at, id LIMIT 1"""
_LATE = """
SELECT 1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY late),
    1000 * percentile_cont(0.95) WITHIN GROUP (ORDER BY late), 1000 * max(late)
FROM (SELECT late FROM fires WHERE late IS NOT NULL ORDER BY fired_at DESC LIMIT %s) AS newest"""


class DuePage(msgspec.Struct, frozen=True):
    """Schedules that are due, and what time Postgres says it is (None: there are none)."""

    due: Sequence[Due]
    now: datetime | None


class ScheduleQueries:
    """All questions about schedules, on a database of the record."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def now(self) -> datetime:
        """What time it is for all clocks: Postgres's."""
        found: datetime = self._rows("SELECT now()")[0][0]
        return found

    def schedule(self, name: str) -> Stored | None:
        """A schedule, or None if there is none of this name."""
        rows = self._rows(_ONE, name) if "\0" not in name else []
        return _stored(rows[0]) if rows else None

    def schedules(self, *, limit: int, offset: int) -> tuple[list[Stored], int]:
        """A part of the schedules, by name, and how many there are in all."""
        with session(self._database):
            rows = self._rows(_LIST, limit, offset)
            return [_stored(row) for row in rows], self._rows("SELECT count(*) FROM schedules")[0][0]

    def due(self, limit: int, after: Due | None = None, *, ahead: float = 0.0) -> DuePage:
        """Up to ``limit`` schedules whose time has come, the longest due first, from one of them on.

        With ``ahead`` those too that are due in so many seconds.
        """
        place = FIRST if after is None else (after.next_run_at, after.id)
        rows = self._rows(_DUE, ahead, *place, limit)
        due = [Due(*row[:5]) for row in rows]
        return DuePage(due, rows[0][5] if rows else None)

    def seconds_to_next(self) -> float | None:
        """In how many seconds the next schedule is due; None if there is none."""
        found: float | None = self._rows(_SECONDS_TO_NEXT)[0][0]
        return found

    def fires(self, schedule: UUID, *, limit: int, offset: int) -> tuple[list[FireRecord], int]:
        """A part of what became of a schedule's fire times, the newest first, and how many there are.

        They are counted up to `COUNTED_UP_TO`.
        """
        with session(self._database):
            rows = self._rows(_FIRES, schedule, limit, offset)
            return [_fire(row) for row in rows], self._rows(_COUNT, schedule)[0][0]

    def fired(self, schedule: UUID, fire_times: Sequence[datetime]) -> set[datetime]:
        """Which of these fire times had a task."""
        return {row[0] for row in self._rows(_FIRED, schedule, list(fire_times))}

    def stats(self) -> ScheduleStats:
        """All schedules in numbers."""
        with session(self._database):
            active, paused, overdue, fired, skipped, missed, refused, last = self._rows(_STATS)[0]
            upcoming = self._rows(_NEXT)
            late = self._rows(_LATE, NEWEST)[0]
        at, name = upcoming[0] if upcoming else (None, None)
        return ScheduleStats(
            active=active,
            paused=paused,
            overdue=overdue,
            fired=fired,
            skipped=skipped,
            missed=missed,
            refused=refused,
            late_ms=Lateness(*(None if one is None else round(one, 3) for one in late)),
            last_run_at=last,
            next_run_at=at,
            next_schedule=name,
        )

    def _rows(self, sql: str, *params: Any) -> list[Any]:
        with session(self._database):
            return list(self._database.execute_sql(sql, params).fetchall())


def _definition(kept: Any) -> Definition:
    return msgspec.convert(kept, Definition)


def _stored(row: Any) -> Stored:
    values = dict(zip(Stored.__struct_fields__, row, strict=True))
    return Stored(**{**values, "definition": _definition(values["definition"])})


def _fire(row: Any) -> FireRecord:
    fire_time, outcome, task_id, fired_at, late, missed, error = row
    return FireRecord(
        fire_time=fire_time,
        outcome=outcome,
        task_id=task_id,
        fired_at=fired_at,
        late_ms=None if late is None else round(late, 3),
        missed=missed,
        error=error,
    )
