"""What callers send and get about dead letters and their replays."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from actors.requests import Id, Moment
from api.schemas.common import Paged
from tasks.letter_records import ReplayItem, ReplayJob

#: One job has no more letters than these.
MOST_LETTERS = 100_000
LettersMeant = Annotated[
    dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/LettersMeant"})
]


class LetterListing(Paged, frozen=True, kw_only=True):
    """The query string of ``GET /dead-letters`` and of their clusters.

    ``status`` is ``open`` unless it is given: nothing became of the letter yet. ``since`` and ``until`` are
    about when it failed. ``q`` is looked for in type, error class, code and message, and at the beginning of
    the ids: in the newest 20,000 letters that fit the rest. ``cluster`` is a fingerprint.
    """

    task_type: Id | None = None
    queue_name: Id | None = None
    error_class: Id | None = None
    q: Annotated[str, Meta(max_length=200)] | None = None
    user_id: Id | None = None
    since: Moment | None = None
    until: Moment | None = None
    cluster: Id | None = None
    status: Literal["open", "replayed", "retried", "recovered", "discarded", "any"] = "open"


class LetterReplay(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /dead-letters/{letter_id}/replay``: another ``payload`` for the task, or nothing."""

    payload: Any = msgspec.UNSET


class BulkReplay(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /dead-letters/replay``: which letters, and how they are to be replayed.

    ``filter`` has the fields of `LetterListing` but for those of paging; more than ``status`` is needed. The
    oldest ``limit`` of what matches are meant. ``payload_patch`` changes the payload of each task (JSON merge
    patch). The first ``canary`` must complete before the others go, ``rate`` of them a second. With
    ``dry_run`` it is only told what would happen.
    """

    filter: LettersMeant
    dry_run: bool = False
    payload_patch: dict[str, Any] | None = None
    canary: Annotated[int, Meta(ge=0, le=MOST_LETTERS)] = 0
    rate: Annotated[float, Meta(ge=0.001, le=100_000)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LETTERS)] = MOST_LETTERS


class ItemListing(Paged, frozen=True, kw_only=True):
    """The query string of ``GET /dead-letters/replays/{replay_id}``; ``status`` is that of the items."""

    status: Literal["pending", "replayed", "skipped"] | None = None


class ReplayPage(ReplayJob, frozen=True, kw_only=True):
    """A job with a part of its items, how many there are in all, and where the next part begins."""

    items: Sequence[ReplayItem]
    total: int
    total_is_exact: bool
    next_cursor: str | None
