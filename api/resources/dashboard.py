"""``/dramatiq``: Dramatiq's dashboard, for administrators.

The dashboard is a WSGI application with trusting manners: it echoes its cookie as it comes, and fails where a
field is missing. So what reaches it is made here, and what it answers is read here.
"""

import hmac
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import falcon
from a2wsgi import WSGIMiddleware
from dramatiq.common import q_name
from falcon.asgi import Request, Response

from api.bodies import Message, Receive
from api.caller import admin_of
from api.dashboard.application import Dashboard
from api.dashboard.interface import ACTING, Interface
from api.desk import Desk
from api.errors import Forbidden, TooLarge
from tasks.errors import InvalidField
from tasks.names import check_queue

PREFIX = "/dramatiq"
#: What falls to the dashboard: its address and all below it.
ADDRESSES = re.compile(rf"{PREFIX}(?=/|$)")
COOKIE = "__dd_csrf"
TOKEN = re.compile(r"[0-9a-f]{64}")
FIELDS = (COOKIE, "id", "queue")
CURSOR = re.compile(r"[0-9]{1,9}")
MOST_BYTES = 16 << 10
THREADS = 4
#: The pages have no script and one style sheet, within them; they load nothing.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class DramatiqDashboard:
    """Everything below ``/dramatiq``."""

    def __init__(self, desk: Desk) -> None:
        # Threads of its own: a RabbitMQ that does not answer holds up nothing but these pages.
        self._wsgi = WSGIMiddleware(Dashboard(Interface(desk.kit), PREFIX), workers=THREADS)

    async def answer(self, req: Request, resp: Response | None, **_: Any) -> None:
        """Answer with a page of the dashboard.

        Raises:
          Forbidden: the caller is no administrator, or the form was not one of ours.
          InvalidField, TooLarge: the dashboard could not read it.
        """
        assert resp is not None
        ACTING.set(admin_of(req).created_by)
        if req.method not in ("GET", "HEAD", "POST"):
            raise falcon.HTTPMethodNotAllowed(["GET", "HEAD", "POST"])
        token = _token(req)
        body = await _form(req, token) if req.method == "POST" else b""
        answer = _Answer()
        await self._wsgi(_scope(req, token, body), _receiving(body), answer.take)  # type: ignore[arg-type]
        answer.render(req, resp)


class _Answer:
    """What the dashboard answers."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: dict[str, str] = {}
        self.content = bytearray()

    async def take(self, message: Message) -> None:
        """Take a message of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]
            }
        else:
            self.content += message.get("body", b"")

    def render(self, req: Request, resp: Response) -> None:
        """Hand it on, with its cookie made safe."""
        resp.status = HTTPStatus(self.status)
        resp.data = bytes(self.content)
        resp.content_type = "text/html; charset=utf-8"
        resp.cache_control = ["no-store"]
        resp.set_headers(
            {
                "Content-Security-Policy": POLICY,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
            }
        )
        if "location" in self.headers:
            resp.location = self.headers["location"]
        found = re.match(rf"{COOKIE}=({TOKEN.pattern});", self.headers.get("set-cookie", ""))
        if found is not None:
            resp.set_cookie(
                COOKIE,
                found[1],
                path=PREFIX,
                secure=req.forwarded_scheme == "https",
                http_only=True,
                same_site="Strict",
            )


def _token(req: Request) -> str | None:
    """The token in the caller's cookie; None if there is none, or anything else in its place."""
    values = req.get_cookie_values(COOKIE) or []
    return values[0] if len(values) == 1 and TOKEN.fullmatch(values[0]) else None


async def _form(req: Request, token: str | None) -> bytes:
    """The body of a POST, which has all that the dashboard needs, and the token of its own page."""
    body = await req.stream.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise TooLarge(f"A form of the dashboard has {MOST_BYTES} bytes at most.")
    form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if token is None or not hmac.compare_digest(form.get(COOKIE, "").encode(), token.encode()):
        raise Forbidden("This form is not one of the dashboard's own: load the page again.")
    missing = [(name, "is missing: use the buttons of the page") for name in FIELDS if not form.get(name)]
    if missing:
        raise InvalidField(missing)
    check_queue(q_name(form["queue"]), field="queue")
    return body


def _scope(req: Request, token: str | None, body: bytes) -> Message:
    """The request as the dashboard gets it: of headers only what it needs."""
    cursor = req.get_param("cursor")
    if cursor is not None and not CURSOR.fullmatch(cursor):
        raise InvalidField.of("cursor", "must be a whole number: use the links of the page")
    headers = [(b"content-length", str(len(body)).encode())]
    if token is not None:
        headers.append((b"cookie", f"{COOKIE}={token}".encode()))
    return {
        **req.scope,
        "path": req.path.removeprefix(PREFIX) or "/",
        "root_path": "",
        "query_string": f"cursor={cursor}".encode() if cursor is not None else b"",
        "headers": headers,
    }


def _receiving(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
