"""Tasks over HTTP, on a real Postgres: submitted, listed, read, cancelled; and the server that stops."""

import os
import signal
import socket
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg
import pytest
from falcon.testing import TestClient

from pipelines.bootstrap import Kit
from tasks.ids import new_id
from tasks.settings import Settings
from tasks.values import Complete, TaskError
from tests.support.api import served

TASKS = "/api/v1/tasks"
FIELDS = (
    "task_id task_type status progress phase message details queue_name priority payload result error "
    "attempts max_retries timeout user_id project_id kb_id created_by tags parent_id run_id stage depends_on "
    "run_at created_at updated_at started_at completed_at duration_ms estimated_completion wait_reason"
)


def submit(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.simulate_post(TASKS, json={"task_type": "test", **body})
    assert answer.status_code == 202, answer.text
    return dict(answer.json)


def work(kit: Kit) -> Any:
    """Claim the next task of the type test."""
    (claim,) = kit.ledger.fetch(["default"], ["test"], 1).result(5)
    return claim


def finish(kit: Kit, result: Any) -> None:
    claim = work(kit)
    kit.ledger.complete(claim, Complete(claim.id, claim.token, result)).result(5)


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def refuses_connections(address: tuple[str, int]) -> None:
    """Wait until nobody listens any more."""
    for _ in range(100):
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    raise AssertionError("it still accepts connections")


def ids(answer: Any) -> list[str]:
    return [task["task_id"] for task in answer.json["tasks"]]


# --- submitting ------------------------------------------------------------------------------------


def test_the_example_of_the_documentation_is_accepted(client: TestClient) -> None:
    answer = client.simulate_post(
        TASKS,
        headers={"Content-Type": "application/json"},
        body='{"task_type":"test","payload":{"message":"hello"}}',
    )

    assert answer.status_code == 202
    assert answer.headers["location"] == f"{TASKS}/{answer.json['task_id']}"
    assert " ".join(answer.json) == FIELDS
    assert (answer.json["status"], answer.json["priority"], answer.json["max_retries"]) == ("queued", 5, 3)
    assert answer.json["created_at"].endswith("Z")


def test_what_is_answered_is_what_is_on_record(client: TestClient) -> None:
    for body in ({"payload": [1, "ä"], "tags": ["b", "a"], "user_id": "u", "delay": 60}, {"priority": "low"}):
        task = submit(client, **body)

        found = client.simulate_get(f"{TASKS}/{task['task_id']}").json
        # Why it waits is found out by the reader: nobody works here.
        assert {**found, "wait_reason": None} == {**task, "wait_reason": None}


def test_a_delayed_task_is_scheduled_and_says_what_it_waits_for(client: TestClient) -> None:
    task = submit(client, delay=60)

    assert (task["status"], task["wait_reason"]) == ("scheduled", "time")
    assert task["run_at"] > task["created_at"]


def test_a_pipeline_is_submitted_as_one_task_with_its_first_stage(client: TestClient) -> None:
    run = submit(client, task_type="shouting", payload={"words": ["a"]})

    assert ids(client.simulate_get(TASKS)) == [run["task_id"]]
    both = client.simulate_get(TASKS, params={"stages": "true"}).json["tasks"]
    assert {task["task_type"] for task in both} == {"shouting", "shouting.gather_words"}


def test_a_type_that_nobody_declared_is_refused(client: TestClient) -> None:
    refused = client.simulate_post(TASKS, json={"task_type": "unheard_of"})

    assert (refused.status_code, refused.json["code"]) == (422, "unknown_task_type")
    assert refused.json["errors"][0]["field"] == "task_type"


def test_a_payload_that_does_not_fit_its_type_is_refused(client: TestClient) -> None:
    refused = client.simulate_post(TASKS, json={"task_type": "sleep", "payload": {"seconds": "long"}})

    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "payload.seconds")


def test_a_batch_is_accepted_in_its_order(client: TestClient) -> None:
    items = [{"type": "test", "payload": number} for number in range(50)]
    answer = client.simulate_post(f"{TASKS}/batch", json={"tasks": items})

    assert answer.status_code == 202
    assert [task["payload"] for task in answer.json["tasks"]] == list(range(50))
    assert client.simulate_get(TASKS).json["total"] == 50


@pytest.mark.parametrize("bad", [{"type": "test", "priority": 99}, {"type": "unheard_of"}, {}])
def test_a_batch_with_a_bad_item_names_it_and_records_nothing(
    client: TestClient, bad: dict[str, Any]
) -> None:
    refused = client.simulate_post(f"{TASKS}/batch", json={"tasks": [{"type": "test"}, bad]})

    assert refused.status_code == 422
    assert refused.json["errors"][0]["field"].startswith("tasks[1].")
    assert client.simulate_get(TASKS).json["total"] == 0


