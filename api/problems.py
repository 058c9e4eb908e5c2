"""From errors to ``application/problem+json``: what callers see when something is wrong."""

import logging
from http import HTTPStatus
from typing import Any

import falcon
import msgspec
from falcon.asgi import App, Request, Response, WebSocket

from actors.errors import Permanent
from api.errors import Forbidden, TooLarge, Unparsable, UnsupportedMedia
from api.middleware import HEADER, request_id
from api.schemas.common import FieldError, Problem
from tasks.errors import CallboardError, Conflict, InvalidField, NotFound, QueueFull, Unavailable

log = logging.getLogger("callboard.api")

PROBLEM = "application/problem+json"
RETRY_AFTER_SECONDS = "1"
#: A WebSocket that is refused is closed with this and the HTTP status, as Falcon does it itself.
FIRST_CLOSE_CODE = 3_000
INTERNAL_ERROR_CLOSE_CODE = 1_011

#: The first class that an error is an instance of decides.
STATUSES: dict[type[CallboardError], int] = {
    InvalidField: 422,
    NotFound: 404,
    Forbidden: 403,
    Conflict: 409,
    QueueFull: 429,
    Unavailable: 503,
    Unparsable: 400,
    TooLarge: 413,
    UnsupportedMedia: 415,
    Permanent: 422,
}
#: The codes of what the framework itself refuses.
CODES = {
    400: "unparsable",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


def answer_errors(app: App[Request, Response]) -> None:
    """Answer every error of ``app`` with a problem document."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _framework)
    app.add_error_handler(CallboardError, _own)


async def _own(
    req: Request, resp: Response, error: CallboardError, params: dict[str, Any], ws: WebSocket | None = None
) -> None:
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), None)
    if status is None:
        await _unexpected(req, resp, error, params, ws)
        return
    if ws is not None:
        await ws.close(FIRST_CLOSE_CODE + status)
        return
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        resp.set_header("Retry-After", RETRY_AFTER_SECONDS)
    fields = error.errors if isinstance(error, InvalidField) else ()
    _answer(req, resp, status, error.code, error.message, [FieldError(*one) for one in fields])


async def _framework(
    req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, Any], ws: WebSocket | None = None
) -> None:
    status = falcon.http_status_to_code(error.status)
    if ws is not None:
        await ws.close(FIRST_CLOSE_CODE + status)
        return
    if error.headers is not None:
        resp.set_headers(error.headers)
    detail = error.description or {
        404: "There is nothing at this address: GET /openapi.json names all addresses, and /docs shows them.",
        405: f"This address does not take {req.method}: see the header Allow.",
    }.get(status, error.title or "The request cannot be read.")
    _answer(req, resp, status, CODES.get(status, "bad_request" if status < 500 else "internal_error"), detail)


async def _unexpected(
    req: Request, resp: Response, error: Exception, params: dict[str, Any], ws: WebSocket | None = None
) -> None:
    log.error("%s %s failed (request %s)", req.method, req.path, request_id(req), exc_info=error)
    if ws is not None:
        await ws.close(INTERNAL_ERROR_CLOSE_CODE)
        return
    detail = "Something went wrong here. The log has the details under this request_id."
    _answer(req, resp, 500, "internal_error", detail)


def _answer(
    req: Request, resp: Response, status: int, code: str, detail: str, errors: list[FieldError] | None = None
) -> None:
    resp.status = status
    resp.content_type = PROBLEM
    # Falcon refuses some requests before any middleware sees them.
    resp.set_header(HEADER, request_id(req))
    resp.data = msgspec.json.encode(
        Problem(
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            code=code,
            errors=errors or (),
            request_id=request_id(req),
        )
    )
