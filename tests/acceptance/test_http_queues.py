"""Named queues over HTTP, and what a full one answers."""

from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api import caller

QUEUES, TASKS = "/api/v1/queues", "/api/v1/tasks"
FIELDS = ["name", "concurrency", "rate_limit", "max_size", "paused", "created_at", "updated_at"]
STATS = (
    "name queued running scheduled retrying blocked completed failed dead size capacity concurrency paused "
    "oldest_age_s throughput wait_ms run_ms"
)


def define(client: TestClient, **body: Any) -> Result:
    return client.simulate_post(QUEUES, json=body)


def names(answer: Result) -> list[str]:
    return [one["name"] for one in answer.json["queues"]]


def count(client: TestClient) -> int:
    return int(client.simulate_get(TASKS).json["total"])


def test_a_queue_is_made_and_then_changed_by_the_same_request(client: TestClient) -> None:
    # Given the body of the task system's documentation
    made = define(client, name="processing", concurrency=10)
    assert (made.status_code, made.headers["location"]) == (201, f"{QUEUES}/processing")
    assert list(made.json) == FIELDS
    assert (made.json["concurrency"], made.json["max_size"], made.json["paused"]) == (10, None, False)

    # When it comes again with other settings, then the queue is changed, and what was left out stays
    rate = {"limit": 100, "per_seconds": 60}
    changed = define(client, name="processing", max_size=50, rate_limit=rate)
    assert (changed.status_code, changed.json["concurrency"], changed.json["max_size"]) == (200, 10, 50)
    assert changed.json["rate_limit"] == {"limit": 100, "per_seconds": 60.0, "burst": 100}
    assert changed.json["created_at"] == made.json["created_at"]
    assert client.simulate_get(f"{QUEUES}/processing").json == changed.json


def test_a_queue_has_defaults(client: TestClient) -> None:
    assert define(client, name="mail").json["concurrency"] == 5


def test_a_queue_that_a_task_names_is_there_without_limits(client: TestClient) -> None:
    client.simulate_post(TASKS, json={"task_type": "test", "queue_name": "by-the-way"})

    found = client.simulate_get(f"{QUEUES}/by-the-way").json
    assert (found["concurrency"], found["rate_limit"], found["max_size"]) == (None, None, None)


def test_queues_are_listed_by_name_in_all_three_ways_of_paging(client: TestClient) -> None:
    for name in ("zulu", "alpha", "mike"):
        define(client, name=name)
    everything = names(client.simulate_get(QUEUES))
    assert everything == sorted(everything)
    assert {"zulu", "alpha", "mike", "default"} <= set(everything)

    assert names(client.simulate_get(QUEUES, params={"page": 2, "page_size": 2})) == everything[2:4]
    assert names(client.simulate_get(QUEUES, params={"offset": 1, "limit": 2})) == everything[1:3]
    first = client.simulate_get(QUEUES, params={"limit": 2})
    rest = client.simulate_get(QUEUES, params={"limit": 100, "cursor": first.json["next_cursor"]})
    assert names(first) + names(rest) == everything
    assert (first.json["total"], first.json["total_is_exact"]) == (len(everything), True)


