"""What a schedule is to fire: pure, from what is on record and what time it is.

Fire times of the last minute always fire, late or not. Of those before, which went by while no clock ran, the
policy ``misfire`` says what becomes: ``once`` runs the last one for all, ``skip`` none, ``all`` every one, up
to 1,000.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from actors import cron
from actors.cron import Cron
from actors.submission import Order
from tasks.errors import CallboardError, Unavailable
from tasks.ids import id_of
from tasks.ledger.fires import Fire, Firing
from tasks.schedule_records import Definition, Due
from tasks.values import NewTask

#: What is not later than this always fires.
GRACE: Final = timedelta(seconds=60)
#: So many fire times are made up for at once, and counted; fewer, if so many bytes are too many.
MOST: Final = 1_000
MOST_BYTES: Final = 32 << 20

Prepare = Callable[[Order], Sequence[NewTask]]
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)


def cron_of(definition: Definition) -> Cron:
    """When a schedule fires.

    Raises:
      InvalidField: its expression or its time zone cannot be used.
    """
    return cron.parse(definition.cron_expr, definition.timezone)


def due_at(schedule: UUID, definition: Definition, fire_time: datetime) -> datetime:
    """When a fire time is due: up to ``jitter`` seconds later, always the same for the same fire time."""
    if not definition.jitter:
        return fire_time
    share = int.from_bytes(_hash(schedule, fire_time, 4), "big") / 2**32
    return fire_time + timedelta(milliseconds=int(1_000 * definition.jitter * share))


def task_of(schedule: UUID, fire_time: datetime) -> UUID:
    """The id of the task of a fire time, always the same: there cannot be two on record."""
    return id_of((fire_time - EPOCH) // MILLISECOND, _hash(schedule, fire_time, 10))


def _hash(schedule: UUID, fire_time: datetime, size: int) -> bytes:
    milliseconds = (fire_time - EPOCH) // MILLISECOND
    return hashlib.blake2b(schedule.bytes + milliseconds.to_bytes(8, "big"), digest_size=size).digest()


def following(schedule: UUID, definition: Definition, moment: datetime) -> tuple[datetime, datetime] | None:
    """The first fire time after a moment, and when it is due; None if there is none."""
    found = cron_of(definition).after(moment)
    return None if found is None else (found, due_at(schedule, definition, found))


def order_of(definition: Definition, task_id: UUID) -> Order:
    """What a schedule asks for each time."""
    return Order(
        id=task_id,
        task_type=definition.task_type,
        payload=definition.payload,
        queue_name=definition.queue_name,
        priority=definition.priority,
        max_retries=definition.max_retries,
        timeout=definition.timeout,
        user_id=definition.user_id,
        project_id=definition.project_id,
        kb_id=definition.kb_id,
        created_by=f"schedule:{definition.name}",
        tags=definition.tags,
    )


def most_of(definition: Definition) -> int:
    """How many tasks of a schedule are recorded at once, at the most."""
    return max(1, min(MOST, MOST_BYTES // len(msgspec.json.encode(definition))))


def plan(due: Due, now: datetime, prepare: Prepare) -> Firing:
    """What a schedule that is due is to fire now, and when it is due again."""
    asked = due.definition
    timing = cron_of(asked)
    edge = now - GRACE
    fires: list[Fire] = []
    last = due.next_fire
    if due.next_run_at < edge:
        fires, last = _made_up(due, timing, edge, prepare)
    else:
        fires.append(_fire(due, due.next_fire, prepare, due_at=due.next_run_at))
    while (next_fire := timing.after(last)) is not None:
        next_run_at = due_at(due.id, asked, next_fire)
        if next_run_at > now or len(fires) >= MOST:
            break
        fires.append(_fire(due, next_fire, prepare, due_at=next_run_at))
        last = next_fire
    return Firing(
        schedule=due.id,
        version=due.version,
        expected=due.next_fire,
        fires=fires,
        next_fire=next_fire,
        next_run_at=None if next_fire is None else next_run_at,
    )


def _made_up(due: Due, timing: Cron, edge: datetime, prepare: Prepare) -> tuple[list[Fire], datetime]:
    """What becomes of the fire times that nobody was there for, and the last of them."""
    asked, most = due.definition, most_of(due.definition)
    until = edge - timedelta(seconds=asked.jitter)  # what comes after it may not be due yet
    times = timing.between(due.next_fire, until, most) or [due.next_fire]
    last = times[-1] if len(times) < most else timing.last(times[-1], until) or times[-1]
    if asked.misfire == "once":
        return [_fire(due, last, prepare, missed=len(times) - 1)], last
    if asked.misfire == "skip":
        return [Fire(fire_time=last, missed=len(times) - 1)], last
    fires = [_fire(due, one, prepare) for one in times]
    return fires if last == times[-1] else [*fires, Fire(fire_time=last)], last


def _fire(
    due: Due,
    fire_time: datetime,
    prepare: Prepare,
    *,
    due_at: datetime | None = None,
    missed: int = 0,
) -> Fire:
    try:
        tasks, error = prepare(order_of(due.definition, task_of(due.id, fire_time))), None
    except Unavailable:
        raise
    except CallboardError as refused:  # it fitted when the schedule was made
        tasks, error = (), refused.message
    return Fire(fire_time=fire_time, due_at=due_at, tasks=tasks, missed=missed, error=error)
