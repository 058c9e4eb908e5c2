"""The header Idempotency-Key, and tasks that depend on others, over HTTP on a real Postgres."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from falcon.testing import Result, TestClient

from pipelines.bootstrap import Kit
from tasks.ids import new_id
from tasks.settings import Settings
from tasks.values import Complete
from tests.support.api import served
from tests.support.waiting import eventually

TASKS = "/api/v1/tasks"


def post(client: TestClient, key: str | None, body: dict[str, Any], path: str = TASKS) -> Result:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.simulate_post(path, json=body, headers=headers)


def count(client: TestClient) -> int:
    return int(client.simulate_get(TASKS).json["total"])


def ids(answer: Result) -> list[str]:
    return [task["task_id"] for task in answer.json["tasks"]]


# --- the key -------------------------------------------------------------------------------------


def test_the_same_key_twice_is_one_task(client: TestClient) -> None:
    body = {"task_type": "test", "payload": {"a": 1, "b": [2]}}
    first = post(client, "order-7", body)
    second = post(client, "order-7", {"payload": {"b": [2], "a": 1}, "task_type": "test"})
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json["task_id"] == first.json["task_id"]
    assert second.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert count(client) == 1


def test_a_repetition_shows_how_far_the_task_is_now(client: TestClient, kit: Kit) -> None:
    body = {"task_type": "test", "payload": {"message": "hello"}}
    post(client, "k", body)
    (claim,) = kit.ledger.fetch(["default"], ["test"], 1).result(5)
    kit.ledger.complete(claim, Complete(claim.id, claim.token, "done")).result(5)
    assert post(client, "k", body).json["status"] == "completed"


def test_the_same_key_with_another_body_is_a_conflict(client: TestClient) -> None:
    post(client, "k", {"task_type": "test", "payload": 1})
    answer = post(client, "k", {"task_type": "test", "payload": 2})
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert count(client) == 1


def test_a_key_counts_for_its_own_route(client: TestClient) -> None:
    post(client, "k", {"task_type": "test"})
    answer = post(client, "k", {"tasks": [{"task_type": "test"}] * 3}, f"{TASKS}/batch")
    assert answer.status_code == 202
    again = post(client, "k", {"tasks": [{"task_type": "test"}] * 3}, f"{TASKS}/batch")
    assert ids(again) == ids(answer)
    assert count(client) == 4


def test_a_pipeline_is_found_again_by_its_key_too(client: TestClient) -> None:
    body = {"task_type": "shouting", "payload": {"words": ["a"]}}
    first, second = post(client, "k", body), post(client, "k", body)
    assert first.json["task_id"] == second.json["task_id"]
    assert count(client) == 1


def test_a_key_of_yesterday_is_a_new_one(client: TestClient, database_url: str) -> None:
    first = post(client, "k", {"task_type": "test"})
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
    second = post(client, "k", {"task_type": "test", "payload": "another"})
    assert second.status_code == 202
    assert second.json["task_id"] != first.json["task_id"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "schlüssel"])
def test_what_cannot_be_a_key_is_refused_by_name(client: TestClient, key: str) -> None:
    answer = post(client, key, {"task_type": "test"})
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert count(client) == 0


def test_a_refused_request_uses_up_no_key(client: TestClient) -> None:
    assert post(client, "k", {"task_type": "test", "depends_on": [str(new_id())]}).status_code == 422
    assert post(client, "k", {"task_type": "test"}).status_code == 202


def test_fifty_requests_at_once_with_one_key_are_one_task(settings: Settings, kit: Kit) -> None:
    with served(settings) as (address, _), httpx.Client(base_url=address, timeout=20) as http:
        body = {"task_type": "test", "payload": "once"}
        headers = {"Idempotency-Key": "stampede"}
        with ThreadPoolExecutor(50) as crowd:
            answers = list(crowd.map(lambda _: http.post(TASKS, json=body, headers=headers), range(50)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["task_id"] for answer in answers}) == 1
        assert http.get(TASKS).json()["total"] == 1


# --- dependencies --------------------------------------------------------------------------------


def test_a_task_waits_for_what_it_depends_on(client: TestClient, kit: Kit) -> None:
    first = post(client, None, {"task_type": "test"}).json["task_id"]
    blocked = post(client, None, {"task_type": "test", "depends_on": [first]}).json
    assert (blocked["status"], blocked["wait_reason"], blocked["depends_on"]) == (
        "blocked",
        "dependency",
        [first],
    )
    (claim,) = kit.ledger.fetch(["default"], ["test"], 5).result(5)
    kit.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(5)
    path = f"{TASKS}/{blocked['task_id']}"
    eventually(lambda: client.simulate_get(path).json["status"] == "queued")


def test_a_bad_dependency_in_a_batch_is_named_with_its_place(client: TestClient) -> None:
    good = {"task_type": "test"}
    bad = good | {"depends_on": [str(new_id())]}
    answer = post(client, None, {"tasks": [good, good, bad]}, f"{TASKS}/batch")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == "tasks[2].depends_on"
    assert count(client) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depends_on", ["not an id"]),
        ("depends_on", [str(new_id())]),
        ("on_dependency_failure", "explode"),
    ],
)
def test_a_dependency_that_makes_no_sense_is_refused_by_name(
    client: TestClient, field: str, value: object
) -> None:
    answer = post(client, None, {"task_type": "test", field: value})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"].startswith(field)
    assert count(client) == 0