@pytest.mark.parametrize("tasks", [[], [1], "x", [{"type": "test"}] * 10_001])
def test_a_batch_has_one_to_ten_thousand_items(client: TestClient, tasks: Any) -> None:
    assert client.simulate_post(f"{TASKS}/batch", json={"tasks": tasks}).status_code == 422


# --- listing ---------------------------------------------------------------------------------------


def test_tasks_are_listed_newest_first_by_page_by_offset_and_by_cursor(client: TestClient) -> None:
    made = [submit(client)["task_id"] for _ in range(5)][::-1]

    assert ids(client.simulate_get(TASKS, params={"page": 2, "page_size": 2})) == made[2:4]
    assert ids(client.simulate_get(TASKS, params={"offset": 1, "limit": 3})) == made[1:4]
    first = client.simulate_get(TASKS, params={"limit": 3})
    rest = client.simulate_get(TASKS, params={"limit": 3, "cursor": first.json["next_cursor"]})
    assert ids(first) + ids(rest) == made
    assert (rest.json["total"], rest.json["total_is_exact"], rest.json["next_cursor"]) == (5, True, None)


def test_every_filter_finds_its_tasks_and_no_others(client: TestClient) -> None:
    marks: dict[str, Any] = {"kb_id": "kb_1", "user_id": "ann", "project_id": "p"}
    wanted = submit(client, task_type="benchmark", queue_name="mail", tags=["x"], delay=60, **marks)
    submit(client)
    filters = {**marks, "task_type": "benchmark", "queue_name": "mail", "tag": "x", "status": "scheduled"}

    for name, value in filters.items():
        assert ids(client.simulate_get(TASKS, params={name: value})) == [wanted["task_id"]], name
    assert ids(client.simulate_get(TASKS, params=filters)) == [wanted["task_id"]]
    after = {"created_after": wanted["created_at"]}
    assert client.simulate_get(TASKS, params=after).json["total"] == 2
    assert client.simulate_get(TASKS, params={"created_before": wanted["created_at"]}).json["total"] == 0
    assert client.simulate_get(TASKS, params={"parent_id": wanted["task_id"]}).json["total"] == 0


def test_status_takes_several_words_and_words_for_several(client: TestClient, kit: Kit) -> None:
    running = submit(client)["task_id"]
    work(kit)
    scheduled, queued = submit(client, delay=60)["task_id"], submit(client)["task_id"]

    assert ids(client.simulate_get(TASKS, params={"status": "processing"})) == [running]
    assert ids(client.simulate_get(TASKS, params={"status": "pending"})) == [queued, scheduled]
    both = client.simulate_get(f"{TASKS}?status=running,scheduled")
    assert ids(both) == ids(client.simulate_get(f"{TASKS}?status=running&status=scheduled"))
    assert set(ids(both)) == {running, scheduled}


def test_a_moment_in_a_query_may_have_lost_its_plus(client: TestClient) -> None:
    assert client.simulate_get(f"{TASKS}?created_after=2020-01-01T00:00:00+02:00").status_code == 200


# --- unique keys, callbacks ------------------------------------------------------------------------


def test_the_same_unique_key_answers_with_the_task_that_has_it_as_it_is_now(
    client: TestClient, kit: Kit
) -> None:
    first = submit(client, unique_key="order-7", payload=1)
    finish(kit, "done")

    again = submit(client, unique_key="order-7", payload=2)

    assert (again["task_id"], again["payload"], again["status"]) == (first["task_id"], 1, "completed")
    assert client.simulate_get(TASKS).json["total"] == 1


def test_a_batch_answers_each_place_with_the_task_that_has_its_key(client: TestClient) -> None:
    known = submit(client, unique_key="old")["task_id"]
    items = [{"task_type": "test", "unique_key": key} for key in ("old", "new", "new")]
    items.append({"task_type": "shouting", "payload": {"words": ["a"]}, "unique_key": "old"})

    answer = client.simulate_post(f"{TASKS}/batch", json={"tasks": items})

    assert answer.status_code == 202
    assert ids(answer) == [known, ids(answer)[1], ids(answer)[1], known]
    assert client.simulate_get(TASKS, params={"stages": "true"}).json["total"] == 2


