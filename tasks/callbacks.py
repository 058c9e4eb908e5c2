"""Callbacks as values: webhooks, what is delivered to whom, and what came of each attempt."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from tasks.records import milliseconds
from tasks.states import FINAL

#: What is told: that a task reached one of its final states.
EVENTS = tuple(sorted(FINAL))
#: The states of a delivery: it is sent again until it is delivered, or given up.
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
DELIVERY_STATES = (PENDING, DELIVERED, FAILED)

Event = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(EVENTS)})]
DeliveryStatus = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(DELIVERY_STATES)})]


class WebhookFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks a webhook hears of; None does not filter. Of stages only with ``stages``."""

    task_type: str | None = None
    queue_name: str | None = None
    user_id: str | None = None
    kb_id: str | None = None
    project_id: str | None = None
    tag: str | None = None
    stages: bool = False


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook that is to be; ``owner`` is the user of whose tasks it hears (None: of everybody's)."""

    id: UUID
    owner: str | None
    url: str
    secret: str
    events: tuple[str, ...]
    filter: WebhookFilter
    created_by: str


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook as it is shown: its URL without the query, and without its secret."""

    webhook_id: UUID
    url: str
    events: list[Event]
    filter: WebhookFilter
    user_id: str | None
    created_by: str
    created_at: datetime


class DeliveryAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: when it began, the ``status_code`` of the answer or why there was none, and how long."""

    at: datetime
    status_code: int | None
    error: str | None
    duration_ms: float


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What is delivered about one end of a task to one receiver, and the newest of its attempts.

    ``webhook_id`` is None for the task's own callback_url; ``url`` is shown without its query.
    ``next_attempt_at`` is None when no attempt follows.
    """

    delivery_id: UUID
    task_id: UUID
    event: Event
    webhook_id: UUID | None
    url: str
    status: DeliveryStatus
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None
    created_at: datetime


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a task as its end left them; a new round may have changed them since."""

    status: str
    progress: float
    phase: str | None
    message: str | None
    details: dict[str, Any] | None
    result: Any
    error: dict[str, Any] | None
    attempts: int
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    def fields(self) -> dict[str, Any]:
        """The fields of a `tasks.records.Task` that follow from it, with times in UTC."""
        found = msgspec.structs.asdict(self)
        return {
            **{name: _in_utc(value) for name, value in found.items()},
            "progress": round(self.progress, 2),
            "duration_ms": milliseconds(self.started_at, self.completed_at),
            "estimated_completion": None,
            "wait_reason": None,
        }


class DueDelivery(msgspec.Struct, frozen=True):
    """A delivery that is this process's to attempt now, until its lease is over.

    ``tries`` is how many attempts failed since it was asked for. ``secret`` is None for a callback_url, and
    for a webhook that is gone.
    """

    id: UUID
    claim: UUID
    task_id: UUID
    webhook_id: UUID | None
    event: str
    url: str
    host: str
    ended: Ending
    tries: int
    secret: str | None

    @property
    def is_orphan(self) -> bool:
        """Whether its webhook is gone."""
        return self.webhook_id is not None and self.secret is None


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt: the delivery's ``status`` after it, and in how many seconds it is due."""

    id: UUID
    claim: UUID
    status: str
    due_in: float
    attempt: DeliveryAttempt


def _in_utc(value: Any) -> Any:
    """A moment in UTC, whatever the time zone of the session that wrote it; other values as they are."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
