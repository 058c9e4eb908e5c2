"""The OpenAPI document and its page: every operation is described, as strictly as the server reads it."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from falcon.testing import TestClient

from api.desk import Desk
from api.openapi import VERBS, described
from api.operations import OPERATIONS
from api.resources.tasks import PREFIX
from api.routes import Route, routes
from tasks.ids import new_id
from tasks.records import Task
from tasks.settings import Settings
from tests.support.api import ShelfKit, api_on


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> ShelfKit:
    return ShelfKit(Settings(data_dir=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def client(kit: ShelfKit) -> Iterator[TestClient]:
    with api_on(kit) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    answer = client.simulate_get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json
    return found


def takes(document: dict[str, Any], name: str, value: Any) -> bool:
    """Whether the schema of this name takes a value."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.validator_for(schema).is_valid(value)


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_every_route_is_described_and_every_description_has_a_route(kit: ShelfKit) -> None:
    # Given what all the routes answer
    desk = Desk(kit)  # type: ignore[arg-type]
    found = {one.operation.address for one in described(routes(desk))}
    # Then there is one line for each of them, and no more
    assert found == {operation.address for operation in OPERATIONS}
    desk.close()


def test_a_route_that_nobody_described_is_named() -> None:
    class New:
        def on_post_one(self) -> None: ...

    with pytest.raises(LookupError, match=r"new/.* is not described"):
        list(described([Route(f"{PREFIX}/new/{{id}}", New(), "one")]))


def test_no_route_takes_a_method_that_is_not_looked_for(kit: ShelfKit) -> None:
    desk = Desk(kit)  # type: ignore[arg-type]
    answers = {name.split("_")[1] for one in routes(desk) for name in dir(one.resource) if name[:3] == "on_"}
    assert answers - {"websocket"} <= set(VERBS)
    desk.close()


def test_the_document_is_an_openapi_document(document: dict[str, Any]) -> None:
    # Given the document, and every schema in it
    assert document["openapi"] == "3.1.0"
    for name, schema in document["components"]["schemas"].items():
        # Then the schemas are JSON Schema 2020-12, and what they refer to is there
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
        takes(document, name, {})


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_tag(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] and operation["tags"] for operation in operations(document))


def test_every_refusal_is_a_problem_and_every_answer_has_a_request_id(document: dict[str, Any]) -> None:
    for operation in operations(document):
        for status, answer in operation["responses"].items():
            assert answer["headers"]["X-Request-ID"]["required"]
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"]


@pytest.mark.parametrize(
    ("body", "is_taken"),
    [
        ({"task_type": "test"}, True),
        ({"type": "test", "params": {"a": 1}, "retry_limit": 0}, True),
        ({"task_type": "test", "priority": "high", "queue_name": None, "tags": None}, True),
        ({"task_type": "test", "delay": None, "run_at": "2030-01-01T00:00:00Z"}, True),
        ({"task_type": "test", "backoff": {"kind": "fixed", "base": 3}}, True),
        ({}, False),
        ({"task_type": None}, False),
        ({"task_type": "test", "type": "test"}, False),
        ({"task_type": "test", "params": 1, "payload": 1}, False),
        ({"task_type": "test", "priority": 11}, False),
        ({"task_type": "test", "priority": "urgent"}, False),
        ({"task_type": "test", "delay": 5, "run_at": "2030-01-01T00:00:00Z"}, False),
        ({"task_type": "test", "kb_id": "a\0b"}, False),
        ({"task_type": "test", "backoff": {"kind": "sometimes"}}, False),
        ({"task_type": "test", "colour": "red"}, False),
    ],
)
def test_the_schema_of_a_task_is_as_strict_as_the_server(
    document: dict[str, Any], body: dict[str, Any], is_taken: bool
) -> None:
    assert takes(document, "TaskRequest", body) == is_taken
    assert takes(document, "BatchRequest", {"tasks": [body]}) == is_taken


def test_every_example_of_a_body_fits_its_schema(document: dict[str, Any]) -> None:
    for operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in content:
            assert takes(document, content["schema"]["$ref"].rpartition("/")[2], content["example"])


def test_parameters_of_a_query_tell_their_limits_and_know_no_null(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/api/v1/tasks"]["get"]["parameters"]
    limit = next(one for one in parameters if one["name"] == "limit")
    assert limit == {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1_000},
        "allowEmptyValue": True,
    }


def test_an_upload_is_a_form_with_a_file(document: dict[str, Any]) -> None:
    body = document["paths"]["/api/v1/knowledge-bases/{kb_id}/documents"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert document["components"]["schemas"]["UploadFields"]["required"] == ["file"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/swagger_bundle.js"])
def test_who_has_it_already_is_not_sent_it_again(client: TestClient, path: str) -> None:
    first = client.simulate_get(path)
    again = client.simulate_get(path, headers={"If-None-Match": first.headers["etag"]})
    changed = client.simulate_get(path, headers={"If-None-Match": '"older"'})
    assert (again.status_code, again.content, changed.status_code) == (304, b"", 200)


def test_the_page_and_all_it_loads_come_from_this_server(client: TestClient) -> None:
    # Given the page
    page = client.simulate_get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    # Then nothing in it has an address elsewhere or a script of its own
    assert "http" not in page.text.replace("<!doctype html>", "")
    assert "<script>" not in page.text
    # And its files are there, with types that a browser takes under nosniff
    for name, kind in (
        ("swagger_bundle.js", "text/javascript"),
        ("start.js", "text/javascript"),
        ("swagger_style.css", "text/css"),
    ):
        assert f"/docs/{name}" in page.text
        file = client.simulate_get(f"/docs/{name}")
        assert (file.status_code, file.headers["content-type"].split(";")[0]) == (200, kind)
        assert file.content


@pytest.mark.parametrize("name", ["scalar.js", "__init__.py", "..%2f__init__.py", "%00"])
def test_no_other_file_of_the_package_is_served(client: TestClient, name: str) -> None:
    assert client.simulate_get(f"/docs/{name}").status_code == 404


def test_the_page_shows_the_document_of_this_server(client: TestClient) -> None:
    assert 'url: "/openapi.json"' in client.simulate_get("/docs/start.js").text


def test_what_receivers_of_callbacks_get_is_described(document: dict[str, Any]) -> None:
    # Given a callback as it is sent
    task = dict.fromkeys(Task.__struct_fields__)
    task |= {"task_id": str(new_id()), "task_type": "test", "status": "failed", "progress": 0.0}
    task |= {"queue_name": "default", "priority": 5, "attempts": 1, "max_retries": 3, "timeout": 1.0}
    task |= {"created_by": "system", "tags": [], "depends_on": []}
    task |= dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z")
    sent = {"event": "failed", "delivery_id": str(new_id()), "task": task}
    # Then the description of the webhook takes it, and nothing that is none
    content = document["webhooks"]["taskEnded"]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert takes(document, name, sent)
    assert not takes(document, name, {**sent, "event": "started"})