def test_a_key_is_free_again_when_its_task_was_deleted(client: TestClient, kit: Kit) -> None:
    # Given a finished task with both kinds of keys, that was deleted
    headers = {"Idempotency-Key": "request-1"}
    body = {"task_type": "test", "unique_key": "order-7"}
    first = client.simulate_post(TASKS, json=body, headers=headers).json["task_id"]
    finish(kit, None)
    assert kit.ledger.delete(UUID(first)).result(5) == "deleted"

    # Then the request itself is over and says so, and another one makes a new task
    repeated = client.simulate_post(TASKS, json=body, headers=headers)
    assert (repeated.status_code, repeated.json["code"]) == (409, "conflict")
    assert submit(client, unique_key="order-7")["task_id"] != first


def test_a_callback_url_is_kept_and_never_shown(client: TestClient, database_url: str) -> None:
    url = "https://hook.example.org:8443/callbacks?token=secret"
    task = submit(client, callback_url=url)

    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT callback_url FROM tasks").fetchall() == [(url,)]
    for path in (TASKS, f"{TASKS}/{task['task_id']}", f"{TASKS}/{task['task_id']}/history"):
        assert "secret" not in client.simulate_get(path).text
    assert "callback_url" not in task


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unique_key", ""),
        ("unique_key", "two words"),
        ("unique_key", "line\n"),
        ("unique_key", "x" * 256),
        ("unique_key", 7),
        ("callback_url", ""),
        ("callback_url", "ftp://secret.example.org"),
        ("callback_url", "//secret.example.org"),
        ("callback_url", "https://"),
        ("callback_url", "https://secret example.org"),
        ("callback_url", "https://secret.example.org:port/"),
        ("callback_url", "https://secret.example.org:99999/"),
        ("callback_url", "https://[secret/"),
        ("callback_url", "https://secret.example.org/" + "x" * 2_048),
        ("callback_url", ["https://secret.example.org"]),
        ("parent_id", "0b8f8a52-4a4e-7c11-9d3e-5b1f7a2c9e10"),
    ],
)
def test_a_key_or_a_callback_that_makes_no_sense_is_refused_by_name(
    client: TestClient, field: str, value: object
) -> None:
    items = {"tasks": [{"task_type": "test"}, {"task_type": "test", field: value}]}
    alone = client.simulate_post(TASKS, json={"task_type": "test", field: value})
    batch = client.simulate_post(f"{TASKS}/batch", json=items)

    assert (alone.status_code, batch.status_code) == (422, 422)
    assert alone.json["errors"][0]["field"] == field
    assert batch.json["errors"][0]["field"] == f"tasks[1].{field}"
    assert "secret" not in alone.text + batch.text
    assert client.simulate_get(TASKS).json["total"] == 0


# --- large batches ---------------------------------------------------------------------------------


def test_ten_thousand_tasks_are_one_batch(client: TestClient) -> None:
    items = [{"task_type": "test", "payload": {"n": n}} for n in range(10_000)]

    answer = client.simulate_post(f"{TASKS}/batch", json={"tasks": items})

    assert answer.status_code == 202
    assert len(set(ids(answer))) == 10_000
    assert client.simulate_get(TASKS, params={"limit": 1}).json["total"] == 10_000


def test_one_bad_item_among_ten_thousand_is_named_and_nothing_is_stored(client: TestClient) -> None:
    items: list[dict[str, Any]] = [{"task_type": "test"} for _ in range(10_000)]
    items[9_998] = {"task_type": "test", "priority": 11}

    answer = client.simulate_post(f"{TASKS}/batch", json={"tasks": items})

    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "tasks[9998].priority")
    assert client.simulate_get(TASKS).json["total"] == 0
    too_many = client.simulate_post(f"{TASKS}/batch", json={"tasks": [{"type": "test"}] * 10_001})
    assert (too_many.status_code, too_many.json["errors"][0]["field"]) == (422, "tasks")


# --- one task --------------------------------------------------------------------------------------


def test_a_finished_task_gives_its_result_and_its_history(client: TestClient, kit: Kit) -> None:
    task_id = submit(client)["task_id"]
    early = client.simulate_get(f"{TASKS}/{task_id}/result")
    assert (early.status_code, early.json["code"]) == (409, "conflict")

    finish(kit, {"answer": 42})

    assert client.simulate_get(f"{TASKS}/{task_id}/result").json["result"] == {"answer": 42}
    status = client.simulate_get(f"{TASKS}/{task_id}/status").json
    assert list(status) == ["task_id", "status", "phase", "progress", "message", "details", "updated_at"]
    assert (status["status"], status["progress"]) == ("completed", 100.0)
    assert client.simulate_get(f"{TASKS}/{task_id}/progress").json == status
    history = client.simulate_get(f"{TASKS}/{task_id}/history").json["history"]
    assert [event["status"] for event in history] == ["queued", "running", "completed"]
    assert list(history[0]) == ["event_id", "kind", "phase", "progress", "message", "status", "timestamp"]


