"""What goes into the ledger and what comes out of it: plain frozen values."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from tasks.ids import new_id

#: JSON as it is kept: encoded once, where the value was made.
Json = msgspec.Raw

DEFAULT_PRIORITY = 5
#: Under this key of its overrides a run keeps the version of its pipeline.
VERSION = "version"


def version_of(overrides: Mapping[str, Any] | None) -> str | None:
    """The version of the pipeline that a run or a stage with these overrides goes by, if it is on record."""
    return (overrides or {}).get(VERSION)


def plan_of(version: str) -> str:
    """The fingerprint in a version: with the same plan a run can go on whatever its number is."""
    return version.rpartition("-")[2]


def announced(pipeline: str, version: str) -> str:
    """How a process says among its types that it knows a plan of a pipeline."""
    return f"{pipeline}@{plan_of(version)}"


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is asked for. ``delay`` and ``timeout`` are seconds; ``payload`` is any JSON value.

    ``overrides`` is what a run hands to all of its stages: what its order says of ``max_retries``,
    ``timeout`` and ``backoff``, and the ``version`` of the pipeline that it goes by. Of all tasks with its
    ``concurrency_key`` no more than ``concurrency`` run at once.
    """

    task_type: str
    queue_name: str
    payload: Any = msgspec.field(default_factory=dict)
    id: UUID = msgspec.field(default_factory=new_id)
    priority: int = DEFAULT_PRIORITY
    max_retries: int = 3
    backoff: dict[str, Any] | None = None
    timeout: float = 300.0
    delay: float | None = None
    run_at: datetime | None = None
    user_id: str = ""
    project_id: str | None = None
    kb_id: str | None = None
    created_by: str = "system"
    tags: tuple[str, ...] = ()
    parent_id: UUID | None = None
    run_id: UUID | None = None
    stage: str | None = None
    stage_index: int | None = None
    depends_on: tuple[UUID, ...] = ()
    on_dependency_failure: str = "fail"
    is_run: bool = False
    unique_key: str | None = None
    callback_url: str | None = None
    overrides: dict[str, Any] | None = None
    concurrency: int | None = None
    concurrency_key: str | None = None

    @property
    def version(self) -> str | None:
        """The version of the pipeline that a run or a stage goes by, if it is on record."""
        return version_of(self.overrides)


class TaskType(msgspec.Struct, frozen=True):
    """A declared type and the queue that its tasks go to unless they say otherwise.

    ``concurrency`` of its tasks run at once, or of those that are alike in what ``concurrency_key`` names.
    """

    name: str
    queue_name: str
    is_pipeline: bool = False
    concurrency: int | None = None
    concurrency_key: str | None = None


class Once(msgspec.Struct, frozen=True):
    """A submission that is made once for a key: who makes it, where, and a fingerprint of what is asked."""

    caller: str
    route: str
    key: str
    fingerprint: str


class Accepted(msgspec.Struct, frozen=True):
    """A task as it was committed."""

    id: UUID
    status: str
    created_at: datetime
    run_at: datetime | None


