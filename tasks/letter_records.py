"""What readers get about dead letters, their clusters, and the jobs that replay them."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tasks.records import Task

#: The states of a job in which the clocks work on it.
ACTIVE = ("pending", "canary", "running")
#: The kinds of dead letters: of a task of ours, or of a message of somebody else.
TASK, FOREIGN = "task", "foreign"


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; None does not filter. ``owner`` is the user whose letters may be seen at all.

    ``q`` is a text in the type, error class, code or message, in whatever case, or the beginning of an id; in
    lists it is looked for in the newest 20,000 letters that fit the rest.
    ``since`` and ``until`` are about when it failed: [since, until). ``cluster`` is a fingerprint.
    ``resolution`` is ``open`` (none yet), ``any``, or what became of it.
    """

    owner: str | None = None
    task_type: str | None = None
    queue_name: str | None = None
    error_class: str | None = None
    q: str | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    cluster: str | None = None
    resolution: str = "open"


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: a final failure. Its ``kind`` is ``task``, or ``foreign``: a message that is not ours.

    ``task_id`` of a foreign one is the task that its replay submitted, if it called a type of ours.

    ``fingerprint`` is that of its cluster. ``resolution`` is replayed, retried, recovered or discarded, None
    while it is open; ``resolved_by`` is who wanted that: ``user:…``, ``replay:<id>``, None if nobody knows.
    """

    dead_letter_id: UUID
    kind: str
    task_id: UUID | None
    task_type: str
    queue_name: str
    user_id: str | None
    run_id: UUID | None
    stage: str | None
    attempt: int
    error_class: str
    error: dict[str, str]
    fingerprint: str | None
    failed_at: datetime
    resolution: str | None
    resolved_at: datetime | None
    resolved_by: str | None


class LetterDetail(Letter, frozen=True, kw_only=True):
    """A dead letter with the ``payload`` that failed, and its task as it is now (None: it is gone).

    The payload of a foreign one is its message: ``body``, ``encoding`` (utf-8 or base64), ``size_bytes`` and
    ``properties``.

    ``replay_id`` is the job that replayed it, if one did.
    """

    payload: Any
    traceback: str | None
    replay_id: UUID | None
    task: Task | None


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that failed alike, and match a filter: how many, and which are the newest.

    ``message`` is that of the newest. ``first_seen`` and ``last_seen`` are about all on record of this
    fingerprint, whatever became of them.
    """

    fingerprint: str
    error_class: str
    message: str
    count: int
    first_seen: datetime
    last_seen: datetime
    task_types: list[str]
    queues: list[str]
    newest: list[UUID]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A letter that may be replayed, and what is needed to judge another payload for its task.

    ``objection`` is why it cannot be. Of a job it is the item at ``position``, under a ``ticket``.
    """

    dead_letter: UUID
    task_id: UUID | None
    failed_at: datetime
    task_type: str
    user_id: str
    project_id: str | None
    kb_id: str | None
    is_stage: bool
    payload: Any
    objection: str | None
    position: int = 0
    ticket: UUID | None = None


class Survey(msgspec.Struct, frozen=True):
    """What a replay would do: how many letters it is for, how many not, and of these how many for a reason.

    Reasons: ``resolved`` (replayed or discarded already), ``not_failed``, ``run_is_over``, ``foreign``,
    ``missing``, or why the payload would not fit.
    """

    eligible: int
    ineligible: int
    reasons: dict[str, int]


class ReplayJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that replays many dead letters. ``rate`` is items a second, ``size`` how many items there are.

    ``status``: pending, canary, running, completed (every item has its result), aborted, or stopped (a canary
    did not complete: ``reason``). ``counts`` are the items pending, replayed and skipped, ``outcomes`` those
    that were replayed by the state of their tasks' new round.
    """

    replay_id: UUID
    status: str
    reason: str | None
    filter: dict[str, Any]
    payload_patch: dict[str, Any] | None
    canary: int
    rate: float | None
    limit: int
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    size: int
    counts: dict[str, int]
    outcomes: dict[str, int]


class ReplayItem(msgspec.Struct, frozen=True, kw_only=True):
    """A letter of a job. ``status``: pending, replayed, or skipped for a ``reason``.

    ``outcome`` is the state of the round that it opened: how it ended, or how far it is.
    """

    position: int
    dead_letter_id: UUID
    task_id: UUID | None
    status: str
    reason: str | None
    is_canary: bool
    outcome: str | None
    replayed_at: datetime | None


class ActiveReplay(msgspec.Struct, frozen=True):
    """A job that has work to do now."""

    id: UUID
    payload_patch: dict[str, Any] | None
