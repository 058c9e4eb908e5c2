"""The OpenAPI document, made from the routes, the operations and their structs."""

import re
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from types import NoneType
from typing import Any, NamedTuple, get_args

import msgspec

from actors.deliverer import CallbackBody
from actors.requests import SYNONYMS, TaskRequest
from api import idempotency, middleware
from api.operations import EXAMPLES, OPERATIONS, PARTS
from api.operations.callbacks import SENT
from api.operations.model import Operation
from api.operations.tasks import DerivativeRequest
from api.problems import PROBLEM
from api.resources.tasks import PREFIX
from api.schemas.common import Problem
from api.shapes import as_input, as_output, as_parameters, simple

JSON = "application/json"
FORM = "multipart/form-data"
VERBS = ("get", "post", "put", "patch", "delete")
REF = "#/components/schemas/{name}"

#: The fields of a body that cannot be given together, and those that have other names.
EXCLUSIVE: dict[Any, tuple[tuple[str, str], ...]] = dict.fromkeys(
    (TaskRequest, DerivativeRequest), (("delay", "run_at"),)
)
SPELLINGS: dict[Any, dict[str, str]] = dict.fromkeys((TaskRequest, DerivativeRequest), SYNONYMS)

INTRODUCTION = """\
Submit tasks, follow them, and search what documents say.

Errors are `application/problem+json` with a stable `code`; `errors` names every field that was wrong. Unknown
fields and parameters are refused; `null` is as good as leaving a field out. Every answer carries
`X-Request-ID`. An address that is used with a method it does not take answers 405 with `Allow`.

`WS /ws?task_id=…` is a WebSocket with the events of tasks, as frames `{id, event, task_id, data}`; send
`{"subscribe": […]}` or `{"unsubscribe": […]}` to change which.
"""

_UUID = {"type": "string", "format": "uuid"}
_NAME = {"type": "string", "minLength": 1}
_UUIDS = ("task_id", "document_id", "webhook_id", "delivery_id", "letter_id", "replay_id")
_PATH_PARAMETERS = dict.fromkeys(_UUIDS, _UUID)


class Described(NamedTuple):
    """An operation with the path it is served at and the words of the method that answers it."""

    path: str
    operation: Operation
    words: str


def described(routes: Iterable[Any]) -> Iterator[Described]:
    """Every operation of the routes.

    Raises:
      LookupError: one is not in the table of operations.
    """
    known = {operation.address: operation for operation in OPERATIONS}
    for path, resource, suffix in routes:
        for verb in VERBS:
            answer = getattr(resource, f"on_{verb}_{suffix}" if suffix else f"on_{verb}", None)
            if answer is None:
                continue
            address = f"{verb.upper()} {path.removeprefix(PREFIX)}"
            if address not in known:
                raise LookupError(f"{address} is not described: add a line to api/operations/")
            yield Described(path, known[address], answer.__doc__ or "")


def document(routes: Iterable[Any], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    found = list(described(routes))
    paths: dict[str, dict[str, Any]] = {}
    for one in found:
        paths.setdefault(one.path, {})[one.operation.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callboard", "version": version, "description": INTRODUCTION},
        "paths": paths,
        "webhooks": SENT,
        "components": {"schemas": _components([one.operation for one in found])},
    }


def _operation(one: Described) -> dict[str, Any]:
    summary, _, more = one.words.partition("\n\n")
    operation = one.operation
    made: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [_tag(operation.path) if one.path.startswith(PREFIX) else "server"],
        "summary": simple(summary).removesuffix("."),
    }
    if description := simple(re.split(r"\n\s*Raises:", more)[0]):
        made["description"] = description
    made["parameters"] = _parameters(operation)
    if operation.body is not None:
        made["requestBody"] = _request(operation)
    made["responses"] = _responses(operation, below_prefix=one.path.startswith(PREFIX))
    return made


