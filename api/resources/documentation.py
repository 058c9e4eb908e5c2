"""The API's own documentation: the OpenAPI document, and a page that shows it without the internet."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from api.desk import Desk
from api.media import JSON
from api.openapi import document
from tasks.errors import NotFound

#: Swagger UI as the package brings it. The package itself is not imported: that would load 9 MB.
PACKAGE = "offapi"
FILES = {
    "swagger_bundle.js": "text/javascript; charset=utf-8",
    "swagger_style.css": "text/css; charset=utf-8",
}
DAY = 86_400
#: The page loads nothing from elsewhere and tells nobody anything.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Callboard API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger_style.css">
</head>
<body>
<div id="api"></div>
<script src="/docs/swagger_bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null
});
"""


class Documentation:
    """``/openapi.json``, ``/docs`` and the files of the page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._routes: Sequence[Any] = ()
        self._document: bytes | None = None

    def describe(self, routes: Sequence[Any]) -> None:
        """Describe these routes; the document is made when somebody asks for it first."""
        self._routes = routes

    async def on_get(self, req: Request, resp: Response) -> None:
        """The OpenAPI document of this API."""
        if self._document is None:
            self._document = msgspec.json.encode(document(self._routes, version("callboard")))
        resp.content_type = JSON
        _answer(req, resp, self._document, "no-cache")

    async def on_get_page(self, req: Request, resp: Response) -> None:
        """A page that shows the OpenAPI document and tries it out."""
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("Content-Security-Policy", POLICY)
        _answer(req, resp, PAGE.encode(), "no-cache")

    async def on_get_file(self, req: Request, resp: Response, name: str) -> None:
        """A script or a style sheet of that page."""
        if name == "start.js":
            content, kind = START.encode(), FILES["swagger_bundle.js"]
        elif name in FILES:
            content, kind = await self._desk.work(_file, name), FILES[name]
        else:
            raise NotFound("There is no such file: see /docs.")
        resp.content_type = kind
        _answer(req, resp, content, f"public, max-age={DAY}")


def _answer(req: Request, resp: Response, content: bytes, caching: str) -> None:
    """Answer with the content, or with 304 to whoever has it already."""
    resp.cache_control = [caching]
    resp.set_header("X-Content-Type-Options", "nosniff")
    etag = hashlib.sha256(content).hexdigest()[:32]
    resp.etag = etag
    if any(tag in (etag, "*") for tag in req.if_none_match or ()):
        resp.status = 304
    else:
        resp.data = content


def _file(name: str) -> bytes:
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise NotFound(f"The package {PACKAGE} is not installed: run `make setup`.")
    return (Path(folders[0]) / name).read_bytes()
