"""Lists of tasks: what a filter demands, how a text is looked for, and how many tasks there are in all."""

import base64
import binascii
from typing import Any
from uuid import UUID

import msgspec
from peewee import SQL, Value, fn
from playhouse.pool import PooledPostgresqlDatabase

from tasks import statistics
from tasks.errors import InvalidField
from tasks.models import StateRow, TaskRow
from tasks.plans import is_unfinished
from tasks.records import TaskFilter
from tasks.states import CANCELLED, COMPLETED, FAILED, UNFINISHED

EXACT_UP_TO = 10_000
#: A text is looked for in so many of the newest tasks that fit the other filters.
SEARCHED = 20_000
#: Fewer tasks than these are simply counted.
COUNTED_UP_TO = 1_000

# What a text is looked for in; the parts stand in lines of their own.
_TEXT = SQL("""lower(concat_ws(E'\\n', t1.task_type, t1.project_id, t1.kb_id,
    array_to_string(t1.tags, E'\\n'), t2.message, t2.error->>'code', t2.error->>'message',
    t1.payload::text))""")


class Count(msgspec.Struct, frozen=True):
    """How many there are; at least so many if the number is not exact."""

    total: int
    is_exact: bool


def conditions(wanted: TaskFilter) -> list[Any]:
    """What a filter demands of rows of tasks joined with their states."""
    simple = {
        TaskRow.user_id: wanted.owner,
        TaskRow.task_type: wanted.task_type,
        TaskRow.queue_name: wanted.queue_name,
        TaskRow.kb_id: wanted.kb_id,
        TaskRow.project_id: wanted.project_id,
        TaskRow.parent_id: wanted.parent_id,
        TaskRow.run_id: wanted.run_id,
    }
    demands: list[Any] = [SQL("true")]
    demands += [field == value for field, value in simple.items() if value is not None]
    if wanted.user_id is not None:
        demands.append(TaskRow.user_id == wanted.user_id)
    if wanted.statuses:
        demands.append(StateRow.status.in_(wanted.statuses))
        if len(wanted.statuses) > 1 and UNFINISHED.issuperset(wanted.statuses):
            demands.append(SQL(is_unfinished("t2")))
    if wanted.tag is not None:
        demands.append(SQL("t1.tags @> %s::text[] AND t1.tags <> '{}'", ([wanted.tag],)))
    if wanted.created_after is not None:
        demands.append(TaskRow.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        demands.append(TaskRow.created_at < wanted.created_before)
    if wanted.retryable is not None:
        demands.append(_retryable() if wanted.retryable else ~_retryable())
    if not wanted.stages and wanted.run_id is None:
        demands.append(TaskRow.run_id.is_null())
    return demands


def all_conditions(wanted: TaskFilter) -> list[Any]:
    """What a filter demands, its text included, which is then looked for in all tasks."""
    return conditions(wanted) + ([containing(wanted.q)] if wanted.q else [])


def cursor_after(rows: list[Any]) -> str:
    """The cursor of the page that comes after these rows."""
    return base64.urlsafe_b64encode(rows[-1].id.bytes).decode().rstrip("=")


def last_id(cursor: str) -> UUID:
    """The last task of the page before, as its cursor has it.

    Raises:
      InvalidField: the cursor is not one that an earlier page gave.
    """
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        raise InvalidField.of("cursor", "is not a cursor of an earlier page; leave it out to begin") from None


def _retryable() -> Any:
    """What the verb retry takes: what has failed, unless it is a stage of a run that is over otherwise."""
    run = StateRow.alias("r")
    over = run.select(SQL("1")).where(run.id == TaskRow.run_id, run.status.in_((COMPLETED, CANCELLED)))
    return (StateRow.status == FAILED) & ~fn.EXISTS(over)


def containing(text: str) -> Any:
    """That a task holds a text, in whatever case, or that its id begins with it."""
    lowered = fn.lower(Value(text))
    return (fn.strpos(_TEXT, lowered) > 0) | fn.starts_with(TaskRow.id.cast("text"), lowered)


def oldest_searched(demands: list[Any]) -> UUID | None:
    """The oldest of the tasks that a text is looked for in; None: in all of them."""
    query = TaskRow.select(TaskRow.id).join(StateRow, on=(TaskRow.id == StateRow.id)).where(*demands)
    last = query.order_by(TaskRow.id.desc()).offset(SEARCHED - 1).limit(1).tuples().first()
    return None if last is None else last[0]


def count(database: PooledPostgresqlDatabase, wanted: TaskFilter, demands: list[Any]) -> Count:
    """How many tasks there are: exactly up to 10,000, and where the statistics know it."""
    known = _from_statistics(database, wanted)
    if known is not None and known > COUNTED_UP_TO:
        return Count(known, True)
    query = TaskRow.select(SQL("1"))
    if _asks_for_state(wanted):
        query = query.join(StateRow, on=(TaskRow.id == StateRow.id))
    query = query.where(*demands)
    total = query.limit(EXACT_UP_TO + 1).count()
    if total <= EXACT_UP_TO:
        return Count(total, True)
    return Count(query.count(), True) if _is_plain(wanted) else Count(EXACT_UP_TO, False)


def _asks_for_state(wanted: TaskFilter) -> bool:
    return bool(wanted.statuses) or wanted.retryable is not None or bool(wanted.q)


def simplified(wanted: TaskFilter) -> TaskFilter:
    """The same filter in simpler words: of whole tasks a retry takes all that have failed."""
    if wanted.retryable and not wanted.stages and wanted.run_id is None and not wanted.statuses:
        return msgspec.structs.replace(wanted, retryable=None, statuses=(FAILED,))
    return wanted


def _is_plain(wanted: TaskFilter) -> bool:
    return wanted == TaskFilter(
        owner=wanted.owner,
        user_id=wanted.user_id,
        statuses=wanted.statuses,
        task_type=wanted.task_type,
        queue_name=wanted.queue_name,
        stages=wanted.stages,
    )


def _from_statistics(database: PooledPostgresqlDatabase, wanted: TaskFilter) -> int | None:
    """What the statistics know of it: None, if they do not count what is wanted."""
    if not _is_plain(wanted) or (wanted.user_id not in (None, wanted.owner) and wanted.owner is not None):
        return None
    counts = statistics.kept(
        database.execute_sql,
        user=wanted.user_id if wanted.owner is None else wanted.owner,
        task_type=wanted.task_type,
        queue_name=wanted.queue_name,
        stages=wanted.stages,
    )
    return statistics.kept_in(counts, wanted.statuses)
