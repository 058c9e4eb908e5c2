"""What a server answers to the client: typed values, and refusals as errors that say what to do next."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import httpx
import msgspec

from tasks.errors import CallboardError

T = TypeVar("T")

_WHAT_NEXT = {
    401: "give a valid token (--token or CALLBOARD_TOKEN)",
    403: "ask an administrator for the right to do this",
    429: "wait a moment, then try again",
    500: "look for the request id in the server's log",
    503: "wait a moment, then try again",
}


class ClientError(CallboardError):
    """The root of what can go wrong between a client and the server."""

    code = "client_error"


class ServerUnreachable(ClientError):
    """There is no server at the URL, or it gave no answer."""

    code = "unreachable"


class UnexpectedAnswer(ClientError):
    """What answered at the URL is no Callboard server, or one of another version."""

    code = "unexpected_answer"


class StillUnfinished(ClientError):
    """The task was not finished in the time that the caller would wait; it goes on."""

    code = "timeout"


class ApiError(ClientError):
    """The server refused: ``status`` and the fields of its problem document.

    ``retry_after`` is how many seconds the server wants its caller to wait, if it said so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        request_id: str | None = None,
        *,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(_advice(status, detail, errors, request_id), code=code)
        self.status = status
        self.detail = detail
        self.errors = tuple(dict(error) for error in errors)
        self.request_id = request_id
        self.retry_after = retry_after


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task is: its state, its phase (the stage of a run) and 0-100."""

    task_id: UUID
    status: str
    progress: float = 0.0
    phase: str | None = None
    message: str | None = None
    details: dict[str, Any] | None = None
    updated_at: datetime | None = None


class KnowledgeBase(msgspec.Struct, frozen=True, kw_only=True):
    """A set of documents that can be searched, and how much it holds."""

    kb_id: str
    name: str
    embedder: str | None = None
    dim: int | None = None
    documents: int = 0
    chunks: int = 0
    created_at: datetime | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document of a knowledge base; ``version`` is the one that searches see (0: none yet)."""

    document_id: UUID
    name: str
    version: int = 0
    chunks: int = 0
    media_type: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    chunk_size: int | None = None
    chunk_overlap: int | None = None
    chunk_unit: str | None = None
    metadata: dict[str, Any] = {}
    duplicate_of: UUID | None = None
    task_id: UUID | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Accepted(msgspec.Struct, frozen=True):
    """A document that was taken in, and the task that works on it."""

    document_id: UUID
    task_id: UUID


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a document that a search found; ``explanation`` says how it earned its score."""

    text: str
    score: float
    document_id: UUID
    name: str
    heading_path: list[str] = []
    start: int = 0
    end: int = 0
    tokens: int | None = None
    highlights: list[tuple[int, int]] = []
    explanation: dict[str, Any] | None = None


def unreachable(url: str, error: httpx.HTTPError) -> ServerUnreachable:
    """Return what an error of the connection means to the caller."""
    if isinstance(error, httpx.ConnectError):
        return ServerUnreachable(
            f"no Callboard server answers at {url}: start one with `callboard up`, "
            "or name another one with --url or CALLBOARD_URL"
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerUnreachable(
            f"{url} gave no answer in time; the request may have been accepted: "
            "look with `callboard tasks list`, and see the server's log"
        )
    return ServerUnreachable(f"the connection to {url} broke off ({error}): check that the server still runs")


def is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: no connection, too many requests, unavailable."""
    if isinstance(error, ApiError):
        return error.status in (429, 502, 503, 504)
    return isinstance(error, ServerUnreachable)


def read(answer: httpx.Response, kind: type[T]) -> T:
    """Return the body of an answer as a ``kind``."""
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError as error:
        raise _not_understood(answer.url, error) from error


def converted(value: Any, kind: type[T], url: httpx.URL) -> T:
    """Return a part of the answer of ``url`` as a ``kind``."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        raise _not_understood(url, error) from error


def _not_understood(url: httpx.URL, error: Exception) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"the answer of {url} was not understood ({error}): check that the URL is that of a Callboard "
        "server, of the same version as this client"
    )


def refusal(answer: httpx.Response) -> ApiError:
    """Return the error that a problem document describes."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.DecodeError:  # of a proxy, perhaps, or of another server altogether
        problem = _Problem()
    retry_after = answer.headers.get("Retry-After", "")
    return ApiError(
        answer.status_code,
        problem.code or f"http_{answer.status_code}",
        problem.detail or problem.title or f"{answer.url} answers: {answer.reason_phrase}",
        problem.errors,
        problem.request_id,
        retry_after=float(retry_after) if retry_after.isdigit() else None,
    )


def _advice(status: int, detail: str, errors: Sequence[Mapping[str, str]], request_id: str | None) -> str:
    lines = [f"{error.get('field', '')}: {error.get('message', '')}" for error in errors]
    parts = [detail.rstrip(".:"), *(line for line in lines if line not in detail)]
    text = "; ".join(parts) + f" ({status}"
    text += f", request {request_id})" if request_id and status >= 500 else ")"
    return f"{text}: {_WHAT_NEXT[status]}" if status in _WHAT_NEXT else text


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str | None = None
    code: str | None = None
    errors: list[dict[str, str]] = []
    request_id: str | None = None
