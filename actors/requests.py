"""Requests for tasks: what callers may say, over HTTP and from Python, and the order that comes of it.

What is limited here is limited in the record too, or keeps one caller from filling it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from actors import backoff
from actors.fields import spell
from actors.submission import Order
from tasks import names
from tasks.errors import InvalidField
from tasks.records import TaskFilter
from tasks.states import GROUPS, STATES

DAY = 86_400.0
PRIORITIES = {"low": 2, "normal": 5, "high": 8, "critical": 10}

# "$" also matches before a last line break, hence the look-ahead.
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9_.:-]+$(?!\n)",
        extra={"must": "consist of letters, digits and _ . : - (A-Z, a-z, 0-9)"},
    ),
]
Id = Annotated[str, Meta(max_length=200)]
Tag = Annotated[str, Meta(min_length=1, max_length=100)]
Moment = Annotated[datetime, Meta(tz=True)]
Priority = Annotated[int, Meta(ge=0, le=10)] | Literal["low", "normal", "high", "critical"]

# What `actors.backoff` checks is described here, for readers of the OpenAPI document.
_SECONDS = {"type": "number", "exclusiveMinimum": 0, "maximum": backoff.LONGEST}
_BACKOFF = {
    "properties": {
        "kind": {"enum": list(backoff.KINDS)},
        **dict.fromkeys(backoff.NUMBERS, _SECONDS),
    },
    "required": ["kind"],
    "additionalProperties": False,
}
# And what `tasks.names` checks.
_VISIBLE = r"[^\s\x00-\x1f\x7f-\x9f]+"
_KEY = {"minLength": 1, "maxLength": names.LONGEST_KEY, "pattern": f"^{_VISIBLE}$"}
_URL = {"maxLength": names.LONGEST_URL, "pattern": f"^https?://{_VISIBLE}$"}
UniqueKey = Annotated[str, Meta(extra_json_schema=_KEY)]
CallbackUrl = Annotated[str, Meta(extra_json_schema=_URL)]
Backoff = (
    Annotated[str, Meta(extra_json_schema={"enum": list(backoff.KINDS)})]
    | Annotated[dict[str, Any], Meta(extra_json_schema=_BACKOFF)]
)

#: Other spellings of the fields of a task.
SYNONYMS = {"type": "task_type", "params": "payload", "retry_limit": "max_retries"}


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /tasks``, and the arguments of `submit`. None leaves it to the type's policy.

    Times are seconds.
    """

    task_type: Name
    payload: Any = msgspec.field(default_factory=dict)
    queue_name: Name | None = None
    priority: Priority = "normal"
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    backoff: Backoff | None = None
    timeout: Annotated[float, Meta(gt=0, le=DAY)] | None = None
    delay: Annotated[float, Meta(ge=0, le=366 * DAY)] | None = None
    run_at: Moment | None = None
    kb_id: Id | None = None
    user_id: Id | None = None
    project_id: Id | None = None
    tags: Annotated[tuple[Tag, ...], Meta(max_length=50)] = ()
    depends_on: Annotated[tuple[UUID, ...], Meta(max_length=1_000)] = ()
    on_dependency_failure: Literal["fail", "wait"] = "fail"
    unique_key: UniqueKey | None = None
    callback_url: CallbackUrl | None = None


class FilterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of `list_tasks` and `count`: those of ``GET /tasks``, and the run that stages belong to.

    ``status`` takes several states, in a list or by commas.
    """

    task_type: Id | None = None
    queue_name: Id | None = None
    status: str | list[str] | None = None
    kb_id: Id | None = None
    user_id: Id | None = None
    project_id: Id | None = None
    tag: Id | None = None
    parent_id: UUID | None = None
    run_id: UUID | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    retryable: bool | None = None
    q: Annotated[str, Meta(max_length=200)] | None = None
    stages: bool = False


def filter_of(request: FilterRequest) -> TaskFilter:
    """Which tasks a request means.

    Raises:
      InvalidField: a status is unknown, or a moment is out of range.
    """
    asked = msgspec.structs.asdict(request)
    status = asked.pop("status") or ""
    for name in ("created_after", "created_before"):
        asked[name] = in_utc(asked[name], name)
    return TaskFilter(statuses=statuses(status if isinstance(status, str) else ",".join(status)), **asked)


def order_of(request: TaskRequest, *, user_id: str, created_by: str) -> Order:
    """What a request asks for, in the name of ``user_id``.

    Raises:
      InvalidField: fields contradict each other or are out of range.
    """
    if request.delay is not None and request.run_at is not None:
        raise InvalidField.of("run_at", "cannot be used together with delay: give one of them")
    priority = request.priority
    return Order(
        task_type=request.task_type,
        payload=request.payload,
        queue_name=request.queue_name,
        priority=priority if isinstance(priority, int) else PRIORITIES[priority],
        max_retries=request.max_retries,
        backoff=None if request.backoff is None else backoff.parse(request.backoff),
        timeout=request.timeout,
        delay=request.delay,
        run_at=in_utc(request.run_at, "run_at"),
        user_id=user_id,
        project_id=request.project_id or None,
        kb_id=request.kb_id or None,
        created_by=created_by,
        tags=request.tags,
        depends_on=request.depends_on,
        on_dependency_failure=request.on_dependency_failure,
        unique_key=request.unique_key,
        callback_url=request.callback_url,
    )


def in_utc(moment: datetime | None, field: str) -> datetime | None:
    """A moment in UTC, within the years that both Postgres and Python know."""
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidField.of(field, "is out of range: use a year from 1 to 9999") from None


def statuses(text: str) -> tuple[str, ...]:
    """The states that a filter names, by commas; a group stands for several.

    Raises:
      InvalidField: one is unknown.
    """
    found: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        if word not in GROUPS and word not in STATES:
            known = ", ".join((*STATES, *GROUPS))
            raise InvalidField.of("status", f"{spell(word)!r} is no status; known are {known}")
        found += GROUPS.get(word, (word,))
    return tuple(dict.fromkeys(found))


def prefixed(error: InvalidField, prefix: str) -> InvalidField:
    """An error whose fields have ``prefix`` before their names."""
    return InvalidField([(prefix + field, message) for field, message in error.errors], code=error.code)
