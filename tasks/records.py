"""What readers get: a task with the fields of the contract, in their order."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from tasks.states import STATES

#: A state by its name; what readers of the OpenAPI document are told about it.
Status = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(STATES)})]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is on record. ``progress`` is 0-100, ``duration_ms`` milliseconds, ``timeout`` seconds."""

    task_id: UUID
    task_type: str
    status: Status
    progress: float
    phase: str | None
    message: str | None
    details: dict[str, Any] | None
    queue_name: str
    priority: int
    payload: Any
    result: Any
    error: dict[str, Any] | None
    attempts: int
    max_retries: int
    timeout: float
    user_id: str | None
    project_id: str | None
    kb_id: str | None
    created_by: str
    tags: list[str]
    parent_id: UUID | None
    run_id: UUID | None
    stage: str | None
    depends_on: list[UUID]
    run_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: float | None
    estimated_completion: datetime | None
    wait_reason: str | None


def milliseconds(began: datetime | None, over: datetime | None) -> float | None:
    """How long something took; None unless it has begun and is over."""
    return round((over - began).total_seconds() * 1_000, 3) if began and over else None


#: How much of a list may be asked for at once, and the furthest that it can be paged into by number.
MOST_A_PAGE = 1_000
FURTHEST = 1_000_000_000


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list; None does not filter. ``owner`` is the user whose tasks may be seen at all.

    ``retryable`` are those that the verb retry takes. ``q`` is a text in a task's type, project, knowledge
    base, tags, message, error or payload, in whatever case, or the beginning of its id; it is looked for in
    the newest 20,000 tasks that fit the rest.
    """

    owner: str | None = None
    statuses: tuple[str, ...] = ()
    task_type: str | None = None
    queue_name: str | None = None
    kb_id: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    tag: str | None = None
    parent_id: UUID | None = None
    run_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    retryable: bool | None = None
    q: str | None = None
    stages: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list: after a cursor if there is one, else from ``offset``."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_A_PAGE)] = 20
    offset: Annotated[int, msgspec.Meta(ge=0, le=FURTHEST)] = 0
    cursor: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. ``outcome`` is running, completed, error, lost, cancelled or released (handed back).

    ``status`` is the state of the task after it, ``worker`` the process that made it, ``error`` its
    ``code`` and ``message``.
    """

    attempt: int
    outcome: str
    status: str
    error: dict[str, Any] | None
    traceback: str | None
    worker: UUID | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_ms: float | None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that the actor of a task logged, in which attempt."""

    event_id: int
    level: str
    logger: str | None
    message: str | None
    timestamp: datetime
    attempt: int | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A state that was saved; ``size_bytes`` is that of its JSON."""

    version: int
    created_at: datetime
    size_bytes: int


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot with what was saved."""

    task_id: UUID
    version: int
    state: Any
    created_at: datetime


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a graph; ``index`` counts the items of a mapped stage."""

    task_id: UUID
    task_type: str
    stage: str | None
    index: int | None
    status: str
    progress: float
    duration_ms: float | None
    wait_reason: str | None


class Edge(msgspec.Struct, frozen=True):
    """From a run to its ``stage``, a ``dependency`` to who needs it, or a ``parent`` to its derivative."""

    source: UUID
    target: UUID
    kind: str