def test_a_failed_task_gives_its_error_as_what_came_of_it(client: TestClient, kit: Kit) -> None:
    task_id = submit(client)["task_id"]
    kit.ledger.fail(work(kit), TaskError("actor_error", "it broke"), retry_in=None).result(5)

    found = client.simulate_get(f"{TASKS}/{task_id}/result").json
    assert (found["status"], found["error"]["message"]) == ("failed", "it broke")


def test_a_result_with_a_number_that_has_no_bounds_can_be_read(client: TestClient, kit: Kit) -> None:
    task_id = submit(client)["task_id"]
    finish(kit, {"large": 1e300})

    assert client.simulate_get(f"{TASKS}/{task_id}/result").json["result"]["large"] == 10**300


def test_cancelling_answers_with_the_cancelled_task_however_often(client: TestClient) -> None:
    task_id = submit(client)["task_id"]

    for _ in range(2):
        answer = client.simulate_post(f"{TASKS}/{task_id}/cancel")
        assert (answer.status_code, answer.json["status"]) == (202, "cancelled")


def test_a_finished_task_cannot_be_cancelled(client: TestClient, kit: Kit) -> None:
    task_id = submit(client)["task_id"]
    finish(kit, None)

    refused = client.simulate_post(f"{TASKS}/{task_id}/cancel")
    assert (refused.status_code, refused.json["code"]) == (409, "conflict")


def test_a_task_that_is_not_there_is_not_found(client: TestClient) -> None:
    for name in (new_id(), "nonsense", "%00", "x" * 3_000):
        for below in ("", "/status", "/progress", "/result", "/history"):
            assert client.simulate_get(f"{TASKS}/{name}{below}").status_code == 404
        assert client.simulate_post(f"{TASKS}/{name}/cancel").status_code == 404


# --- the process -----------------------------------------------------------------------------------


def test_health_touches_nothing_and_ready_asks_postgres(client: TestClient) -> None:
    assert client.simulate_get("/health").json == {"status": "ok"}
    assert client.simulate_get("/ready").status_code == 200


def test_ready_says_so_when_postgres_is_gone(client: TestClient, kit: Kit, monkeypatch: Any) -> None:
    def refuse() -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(kit.queries, "ping", refuse)

    answer = client.simulate_get("/ready")
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


def test_pipelines_are_listed_with_their_stages(client: TestClient) -> None:
    found = {one["name"]: one for one in client.simulate_get("/api/v1/pipelines").json["pipelines"]}

    stages = found["shouting"]["stages"]
    assert [stage["task_type"] for stage in stages] == ["shouting.gather_words", "shouting.shout"]
    assert client.simulate_get("/api/v1/pipelines/shouting").json == found["shouting"]
    assert client.simulate_get("/api/v1/pipelines/nix").status_code == 404


def test_a_server_that_is_told_to_stop_finishes_what_it_has_begun(settings: Settings) -> None:
    with served(settings) as (url, process):
        # Given a connection that idles, and a request whose body is still arriving
        address = address_of(url)
        idle = httpx.Client(base_url=url)
        assert idle.get("/ready").status_code == 200
        with socket.create_connection(address) as begun:
            begun.sendall(f"POST {TASKS} HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n".encode())
            begun.sendall(b'{"type"')
            assert idle.get("/health").status_code == 200

            # When the server is told to stop
            os.kill(process.pid, signal.SIGTERM)

            # Then it takes no new connection, says that it is not ready, and answers what it has begun
            refuses_connections(address)
            ready = idle.get("/ready")
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            begun.sendall(b':"test"}')
            assert b"202 Accepted" in begun.recv(4_096)
        idle.close()

        # And ends by itself, with its shutdown done
        assert process.wait(10) == 0


def test_a_body_that_is_too_large_is_refused_before_it_is_sent_or_while_it_is(settings: Settings) -> None:
    with served(settings) as (url, _), httpx.Client(base_url=url) as client:
        # A client that sends on is answered, and its connection can be used again
        headers = {"Content-Type": "application/json"}
        refused = client.post(TASKS, content=b" " * (8 << 20), headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        in_pieces = client.post(TASKS, content=(b" " * 65_536 for _ in range(64)), headers=headers)
        assert in_pieces.status_code == 413
        assert client.get("/health").status_code == 200

        # A client that asks first is told before it sends anything
        with socket.create_connection(address_of(url)) as asking:
            asking.sendall(
                f"POST {TASKS} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n"
                "Expect: 100-continue\r\n\r\n".encode()
            )
            assert asking.recv(4_096).startswith(b"HTTP/1.1 413")
