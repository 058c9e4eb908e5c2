"""Schedules as values: what is asked for, what the clock reads, and what readers get."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

Overlap = Literal["queue", "skip", "cancel"]
Misfire = Literal["once", "skip", "all"]

#: What may become of a fire time.
FIRED: Final = "fired"
SKIPPED_BY_OVERLAP: Final = "skipped"
MISSED: Final = "missed"
REFUSED: Final = "refused"
MANUAL: Final = "manual"
BACKFILLED: Final = "backfilled"
OUTCOMES: Final = (FIRED, SKIPPED_BY_OVERLAP, MISSED, REFUSED, MANUAL, BACKFILLED)
FireOutcome = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(OUTCOMES)})]


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What a schedule is to do, and when. ``jitter`` and ``timeout`` are seconds."""

    name: str
    task_type: str
    cron_expr: str
    queue_name: str | None = None
    payload: Any = msgspec.field(default_factory=dict)
    timezone: str = "UTC"
    overlap: Overlap = "queue"
    misfire: Misfire = "once"
    jitter: float = 0.0
    priority: int = 5
    max_retries: int | None = None
    timeout: float | None = None
    kb_id: str | None = None
    project_id: str | None = None
    tags: tuple[str, ...] = ()
    user_id: str = ""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it is on record (see ``tasks/migrations/0013_schedules.sql``)."""

    id: UUID
    version: int
    definition: Definition
    is_active: bool
    next_fire: datetime | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_task_id: UUID | None
    fired: int
    skipped: int
    missed: int
    refused: int
    created_at: datetime
    updated_at: datetime


class Due(msgspec.Struct, frozen=True):
    """A schedule at its fire time, which is due at ``next_run_at``. ``asked`` is its definition as JSON."""

    id: UUID
    version: int
    asked: str
    next_fire: datetime
    next_run_at: datetime

    @property
    def definition(self) -> Definition:
        """What it is to do; read when it is asked for."""
        return msgspec.json.decode(self.asked, type=Definition)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. ``next_runs`` are the next five times, jitter included; a paused one has none.

    ``skipped`` counts fire times at which the run before was unfinished, ``missed`` those that nobody was
    there for, ``refused`` those whose task could not be submitted (its runs tell why). Without a
    ``queue_name`` tasks go to the queue of their type.
    """

    name: str
    task_type: str
    cron_expr: str
    queue_name: str | None
    payload: Any
    timezone: str
    overlap: Overlap
    misfire: Misfire
    jitter: float
    priority: int
    max_retries: int | None
    timeout: float | None
    kb_id: str | None
    project_id: str | None
    tags: Sequence[str]
    user_id: str | None
    is_active: bool
    last_run_at: datetime | None
    last_task_id: UUID | None
    next_run_at: datetime | None
    next_runs: Sequence[datetime]
    fired: int
    skipped: int
    missed: int
    refused: int
    created_at: datetime
    updated_at: datetime


class FireRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a fire time. ``missed`` is how many earlier ones it stands for.

    ``late_ms`` is in milliseconds; ``error`` says why the task was refused.
    """

    fire_time: datetime
    outcome: FireOutcome
    task_id: UUID | None
    fired_at: datetime
    late_ms: float | None
    missed: int
    error: str | None


class Backfilled(msgspec.Struct, frozen=True, kw_only=True):
    """The fire times of a range that were run, or would be; ``fired_before`` of it had been run already."""

    name: str
    dry_run: bool
    count: int
    fired_before: int
    fire_times: Sequence[datetime]


class Lateness(msgspec.Struct, frozen=True):
    """How late fires were, in milliseconds; None: there were none."""

    p50: float | None
    p95: float | None
    max: float | None


class ScheduleStats(msgspec.Struct, frozen=True, kw_only=True):
    """All schedules in numbers. ``overdue`` are due, not fired; ``late_ms`` is of the newest 2,000 fires."""

    active: int
    paused: int
    overdue: int
    fired: int
    skipped: int
    missed: int
    refused: int
    late_ms: Lateness
    last_run_at: datetime | None
    next_run_at: datetime | None
    next_schedule: str | None