def test_a_queue_that_is_not_there_is_not_found(client: TestClient) -> None:
    for name in ("nix", "%00", "a%20b", "x" * 3_000):
        for below in ("", "/stats"):
            assert client.simulate_get(f"{QUEUES}/{name}{below}").status_code == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "two words"),
        ("name", "mail.XQ"),
        ("name", "amq.direct"),
        ("name", "a" * 101),
        ("name", 7),
        ("concurrency", 0),
        ("concurrency", 10**12),
        ("concurrency", "5"),
        ("concurrency", 1.5),
        ("max_size", 0),
        ("max_size", 1_000_001),
        ("max_size", True),
        ("rate_limit", {"limit": 0}),
        ("rate_limit", {"limit": 1, "per_seconds": 0}),
        ("rate_limit", {"limit": 1, "per_seconds": 1e9}),
        ("rate_limit", {"limit": 1, "burst": -1}),
        ("rate_limit", {"limit": 1, "per_minute": 1}),
        ("rate_limit", {}),
        ("rate_limit", 5),
        ("paused", True),
        ("colour", "red"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(client: TestClient, field: str, value: object) -> None:
    answer = define(client, **{"name": "mail", field: value})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert client.simulate_get(f"{QUEUES}/mail").status_code == 404


def test_a_queue_without_a_name_is_refused(client: TestClient) -> None:
    answer = define(client, concurrency=5)

    assert answer.json["errors"] == [{"field": "name", "message": "is required"}]


def test_a_full_queue_answers_429_and_when_to_come_again(client: TestClient) -> None:
    # Given a queue with room for two
    define(client, name="narrow", max_size=2)
    body = {"task_type": "test", "queue_name": "narrow"}
    kept = [client.simulate_post(TASKS, json=body).json["task_id"] for _ in range(2)]

    # When a third one comes, alone, in a batch or as a pipeline
    alone = client.simulate_post(TASKS, json=body)
    batch = client.simulate_post(f"{TASKS}/batch", json={"tasks": [{"task_type": "test"}, body]})
    shouting = {"task_type": "shouting", "payload": {"words": ["a"]}, "queue_name": "narrow"}
    pipeline = client.simulate_post(TASKS, json=shouting)

    # Then it is refused with its reason, and nothing is stored
    for answer in (alone, batch, pipeline):
        assert (answer.status_code, answer.json["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        assert "narrow" in answer.json["detail"]
    assert count(client) == 2

    # When one of the two is cancelled, then there is room
    client.simulate_post(f"{TASKS}/{kept[0]}/cancel")
    assert client.simulate_post(TASKS, json=body).status_code == 202


def test_a_document_that_a_full_queue_refuses_is_not_there(client: TestClient) -> None:
    # Given a knowledge base, and no room for a second document
    client.simulate_post("/api/v1/knowledge-bases", json={"kb_id": "docs", "name": "Docs"})
    queue = client.simulate_get("/api/v1/pipelines/document_processing").json["queue_name"]
    define(client, name=queue, max_size=1)
    documents = "/api/v1/knowledge-bases/docs/documents"
    first = client.simulate_post(documents, json={"name": "a.md", "text": "# A"})
    assert first.status_code == 202

    # When one is sent, then it is refused, and only the first one is listed
    refused = client.simulate_post(documents, json={"name": "b.md", "text": "# B"})
    assert (refused.status_code, refused.json["code"]) == (429, "queue_full")
    listed = client.simulate_get(documents).json["documents"]
    assert [(one["name"], one["task_id"]) for one in listed] == [("a.md", first.json["task_id"])]


def test_a_refused_request_may_be_repeated_with_its_key(client: TestClient) -> None:
    define(client, name="narrow", max_size=1)
    body = {"task_type": "test", "queue_name": "narrow"}
    first = client.simulate_post(TASKS, json=body).json["task_id"]
    headers = {"Idempotency-Key": "again"}
    assert client.simulate_post(TASKS, json=body, headers=headers).status_code == 429

    client.simulate_post(f"{TASKS}/{first}/cancel")

    assert client.simulate_post(TASKS, json=body, headers=headers).status_code == 202


def test_the_statistics_of_a_queue_have_the_fields_of_the_contract(client: TestClient) -> None:
    define(client, name="mail", max_size=7, concurrency=3)
    client.simulate_post(TASKS, json={"task_type": "test", "queue_name": "mail"})
    client.simulate_post(TASKS, json={"task_type": "test", "queue_name": "mail", "delay": 60})

    found = client.simulate_get(f"{QUEUES}/mail/stats").json

    assert " ".join(found) == STATS
    assert (found["queued"], found["scheduled"], found["size"], found["capacity"]) == (1, 1, 2, 7)
    assert (found["concurrency"], found["paused"], found["throughput"]) == (3, False, 0)
    assert found["wait_ms"] == found["run_ms"] == {"p50": None, "p95": None}


def test_a_queue_is_paused_and_resumed_and_its_tasks_say_so(client: TestClient) -> None:
    # Given a task in a queue
    define(client, name="mail")
    body = {"task_type": "test", "queue_name": "mail"}
    task_id = client.simulate_post(TASKS, json=body).json["task_id"]

    # When that is paused, twice
    for _ in range(2):
        answer = client.simulate_post(f"{QUEUES}/mail/pause")
        assert (answer.status_code, answer.json["paused"]) == (200, True)

    # Then the task says so, and so does the queue, which takes more work
    assert client.simulate_get(f"{TASKS}/{task_id}").json["wait_reason"] == "paused"
    assert client.simulate_get(f"{QUEUES}/mail/stats").json["paused"] is True
    assert client.simulate_post(TASKS, json=body).status_code == 202

    # When it is resumed, then it is open
    answer = client.simulate_post(f"{QUEUES}/mail/resume")
    assert (answer.status_code, answer.json["paused"]) == (200, False)
    assert client.simulate_get(f"{TASKS}/{task_id}").json["wait_reason"] != "paused"


def test_a_change_names_what_it_changes_and_null_takes_a_limit_away(client: TestClient) -> None:
    define(client, name="mail", concurrency=3, max_size=9, rate_limit={"limit": 5})

    changed = client.simulate_patch(f"{QUEUES}/mail", json={"concurrency": None, "rate_limit": {"limit": 7}})

    assert changed.status_code == 200
    assert (changed.json["concurrency"], changed.json["max_size"]) == (None, 9)
    assert changed.json["rate_limit"] == {"limit": 7, "per_seconds": 1.0, "burst": 7}
    assert client.simulate_patch(f"{QUEUES}/mail", json={"rate_limit": None}).json["rate_limit"] is None
    assert client.simulate_get(f"{QUEUES}/mail").json["max_size"] == 9


@pytest.mark.parametrize(
    ("field", "value"),
    [("concurrency", 0), ("max_size", "9"), ("rate_limit", {"burst": 1}), ("paused", True), ("name", "post")],
)
def test_a_change_that_makes_no_sense_is_refused_by_name(
    client: TestClient, field: str, value: object
) -> None:
    before = define(client, name="mail").json

    answer = client.simulate_patch(f"{QUEUES}/mail", json={field: value})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert client.simulate_get(f"{QUEUES}/mail").json == before


def test_a_queue_with_work_in_it_is_not_deleted(client: TestClient) -> None:
    define(client, name="mail")
    task = client.simulate_post(TASKS, json={"task_type": "test", "queue_name": "mail"}).json

    refused = client.simulate_delete(f"{QUEUES}/mail")
    assert (refused.status_code, refused.json["code"]) == (409, "conflict")
    assert "1 unfinished" in refused.json["detail"]

    client.simulate_post(f"{TASKS}/{task['task_id']}/cancel")
    assert client.simulate_delete(f"{QUEUES}/mail").status_code == 204
    assert client.simulate_get(f"{QUEUES}/mail").status_code == 404


def test_what_is_asked_of_a_queue_that_is_not_there_is_not_found(client: TestClient) -> None:
    for name in ("nix", "%00", "a%20b", "x" * 3_000):
        assert client.simulate_patch(f"{QUEUES}/{name}", json={"max_size": 1}).status_code == 404
        assert client.simulate_delete(f"{QUEUES}/{name}").status_code == 404
        for verb in ("pause", "resume"):
            assert client.simulate_post(f"{QUEUES}/{name}/{verb}").status_code == 404


def test_only_an_administrator_steers_queues(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    define(client, name="mail")
    monkeypatch.setattr(caller, "ANYBODY", caller.Caller("ann"))

    answers = [
        define(client, name="mail", concurrency=1),
        client.simulate_patch(f"{QUEUES}/mail", json={"concurrency": 1}),
        client.simulate_delete(f"{QUEUES}/mail"),
        client.simulate_post(f"{QUEUES}/mail/pause"),
        client.simulate_post(f"{QUEUES}/mail/resume"),
    ]

    assert [answer.status_code for answer in answers] == [403] * 5
    assert client.simulate_get(f"{QUEUES}/mail").json["concurrency"] == 5


def test_a_queue_that_was_deleted_is_there_again_when_a_task_names_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a queue that this process knows, and that is deleted when its task is over
    monkeypatch.setattr("tasks.ledger.group.KNOWN_SECONDS", 0.0)
    task = {"task_type": "test", "queue_name": "errands"}
    made = client.simulate_post(TASKS, json=task).json["task_id"]
    client.simulate_post(f"{TASKS}/{made}/cancel")
    assert client.simulate_delete(f"{QUEUES}/errands").status_code == 204
    # When another task names it, then it is there
    assert client.simulate_post(TASKS, json=task).status_code == 202
    assert client.simulate_get(f"{QUEUES}/errands").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{QUEUES}/mail/pause",
        f"{QUEUES}/mail/resume",
        "/api/v1/scheduled-tasks/hourly/run",
        "/api/v1/scheduled-tasks/hourly/pause",
        "/api/v1/scheduled-tasks/hourly/resume",
    ],
)
def test_what_takes_no_fields_refuses_them_and_does_nothing(client: TestClient, path: str) -> None:
    define(client, name="mail")
    schedule = {"name": "hourly", "task_type": "test", "cron_expr": "0 * * * *"}
    client.simulate_post("/api/v1/scheduled-tasks", json=schedule)

    refused = client.simulate_post(path, json={"payload": {"a": 1}})
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "payload")
    broken = client.simulate_post(path, body="{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    assert count(client) == 0
    assert client.simulate_get(f"{QUEUES}/mail").json["paused"] is False
    assert client.simulate_post(path).status_code in (200, 202)
