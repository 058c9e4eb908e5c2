"""What callers send and get: one struct for each body and each query string.

What is limited here is limited in the record too, or keeps one caller from filling it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from actors.requests import DAY, Id, Moment, Name
from pipelines.documents.metadata import LARGEST_NUMBER, LONGEST_KEY, MOST_KEYS
from pipelines.documents.values import ChunkUnit, EmbedderName
from tasks.records import FURTHEST, MOST_A_PAGE, Attempt, Event, LogLine, Snapshot, StageEdge, Status
from tasks.states import GROUPS, STATES

# What is only white space names nothing.
_SOMETHING = r"^[^\x00]*[^\x00\s][^\x00]*$"
_NOT_BLANK = {"must": "hold more than white space, and no NUL"}
Title = Annotated[str, Meta(min_length=1, max_length=255, pattern=_SOMETHING, extra=_NOT_BLANK)]
BaseTitle = Annotated[str, Meta(min_length=1, max_length=200, pattern=_SOMETHING, extra=_NOT_BLANK)]
# "$" also matches before a last line break, hence the look-ahead.
BaseId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]+$(?!\n)",
        extra={"must": "consist of letters, digits and . _ - (A-Z, a-z, 0-9)"},
    ),
]

# What is checked elsewhere is described here, for readers of the OpenAPI document.
_STATUS = f"({'|'.join((*STATES, *GROUPS))})"
Statuses = Annotated[str, Meta(max_length=200, extra_json_schema={"pattern": f"^{_STATUS}(,{_STATUS})*$"})]
_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
Ids = Annotated[
    str,
    Meta(
        description="Ids, by commas or repeated.",
        max_length=4_000,
        extra_json_schema={"pattern": f"^{_ID}(,{_ID})*$"},
    ),
]
TasksMeant = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/TasksMeant"})]
OneOfBatch = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/TaskRequest"})]


class BatchRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /tasks/batch``; the items are read one by one, to name the bad ones."""

    tasks: Annotated[list[OneOfBatch], Meta(min_length=1, max_length=10_000)]


#: Far more than anybody waits for; the room is counted up to it.
MOST_WAITING = 1_000_000


class RateLimitRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate limit: ``limit`` starts in ``per_seconds``, and ``burst`` (by default ``limit``) at once."""

    limit: Annotated[int, Meta(ge=1, le=1_000_000)]
    per_seconds: Annotated[float, Meta(gt=0, le=DAY)] = 1.0
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class QueueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /queues``; what is left out stays as it is, and is the default in a new queue."""

    name: Name
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    rate_limit: RateLimitRequest | None = None
    max_size: Annotated[int, Meta(ge=1, le=MOST_WAITING)] | None = None


class Paged(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of any list: by page, by offset or by cursor."""

    page: Annotated[int, Meta(ge=1, le=FURTHEST)] | None = None
    page_size: Annotated[int, Meta(ge=1, le=MOST_A_PAGE)] | None = None
    offset: Annotated[int, Meta(ge=0, le=FURTHEST)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_A_PAGE)] | None = None
    cursor: Annotated[str, Meta(max_length=100)] | None = None


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


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of a search.

    Beside these, ``metadata.KEY=value`` narrows it to documents with that value; repeat it for other
    keys (all must fit) or other values of one key (any may).
    """

    q: Annotated[str, Meta(min_length=1, max_length=2_000)]
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    mode: Literal["hybrid", "text", "vector"] = "hybrid"
    explain: bool = False
    highlight: bool = False
    weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    document_id: Ids | None = None


class KnowledgeBaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /knowledge-bases``: an id, a name, or both; and what embeds its documents."""

    kb_id: BaseId | None = None
    name: BaseTitle | None = None
    embedder: EmbedderName | None = None
    user_id: Id | None = None


class ReembedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST …/reembed``: what is to embed the knowledge base from now on."""

    embedder: EmbedderName


class Reembedding(msgspec.Struct, frozen=True):
    """The task that embeds a knowledge base anew."""

    task_id: UUID


_Number = Annotated[float, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
_Whole = Annotated[int, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
_Value = str | bool | _Whole | _Number
_Key = Annotated[str, Meta(min_length=1, max_length=LONGEST_KEY)]
#: What users say about a document (see `pipelines.documents.metadata`).
DocumentMetadata = Annotated[dict[_Key, _Value | list[_Value]], Meta(max_length=MOST_KEYS)]


class DocumentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST …/documents``: a text with its name, a URL, or a file that the server can read."""

    name: Title | None = None
    text: Annotated[str, Meta(min_length=1)] | None = None
    url: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    file_path: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    chunk_size: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    chunk_overlap: Annotated[int, Meta(ge=0, le=100_000)] = 200
    chunk_unit: ChunkUnit = "characters"
    metadata: DocumentMetadata | None = None


class UploadFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields beside the file in a multipart ``POST …/documents``."""

    name: Title | None = None
    chunk_size: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    chunk_overlap: Annotated[int, Meta(ge=0, le=100_000)] = 200
    chunk_unit: ChunkUnit = "characters"
    metadata: Annotated[str, Meta(max_length=65_536, description="A JSON object.")] | None = None


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


class ServerStatus(msgspec.Struct, frozen=True):
    """How the server is."""

    status: Literal["ok", "ready"]


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


class FieldError(msgspec.Struct, frozen=True):
    """A field that was refused, and why."""

    field: str
    message: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error, as RFC 9457 has it; ``code`` is the stable word for programs."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: Sequence[FieldError] = ()
    request_id: str
