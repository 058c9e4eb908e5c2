"""Query strings: filters and paging."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from falcon.asgi import Request

from actors import fields
from actors.fields import spell
from actors.requests import in_utc, prefixed, statuses
from api.caller import Caller
from api.schemas.common import Paged
from api.schemas.knowledge import SearchRequest
from api.schemas.tasks import TaskListing
from pipelines.documents.store.checks import storable
from pipelines.documents.store.filters import Filter
from tasks.errors import InvalidField
from tasks.ids import parse_id
from tasks.records import FURTHEST, Page, TaskFilter

T = TypeVar("T")
PAGING = tuple(field.name for field in msgspec.structs.fields(Paged))
S = TypeVar("S", bound=msgspec.Struct)
PAGE_SIZE = 20
METADATA = "metadata."
MOST_VALUES = 100
#: "+02:00" in a query string that nobody escaped arrives as " 02:00".
LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")
MOMENTS = ("created_after", "created_before", "start_time", "end_time", "since", "until")


class Slice(msgspec.Struct, frozen=True):
    """A part of a list that is read by offset."""

    limit: int
    offset: int

    def answer(self, plural: str, items: Any, total: int) -> dict[str, Any]:
        """The list as it is answered."""
        end = self.offset + len(items)
        cursor = _offset_cursor(end) if items and end < total else None
        return {plural: items, "total": total, "total_is_exact": True, "next_cursor": cursor}


def read_query(req: Request, schema: type[S]) -> S:
    """The query string as a ``schema``; an empty value is as good as none.

    Raises:
      InvalidField: parameters are unknown, given twice or do not fit.
    """
    return _read(req.params, schema)


def read_search(req: Request) -> tuple[SearchRequest, Filter]:
    """The query string of a search, and which documents it is narrowed to.

    Raises:
      InvalidField: as `read_query` does; a document's id is none, or there are too many values.
    """
    params = {name: value for name, value in req.params.items() if not name.startswith(METADATA)}
    asked = _read(params, SearchRequest)
    wanted = {
        name.removeprefix(METADATA): [value] if isinstance(value, str) else list(value)
        for name, value in req.params.items()
        if name.startswith(METADATA)
    }
    for key, values in wanted.items():
        if not key or storable(key) != key:
            raise InvalidField.of(spell(METADATA + key), "needs a key: write metadata.author=Ann")
        if any(storable(value) != value for value in values):
            raise InvalidField.of(spell(METADATA + key), "holds a character that cannot be stored")
    if sum(map(len, wanted.values())) > MOST_VALUES:
        raise InvalidField.of("metadata", f"at most {MOST_VALUES} values can be asked for at once")
    return asked, Filter(_document_ids(asked.document_id or ""), wanted)


def _document_ids(text: str) -> list[UUID]:
    ids = [parse_id(one) for one in text.split(",") if one]
    known = [one for one in ids if one is not None]
    if len(known) < len(ids):
        raise InvalidField.of("document_id", "must be ids of documents, by commas or repeated")
    return known


def _read(params: Mapping[str, str | list[str]], schema: type[S]) -> S:
    given: dict[str, str] = {}
    errors: list[tuple[str, str]] = []
    for name, value in params.items():
        texts = [value] if isinstance(value, str) else value
        text = ",".join(texts)
        if len(texts) > 1 and name not in ("status", "document_id"):
            errors.append((spell(name), "is given more than once"))
        elif "\0" in text:
            errors.append((spell(name), "holds a NUL character"))
        elif text:
            given[name] = LOST_PLUS.sub("+", text) if name in MOMENTS else text
    if errors:
        raise InvalidField(errors)
    return fields.read(schema, given, from_text=True)


def task_filter(asked: TaskListing, caller: Caller) -> TaskFilter:
    """Which tasks are asked for, as far as the caller may see them."""
    return TaskFilter(
        owner=caller.owner,
        statuses=statuses(asked.status or ""),
        task_type=asked.task_type,
        queue_name=asked.queue_name,
        kb_id=asked.kb_id,
        user_id=asked.user_id,
        project_id=asked.project_id,
        tag=asked.tag,
        parent_id=asked.parent_id,
        created_after=in_utc(asked.created_after, "created_after"),
        created_before=in_utc(asked.created_before, "created_before"),
        retryable=asked.retryable,
        q=asked.q,
        stages=asked.stages,
    )


def task_page(asked: Paged) -> Page:
    """Which part of the list of tasks is asked for."""
    limit, offset = _limit_and_offset(asked)
    return Page(limit=limit, offset=offset, cursor=asked.cursor)


def part(asked: Paged, size: int = PAGE_SIZE) -> Slice:
    """Which part of another list is asked for, ``size`` items by default; its cursors are offsets."""
    limit, offset = _limit_and_offset(asked, size)
    return Slice(limit, offset if asked.cursor is None else _cursor_offset(asked.cursor))


def _limit_and_offset(asked: Paged, size: int = PAGE_SIZE) -> tuple[int, int]:
    ways = {
        "page": asked.page is not None,
        "offset": asked.offset is not None,
        "cursor": asked.cursor is not None,
    }
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise InvalidField.of(given[1], f"cannot be used together with {given[0]}: choose one way of paging")
    if asked.limit is not None and asked.page_size is not None:
        raise InvalidField.of("limit", "means the same as page_size: give one of them")
    limit = asked.limit or asked.page_size or size
    offset = (asked.page - 1) * limit if asked.page is not None else asked.offset or 0
    if offset > FURTHEST:
        raise InvalidField.of("page", f"reaches beyond item {FURTHEST}: use cursor")
    return limit, offset


def _offset_cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(f"offset:{offset}".encode()).decode().rstrip("=")


def _cursor_offset(cursor: str) -> int:
    try:
        word, _, digits = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        offset = int(digits)
    except (ValueError, binascii.Error):
        word, offset = "", 0
    if word != "offset" or not 0 <= offset <= FURTHEST:
        raise InvalidField.of("cursor", "is not a cursor of an earlier page; leave it out to begin")
    return offset


def meant(given: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T], what: str) -> T:
    """The filter of a body, which means all ``what`` that match: ``read`` makes it of its fields.

    Raises:
      InvalidField: it pages, or ``read`` refuses it; fields are named ``filter.…``.
    """
    paging = [
        (name, f"is for lists: all {what} that match are meant here") for name in PAGING if name in given
    ]
    try:
        if paging:
            raise InvalidField(paging)
        return read(given)
    except InvalidField as error:
        raise prefixed(error, "filter.") from None
