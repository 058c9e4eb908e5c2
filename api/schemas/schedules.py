"""What callers send about schedules."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors import cron
from actors.requests import DAY, Id, Moment, Name, Priority, Tag
from tasks.schedule_records import Misfire, Overlap

CronExpression = Annotated[str, Meta(min_length=1, max_length=cron.LONGEST)]
TimeZone = Annotated[str, Meta(min_length=1, max_length=100)]
Seconds = Annotated[float, Meta(ge=0, le=DAY)]
Timeout = Annotated[float, Meta(gt=0, le=DAY)]
Retries = Annotated[int, Meta(ge=0, le=100)]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=50)]


class ScheduleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /scheduled-tasks``: a task, and when to submit it. Times are seconds.

    ``cron_expr`` has five fields (minute hour day month weekday), six with the second in front, or is
    ``@hourly`` and the like. ``overlap`` says what happens while the run before is unfinished, ``misfire``
    what becomes of times at which no clock ran. Each run is up to ``jitter`` seconds later.
    """

    name: Name
    task_type: Name
    cron_expr: CronExpression
    queue_name: Name | None = None
    payload: Any = msgspec.field(default_factory=dict)
    timezone: TimeZone = "UTC"
    overlap: Overlap = "queue"
    misfire: Misfire = "once"
    jitter: Seconds = 0.0
    is_active: bool = True
    priority: Priority = "normal"
    max_retries: Retries | None = None
    timeout: Timeout | None = None
    kb_id: Id | None = None
    project_id: Id | None = None
    tags: Tags = ()
    user_id: Id | None = None


class ScheduleChange(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``PUT /scheduled-tasks/{name}``; what is left out stays as it is.

    ``name`` can only be the one that it has. ``is_active`` pauses and resumes.
    """

    name: Name | None = None
    task_type: Name | None = None
    cron_expr: CronExpression | None = None
    queue_name: Name | None = None
    payload: Any = msgspec.UNSET
    timezone: TimeZone | None = None
    overlap: Overlap | None = None
    misfire: Misfire | None = None
    jitter: Seconds | None = None
    is_active: bool | None = None
    priority: Priority | None = None
    max_retries: Retries | None = None
    timeout: Timeout | None = None
    kb_id: Id | None = None
    project_id: Id | None = None
    tags: Tags | None = None
    user_id: Id | None = None


class BackfillRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST …/backfill``: the range whose fire times are to be run, both ends included."""

    since: Moment = msgspec.field(name="from")
    until: Moment = msgspec.field(name="to")
    dry_run: bool = False
