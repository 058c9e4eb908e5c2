"""Whatever is sent, the answer says what is wrong and what to do; nobody sees the insides of a failure."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.requests import SYNONYMS, TaskRequest
from api.problems import PROBLEM
from pipelines.bootstrap import Kit, open_kit
from tasks.errors import Unavailable
from tasks.settings import Settings
from tests.support.api import api_on

TASKS = "/api/v1/tasks"


@pytest.fixture
def kit(database_url: str, tmp_path: Path) -> Iterator[Kit]:
    actors = ("tests.support.api",)
    kit = open_kit(Settings(database_url=database_url, data_dir=tmp_path, body_limit=10_000, actors=actors))
    yield kit
    kit.close()


@pytest.fixture
def client(kit: Kit) -> Iterator[TestClient]:
    with api_on(kit) as client:
        yield client


def is_problem(answer: Any) -> bool:
    return (
        answer.headers["content-type"] == PROBLEM
        and list(answer.json) == ["type", "title", "status", "detail", "code", "errors", "request_id"]
        and answer.json["status"] == answer.status_code
        and answer.json["request_id"] == answer.headers["x-request-id"]
    )


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("GET", "/nix", {}, 404, "not_found"),
        ("GET", "/api/v1/nix", {}, 404, "not_found"),
        ("PUT", TASKS, {}, 405, "method_not_allowed"),
        ("POST", TASKS, {}, 400, "unparsable"),
        ("POST", TASKS, {"body": "{"}, 400, "unparsable"),
        ("POST", TASKS, {"body": "[]"}, 422, "invalid_field"),
        ("POST", TASKS, {"body": "{}"}, 422, "invalid_field"),
        ("POST", TASKS, {"body": " " * 10_001}, 413, "too_large"),
        ("POST", TASKS, {"body": "{}", "headers": {"Content-Type": "text/plain"}}, 415, None),
        ("GET", f"{TASKS}?statsu=queued", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?status=done", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?limit=1001", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?limit=ten", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?page=0", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?page=2&offset=3", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?page=1000000000&page_size=1000", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?limit=2&page_size=3", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?cursor=nonsense", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?cursor=%C3%A4", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?tag=%00", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?user_id=a&user_id=b", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?parent_id=nonsense", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?created_after=yesterday", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?created_after=0.5", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?limit=null", {}, 422, "invalid_field"),
        ("GET", f"{TASKS}?created_after=0001-01-01T00:00:00%2B14:00", {}, 422, "invalid_field"),
        ("GET", "/api/v1/knowledge-bases?cursor=nonsense", {}, 422, "invalid_field"),
        ("GET", "/api/v1/knowledge-bases/%00", {}, 404, "not_found"),
    ],
)
def test_every_error_is_a_problem_with_its_status_and_its_code(
    client: TestClient, method: str, path: str, sent: dict[str, Any], status: int, code: str | None
) -> None:
    answer = client.simulate_request(method, path, **sent)

    assert is_problem(answer)
    assert (answer.status_code, answer.json["code"]) == (status, code or "unsupported_media_type")


def test_a_method_that_is_not_allowed_comes_with_those_that_are(client: TestClient) -> None:
    assert client.simulate_put(TASKS).headers["allow"] == "GET, POST, OPTIONS"


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"priority": "urgent"}, "priority", "must be one of low, normal, high, critical, or a whole number"),
        ({"on_dependency_failure": "x"}, "on_dependency_failure", "must be one of fail, wait"),
        ({"queue_name": "a b"}, "queue_name", "must consist of letters, digits and _ . : - (A-Z, a-z, 0-9)"),
        ({"type": "strict", "payload": {}}, "payload.number", "is required"),
        ({"type": "strict", "payload": {"number": 1, "n": 2}}, "payload.n", "is not known here"),
    ],
)
def test_a_refusal_says_what_would_be_taken(
    client: TestClient, given: dict[str, Any], field: str, message: str
) -> None:
    answer = client.simulate_post(TASKS, json={"type": "test", **given})

    assert answer.status_code == 422
    assert answer.json["errors"] == [{"field": field, "message": message}]


@pytest.mark.parametrize(
    ("query", "message"),
    [("limit=ten", "must be a whole number"), ("stages=perhaps", "must be true or false")],
)
def test_a_query_string_is_refused_in_words_about_text(client: TestClient, query: str, message: str) -> None:
    (error,) = client.simulate_get(f"{TASKS}?{query}").json["errors"]

    assert error == {"field": query.partition("=")[0], "message": message}


@pytest.mark.parametrize(
    "kind", [None, "application/json", "application/json; charset=utf-8", "application/x+json"]
)
def test_json_is_read_under_each_of_its_names_and_without_one(client: TestClient, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}

    assert client.simulate_post(TASKS, body='{"type": "test"}', headers=headers).status_code == 202


def test_a_slash_at_the_end_makes_no_difference(client: TestClient) -> None:
    assert client.simulate_post(f"{TASKS}/", json={"type": "test"}).status_code == 202
    assert client.simulate_get("/health/").status_code == 200


def test_a_sane_request_id_is_sent_back_and_any_other_is_replaced(client: TestClient) -> None:
    for given_id, is_kept in (("abc-1.2_3", True), ("a b", False), ("x" * 101, False), ("", False)):
        answer = client.simulate_get("/health", headers={"X-Request-ID": given_id})
        assert (answer.headers["x-request-id"] == given_id) is is_kept
        assert answer.headers["x-request-id"]


def test_an_unexpected_failure_shows_nothing_of_it_but_is_logged(
    client: TestClient, kit: Kit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(kit.queries, "tasks", fail)

    with caplog.at_level(logging.ERROR):
        answer = client.simulate_get(TASKS)

    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert is_problem(answer)
    assert "secret" not in answer.text
    assert answer.json["request_id"] in caplog.text
    assert "the secret inside" in caplog.text


def test_while_postgres_is_away_callers_are_told_to_try_again(
    client: TestClient, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Unavailable("Postgres cannot record this now.")

    monkeypatch.setattr(kit.submission, "record", refuse)

    answer = client.simulate_post(TASKS, json={"type": "test"})
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"


# --- hostile bodies --------------------------------------------------------------------------------

TEXT = st.text(st.characters(), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.sampled_from(["\0", "\ud800", "test", "low", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
BACKOFFS = st.fixed_dictionaries({}, optional={name: VALUES for name in ("kind", "base", "factor", "max")})
NAMES = [*TaskRequest.__struct_fields__, *SYNONYMS]
BODIES = st.builds(
    lambda task, more: {**task, **more},
    st.fixed_dictionaries(
        {"task_type": st.sampled_from(["test", "sleep", "fail", "document_processing"]) | VALUES},
        optional={name: BACKOFFS if name == "backoff" else VALUES for name in NAMES if name != "task_type"},
    ),
    st.dictionaries(TEXT, VALUES, max_size=1),
)
RAW = st.binary(max_size=200) | BODIES.map(lambda body: json.dumps(body).encode())
#: Other ones in every run; `make fuzz` makes up thousands.
HOSTILE = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@HOSTILE
@given(RAW)
def test_no_body_makes_the_server_fail(client: TestClient, raw: bytes) -> None:
    answer = client.simulate_post(TASKS, body=raw)

    assert answer.status_code in (202, 400, 413, 422), answer.text
    assert answer.status_code == 202 or is_problem(answer)


@HOSTILE
@given(VALUES)
def test_what_is_accepted_as_a_payload_can_be_read_back(client: TestClient, payload: object) -> None:
    sent = json.dumps({"type": "test", "payload": payload})
    answer = client.simulate_post(TASKS, body=sent)

    if answer.status_code == 202:
        found = client.simulate_get(f"{TASKS}/{answer.json['task_id']}")
        # jsonb keeps the digits of a number and not whether it was a float.
        assert (
            json.loads(found.text, parse_int=float)["payload"] == json.loads(sent, parse_int=float)["payload"]
        )
    else:
        assert answer.status_code in (400, 422)


@HOSTILE
@given(st.dictionaries(st.sampled_from(["cursor", "tag", "status", "page", "created_after", "q"]), TEXT))
def test_no_query_makes_the_server_fail(client: TestClient, query: dict[str, str]) -> None:
    sent = {
        name: text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for name, text in query.items()
    }

    assert client.simulate_get(TASKS, params=sent).status_code in (200, 422)