class StageNode(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a run: how many tasks it has, and how they are.

    ``status`` is that of its tasks all together; without any it is ``pending``, or ``skipped`` where the run
    has gone another way. ``total`` is how many tasks a map comes to, as far as it is known. ``duration_ms``
    is what its completed tasks took together, ``expected_ms`` what they took in earlier runs on average.
    """

    stage: str
    task_type: str
    queue_name: str
    status: str
    tasks: int
    completed: int
    failed: int
    running: int
    waiting: int
    total: int | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: float
    expected_ms: float | None
    wait_reason: str | None
    error: dict[str, Any] | None


class StageEdge(msgspec.Struct, frozen=True):
    """From a stage to one that comes after it.

    ``kind``: ``next``; ``map``: one task for each item; ``then`` and ``otherwise`` of a choice; ``failure``:
    stands in for it.
    """

    source: str
    target: str
    kind: str


class RunGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A run by its stages, in the order of the pipeline. Nothing but what ran is known of other versions."""

    run_id: UUID
    pipeline: str
    version: str | None
    status: str
    progress: float
    estimated_completion: datetime | None
    stages: list[StageNode]
    edges: list[StageEdge]


class Graph(msgspec.Struct, frozen=True):
    """Tasks and how they hang together; ``truncated``: there are more than a graph shows.

    Where the task is a run or one of its stages, ``run`` shows that run by its stages.
    """

    nodes: list[Node]
    edges: list[Edge]
    truncated: bool
    run: RunGraph | None = None


class StageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record of a stage of a run; ``counts`` are its tasks by their state."""

    stage: str
    task_type: str
    queue_name: str
    counts: dict[str, int]
    started_at: datetime | None
    ended_at: datetime | None
    spent_ms: float
    wait_reason: str | None
    error: dict[str, Any] | None


class Spent(msgspec.Struct, frozen=True):
    """How many tasks of a type have completed, and how long they took together, in milliseconds."""

    count: int
    duration_ms: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks there were and how they ended; durations are those of completed tasks, in milliseconds.

    ``success_rate`` is 0-100 of the completed and failed ones. Where nothing has ended, figures are 0.
    Percentiles are exact to 2.5%.
    """

    total: int
    completed: int
    failed: int
    cancelled: int
    success_rate: float
    avg_duration_ms: float
    p50: float
    p95: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket of a series, by when tasks were created."""

    start: datetime
    total: int
    completed: int
    failed: int
    cancelled: int


class Series(msgspec.Struct, frozen=True):
    """Buckets (``minute``, ``hour`` or ``day``) in their order; those without tasks are left out."""

    bucket: str
    points: list[Point]


class Statistics(Figures, frozen=True, kw_only=True):
    """The figures of a window: of all tasks, of each type and queue, and as a series."""

    by_type: dict[str, Figures]
    by_queue: dict[str, Figures]
    series: Series


class TaskPage(msgspec.Struct, frozen=True):
    """A part of a list, how many there are in all, and where the next part begins."""

    tasks: list[Task]
    total: int
    total_is_exact: bool
    next_cursor: str | None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a task's history; ``data`` is there where a report or a line says more than its text."""

    event_id: int
    kind: str
    phase: str | None
    progress: float | None
    message: str | None
    status: Status
    timestamp: datetime
    data: dict[str, Any] | None = None


class RateLimit(msgspec.Struct, frozen=True):
    """At most ``limit`` starts in ``per_seconds``, and up to ``burst`` of them at once."""

    limit: int
    per_seconds: float
    burst: int


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A named queue. Of its tasks ``concurrency`` may run at once, and ``max_size`` whole ones wait in it.

    None: any number.
    """

    name: str
    concurrency: int | None
    rate_limit: RateLimit | None
    max_size: int | None
    paused: bool
    created_at: datetime
    updated_at: datetime


class Percentiles(msgspec.Struct, frozen=True):
    """Half of what was measured, and 95 of 100, were no more than this; None: nothing was measured."""

    p50: float | None
    p95: float | None


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is in a queue, with the stages of runs, and what became of its newest tasks.

    ``size`` is what counts against ``capacity`` (its max_size): whole tasks that wait, and unfinished runs.
    ``dead`` are open dead letters. ``oldest_age_s`` is how long the oldest ready task has been waiting.
    ``completed``, ``failed``, ``throughput`` (finished tasks a second) and the milliseconds ``wait_ms`` (from
    being ready to the start) and ``run_ms`` are those of the last hour, as far as the newest tasks tell
    (2,000).
    """

    name: str
    queued: int
    running: int
    scheduled: int
    retrying: int
    blocked: int
    completed: int
    failed: int
    dead: int
    size: int
    capacity: int | None
    concurrency: int | None
    paused: bool
    oldest_age_s: float | None
    throughput: float
    wait_ms: Percentiles
    run_ms: Percentiles
