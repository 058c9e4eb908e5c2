"""What callers send and get about tasks, their streams and pipelines."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from actors.requests import Id, Moment
from api.schemas.common import Paged
from tasks.records import Attempt, Event, LogLine, Snapshot, StageEdge, Status
from tasks.states import GROUPS, STATES

# What is checked elsewhere is described here, for readers of the OpenAPI document.
_STATUS = f"({'|'.join((*STATES, *GROUPS))})"
Statuses = Annotated[str, Meta(max_length=200, extra_json_schema={"pattern": f"^{_STATUS}(,{_STATUS})*$"})]
TasksMeant = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/TasksMeant"})]
OneOfBatch = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/TaskRequest"})]


class BatchRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /tasks/batch``; the items are read one by one, to name the bad ones."""

    tasks: Annotated[list[OneOfBatch], Meta(min_length=1, max_length=10_000)]


class TaskListing(Paged, frozen=True, kw_only=True):
    """The query string of ``GET /tasks``; ``status`` takes several, by commas.

    ``retryable`` are those that a retry would take. ``q`` is looked for in type, project, knowledge base,
    tags, message, error and payload, and at the beginning of the id: in the newest 20,000 tasks that fit
    the rest.
    """

    task_type: Id | None = None
    queue_name: Id | None = None
    status: Statuses | None = None
    kb_id: Id | None = None
    user_id: Id | None = None
    project_id: Id | None = None
    tag: Id | None = None
    parent_id: UUID | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    retryable: bool | None = None
    q: Annotated[str, Meta(max_length=200)] | None = None
    stages: bool = False


class BulkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /tasks/cancel``, ``/retry`` and ``/delete``: which tasks, and whether to only count.

    ``filter`` has the fields of `TaskListing` but for those of paging; ``status`` may be a list there.
    """

    filter: TasksMeant
    dry_run: bool = False


class BulkOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a verb did to all tasks that match a filter; with ``dry_run`` what it would have done.

    ``matched`` are all that match, ``eligible`` those of them that the verb is for. Of these so many were
    ``cancelled``, ``retried`` or ``deleted`` (the others of the three are left out). ``skipped`` counts by
    reason what matched and was left alone: its state, ``stage``, ``run_is_over``, or what it had become
    meanwhile. ``more``: there are eligible tasks left, ask again.
    """

    matched: int
    eligible: int
    cancelled: int | msgspec.UnsetType = msgspec.UNSET
    retried: int | msgspec.UnsetType = msgspec.UNSET
    deleted: int | msgspec.UnsetType = msgspec.UNSET
    skipped: dict[str, int]
    dry_run: bool
    more: bool


class TaskStatus(msgspec.Struct, frozen=True):
    """How far a task is."""

    task_id: UUID
    status: Status
    phase: str | None
    progress: float
    message: str | None
    details: dict[str, Any] | None
    updated_at: datetime


class StreamQuery(msgspec.Struct, frozen=True):
    """The query string of ``GET …/stream``; the header Last-Event-ID says the same."""

    last_event_id: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class SocketMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client of ``/ws`` sends: the tasks to follow, after which events, and which no more."""

    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    after: dict[str, Annotated[int, Meta(ge=0)]] = {}


class SocketError(msgspec.Struct, frozen=True):
    """The data of an error's frame on ``/ws``."""

    code: str
    detail: str


class TaskResult(msgspec.Struct, frozen=True):
    """What came of a task that is over."""

    task_id: UUID
    status: Status
    result: Any
    error: dict[str, Any] | None


class TaskHistory(msgspec.Struct, frozen=True):
    """The events of a task, oldest first."""

    history: Sequence[Event]
    total: int
    total_is_exact: bool
    next_cursor: str | None


class TaskAttempts(msgspec.Struct, frozen=True):
    """The attempts of a task, oldest first; also the one that runs now."""

    attempts: Sequence[Attempt]
    total: int
    total_is_exact: bool
    next_cursor: str | None


class TaskLogs(msgspec.Struct, frozen=True):
    """What the actor of a task logged, oldest first."""

    logs: Sequence[LogLine]
    total: int
    total_is_exact: bool
    next_cursor: str | None


class TaskSnapshots(msgspec.Struct, frozen=True):
    """The snapshots that are kept of a task, oldest first."""

    snapshots: Sequence[Snapshot]
    total: int
    total_is_exact: bool
    next_cursor: str | None


class SnapshotQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of ``GET …/snapshot``: a version, or ``latest``."""

    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | Literal["latest"] = "latest"


class StatisticsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of ``GET /tasks/statistics``.

    Counted are tasks that were created from ``start_time`` on, before ``end_time``. ``stages`` counts
    the stages of runs too.
    """

    start_time: Moment | None = None
    end_time: Moment | None = None
    task_type: Id | None = None
    queue_name: Id | None = None
    user_id: Id | None = None
    stages: bool = False


class PipelineStage(msgspec.Struct, frozen=True):
    """A stage of a pipeline; ``batch`` is None unless it is mapped over the output of the stage before."""

    name: str
    task_type: str
    queue_name: str
    batch: int | None


class PipelineShape(msgspec.Struct, frozen=True):
    """What a pipeline is made of; of several versions it is the one that new runs go by."""

    name: str
    version: int
    queue_name: str
    stages: Sequence[PipelineStage]
    edges: Sequence[StageEdge]