def _tag(path: str) -> str:
    return path.split("/")[1]


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS.get(name, _NAME)}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        _, components = msgspec.json.schema_components([operation.query], ref_template=REF)
        made += as_parameters(components[operation.query.__name__])
    if operation.once:
        key = {"type": "string", "pattern": f"^{idempotency.KEY.pattern}$"}
        words = "For a day the same key gives the same answer; with another body it is refused."
        made.append({"name": idempotency.HEADER, "in": "header", "description": words, "schema": key})
    made += [
        {"name": name, "in": "header", "description": words, "schema": schema}
        for name, words, schema in operation.headers
    ]
    words = "What this request is called in answers and in the log; another one is made if it cannot be."
    made.append(
        {"name": middleware.HEADER, "in": "header", "description": words, "schema": {"type": "string"}}
    )
    return made


def _request(operation: Operation) -> dict[str, Any]:
    struct = _struct(operation.body)
    content: dict[str, Any] = {JSON: {"schema": {"$ref": REF.format(name=struct.__name__)}}}
    if struct in EXAMPLES:
        content[JSON]["example"] = EXAMPLES[struct]
    if operation.form is not None:
        content[FORM] = {"schema": {"$ref": REF.format(name=operation.form.__name__)}}
    return {"required": NoneType not in get_args(operation.body), "content": content}


def _responses(operation: Operation, *, below_prefix: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        headers = _headers(operation, status)
        made[str(status)] = {"description": HTTPStatus(status).phrase, "headers": headers}
        if isinstance(answer, str):
            made[str(status)]["content"] = {answer: {}}
        elif answer is not None:
            schemas, _ = msgspec.json.schema_components([answer], ref_template=REF)
            made[str(status)]["content"] = {JSON: {"schema": schemas[0]}}
    problem = {PROBLEM: {"schema": {"$ref": REF.format(name=Problem.__name__)}}}
    for status in operation.refusals(below_prefix=below_prefix):
        headers = _headers(operation, status)
        made[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": headers,
            "content": problem,
        }
    return made


def _headers(operation: Operation, status: int) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    made: dict[str, Any] = {middleware.HEADER: {"required": True, "schema": text}}
    if status in (201, 202) and operation.has_location:
        made["Location"] = {"required": True, "schema": {"type": "string", "format": "uri-reference"}}
    if status in operation.answers and operation.once:
        words = "Set when an earlier request with this Idempotency-Key was answered with this already."
        made[idempotency.REPLAYED_HEADER] = {"description": words, "schema": {"const": "true"}}
    if status in (429, 503):
        made["Retry-After"] = {"required": True, "description": "In seconds.", "schema": number}
    return made


def _components(operations: Sequence[Operation]) -> dict[str, Any]:
    """All schemas by name: those of bodies say how strict the server is, those of answers what is there."""
    bodies = [_struct(one.body) for one in operations if one.body is not None] + [*PARTS]
    forms = [one.form for one in operations if one.form is not None]
    answers = [answer for one in operations for answer in one.answers.values() if not _is_plain(answer)]
    _, taken = msgspec.json.schema_components([*bodies, *forms], ref_template=REF)
    _, given = msgspec.json.schema_components([*answers, Problem, CallbackBody], ref_template=REF)
    both = sorted(taken.keys() & given.keys())
    assert not both, f"{both} are taken and given: what is taken is described more strictly, so split them"
    for struct in {*bodies, *forms}:
        taken[struct.__name__] = as_input(
            taken[struct.__name__],
            spellings=SPELLINGS.get(struct, {}),
            exclusive=EXCLUSIVE.get(struct, ()),
            with_file=struct in forms,
        )
    made = {name: as_input(schema, is_whole=False) for name, schema in taken.items()}
    return dict(sorted((made | {name: as_output(schema) for name, schema in given.items()}).items()))


def _struct(body: Any) -> Any:
    """The struct of ``X`` or of ``X | None``."""
    return next((one for one in get_args(body) if one is not NoneType), body)


def _is_plain(answer: Any) -> bool:
    return answer is None or isinstance(answer, str)
