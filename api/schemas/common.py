"""What bodies and query strings of all routes have in common."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tasks.records import FURTHEST, MOST_A_PAGE


class Paged(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of any list: by page, by offset or by cursor."""

    page: Annotated[int, Meta(ge=1, le=FURTHEST)] | None = None
    page_size: Annotated[int, Meta(ge=1, le=MOST_A_PAGE)] | None = None
    offset: Annotated[int, Meta(ge=0, le=FURTHEST)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_A_PAGE)] | None = None
    cursor: Annotated[str, Meta(max_length=100)] | None = None


class ServerStatus(msgspec.Struct, frozen=True):
    """How the server is."""

    status: Literal["ok", "ready"]


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