class Hint(msgspec.Struct, frozen=True):
    """A ready task that was stamped with a dispatch: a message about it may be published now."""

    task_id: UUID
    task_type: str
    queue: str
    priority: int
    dispatch: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A final failure whose copy is owed to ``<queue>.XQ``, stamped with a dispatch like any hint."""

    id: UUID
    task_id: UUID
    task_type: str
    queue: str
    attempt: int
    code: str
    message: str
    traceback: str | None
    dispatch: int


#: What is published after a commit.
Publication: TypeAlias = Hint | DeadLetter


class Backlog(msgspec.Struct, frozen=True):
    """What is ready in a queue and not claimed: what waits for a dispatch, and what was sent to RabbitMQ.

    ``room`` is how many more may be sent, if the queue is steered (`tasks.allowances`). If a token is all
    that is missing, there is one in ``token_in`` seconds.
    """

    waiting: int
    sent: int
    room: int | None = None
    token_in: float | None = None


class Arrival(msgspec.Struct, frozen=True):
    """A message that arrived: the task it names, and the dispatch that sent it."""

    task_id: UUID
    dispatch: int


class Claimed(msgspec.Struct, frozen=True):
    """A task that this process may run. Every later write about it carries ``token``.

    A ``suspect`` runs alone. ``state`` is what the last checkpoint saved, under the version ``snapshot``.
    """

    id: UUID
    token: int
    attempt: int
    failures: int
    deaths: int
    task_type: str
    queue: str
    payload: Json
    max_retries: int
    backoff: dict[str, Any] | None
    timeout: float
    priority: int
    user_id: str
    project_id: str | None
    kb_id: str | None
    tags: list[str]
    run_id: UUID | None
    stage: str | None
    stage_index: int | None
    overrides: dict[str, Any] | None = None
    suspect: bool = False
    snapshot: int = 0
    state: Json | None = None

    @property
    def version(self) -> str | None:
        """The version of the pipeline that a stage goes by, if it is on record."""
        return version_of(self.overrides)


class Fetched(list["Claimed"]):
    """What a fetch claimed. There may be more ``again_in`` seconds from now, without anybody saying so.

    Then a queue has its next token, or whoever judges the queue just now is done.
    """

    def __init__(self, claims: Iterable["Claimed"] = (), again_in: float | None = None) -> None:
        super().__init__(claims)
        self.again_in = again_in


class Refused(msgspec.Struct, frozen=True):
    """An arrival that must not run: ``reason`` is stale, running, finished, cancelled_run or parked.

    Or it is sent_back: its queue is paused or full, or has no token, and it will arrive again.
    """

    task_id: UUID
    reason: str
    worker: UUID | None = None


class TaskError(msgspec.Struct, frozen=True):
    """Why an attempt failed: a stable code, a sentence for people, and the traceback for developers."""

    code: str
    message: str
    traceback: str | None = None
    error_class: str = "Error"


class RunProgress(msgspec.Struct, frozen=True):
    """How far a run is: ``progress`` is 0-100, ``phase`` its stage, ``details`` the steps of that stage."""

    run_id: UUID
    progress: float
    phase: str | None = None
    details: dict[str, Any] | None = None


class Keep(msgspec.Struct, frozen=True):
    """Where an output is kept for tasks with the same input, and for how many seconds."""

    key: bytes
    seconds: float


class Reusable(msgspec.Struct, frozen=True):
    """An output that is kept, and the task that it came from."""

    task_id: UUID
    result: Any


class Complete(msgspec.Struct, frozen=True):
    """A finished attempt, its result, and the tasks that follow from it in the same transaction.

    Its result is also kept as ``keep`` says, or was taken from the task ``reused``.
    """

    id: UUID
    token: int
    result: Any
    successors: Sequence[NewTask] = ()
    run: RunProgress | None = None
    keep: Keep | None = None
    reused: UUID | None = None


class HandOut(msgspec.Struct, frozen=True):
    """Tasks that an attempt hands out while it runs."""

    id: UUID
    token: int
    tasks: Sequence[NewTask]


class StageState(msgspec.Struct, frozen=True):
    """A stage of a run, as the flow sees it."""

    id: UUID
    stage: str
    index: int
    status: str
    error: dict[str, Any] | None


class Joining(msgspec.Struct, frozen=True):
    """Tasks of some stages of a run that lead to a join: how many have begun, and are not over yet."""

    begun: int
    unfinished: int
    some_fell: bool
    #: The steps of the run, as its progress was last reported.
    details: dict[str, Any] | None = None


class RunState(msgspec.Struct, frozen=True):
    """A run and its stages, as the flow sees them. What operators have run again begins another ``round``."""

    id: UUID
    task_type: str
    status: str
    round: int
    task: NewTask
    stages: list[StageState]


class Advance(msgspec.Struct, frozen=True):
    """What the flow decided for a run. ``status`` ends it: completed, failed or cancelled; None goes on.

    It is decided for one ``round``: an operator who opened another one meanwhile makes it void. A run that
    has no version yet goes by ``version`` from now on.
    """

    run_id: UUID
    successors: Sequence[NewTask] = ()
    status: str | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    round: int = 0
    version: str | None = None
    progress: RunProgress | None = None
