"""The operations of the server itself."""

from api.operations.model import ETAG, Operation
from api.schemas.common import ServerStatus

OPERATIONS = (
    Operation("GET /health", "health", {200: ServerStatus}),
    Operation("GET /ready", "ready", {200: ServerStatus}, refuses=(503,)),
    Operation("GET /openapi.json", "openapi", {200: "application/json", 304: None}, headers=ETAG),
    Operation("GET /docs", "docs", {200: "text/html", 304: None}, headers=ETAG),
    Operation("GET /docs/{name}", "docs_file", {200: "text/*", 304: None}, headers=ETAG),
)
