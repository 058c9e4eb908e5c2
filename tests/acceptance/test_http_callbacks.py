"""Webhooks and callbacks over HTTP: who may be told what, and what was delivered."""

from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api import caller
from api.caller import Caller
from tests.support.waiting import eventually

WEBHOOKS, TASKS = "/api/v1/webhooks", "/api/v1/tasks"
URL = "https://hook.example.org/callbacks?token=hidden"
FIELDS = ["webhook_id", "url", "events", "filter", "user_id", "created_by", "created_at"]
DELIVERY = [
    "delivery_id",
    "task_id",
    "event",
    "webhook_id",
    "url",
    "status",
    "attempts",
    "next_attempt_at",
    "created_at",
]


def make(client: TestClient, **body: Any) -> Result:
    return client.simulate_post(WEBHOOKS, json={"url": URL, **body})


def cancelled(client: TestClient, **fields: Any) -> str:
    """A task that has ended."""
    task_id: str = client.simulate_post(TASKS, json={"task_type": "test", **fields}).json["task_id"]
    assert client.simulate_post(f"{TASKS}/{task_id}/cancel").status_code == 202
    return task_id


def callbacks(client: TestClient, task_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.simulate_get(f"{TASKS}/{task_id}/callbacks").json["callbacks"]
    return found


def test_a_webhook_is_made_and_shows_its_secret_once(client: TestClient) -> None:
    made = make(client, events=["failed"], filter={"task_type": "test", "stages": True})
    path = f"{WEBHOOKS}/{made.json['webhook_id']}"

    assert (made.status_code, made.headers["location"]) == (201, path)
    assert list(made.json) == [*FIELDS, "secret"]
    assert len(made.json["secret"]) >= 32
    assert made.json["events"] == ["failed"]
    assert made.json["filter"] == {
        "task_type": "test", "queue_name": None, "user_id": None, "kb_id": None,
        "project_id": None, "tag": None, "stages": True,
    }  # fmt: skip
    # Then it is never shown again, and neither is what may be secret in its URL
    shown = {name: made.json[name] for name in FIELDS}
    assert client.simulate_get(path).json == shown
    assert client.simulate_get(WEBHOOKS).json["webhooks"] == [shown]
    assert shown["url"] == "https://hook.example.org/callbacks"
    assert make(client).json["secret"] != make(client).json["secret"]


def test_a_webhook_may_bring_its_own_secret(client: TestClient) -> None:
    assert make(client, secret="sixteen-letters!").json["secret"] == "sixteen-letters!"


def test_webhooks_are_listed_oldest_first_and_deleted(client: TestClient) -> None:
    ids = [make(client).json["webhook_id"] for _ in range(3)]
    page = client.simulate_get(WEBHOOKS, params={"limit": 2}).json
    assert [one["webhook_id"] for one in page["webhooks"]] == ids[:2]
    assert (page["total"], page["total_is_exact"]) == (3, True)

    assert client.simulate_delete(f"{WEBHOOKS}/{ids[0]}").status_code == 204
    assert client.simulate_delete(f"{WEBHOOKS}/{ids[0]}").status_code == 404
    assert client.simulate_get(f"{WEBHOOKS}/{ids[0]}").status_code == 404
    assert client.simulate_get(WEBHOOKS).json["total"] == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "ftp://hook.example.org/"),
        ("url", "https://user:hidden@hook.example.org/"),
        ("url", "http://127.0.0.1/"),
        ("url", "http://2130706433/"),
        ("url", "http://0x7f.1/"),
        ("url", "http://[::ffff:10.0.0.1]/"),
        ("url", "http://169.254.169.254/"),
        ("url", "http://localhost:8000/"),
        ("url", "https://a\\b/"),
        ("url", None),
        ("events", []),
        ("events", ["started"]),
        ("events", "failed"),
        ("secret", "short"),
        ("secret", "with spaces in between"),
        ("secret", "x" * 201),
        ("filter", {"status": "failed"}),
        ("filter", {"tag": ""}),
        ("filter", {"stages": "yes"}),
        ("filter", []),
        ("colour", "red"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(client: TestClient, field: str, value: object) -> None:
    answer = make(client, **{field: value})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert "hidden" not in answer.text
    assert client.simulate_get(WEBHOOKS).json["total"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1:9", "2130706433", "[::1]", "10.0.0.1", "metadata.localhost"])
def test_a_callback_url_of_an_intranet_is_refused_at_submission(client: TestClient, host: str) -> None:
    answer = client.simulate_post(TASKS, json={"task_type": "test", "callback_url": f"http://{host}/"})

    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == "callback_url"
    assert client.simulate_get(TASKS).json["total"] == 0


def test_what_is_delivered_about_a_task_is_listed(client: TestClient) -> None:
    webhook = make(client, events=["cancelled"]).json["webhook_id"]
    make(client, events=["failed"])
    task_id = cancelled(client, callback_url=URL)

    found = client.simulate_get(f"{TASKS}/{task_id}/callbacks").json
    assert (found["total"], found["next_cursor"]) == (2, None)
    assert list(found["callbacks"][0]) == DELIVERY
    assert {one["webhook_id"] for one in found["callbacks"]} == {None, webhook}
    for one in found["callbacks"]:
        assert (one["task_id"], one["event"], one["status"]) == (task_id, "cancelled", "pending")
        assert (one["url"], one["attempts"]) == ("https://hook.example.org/callbacks", [])
    assert "hidden" not in client.simulate_get(f"{TASKS}/{task_id}/callbacks").text


def test_a_delivery_is_sent_again_on_demand(client: TestClient) -> None:
    task_id = cancelled(client, callback_url=URL)
    (delivery,) = callbacks(client, task_id)
    path = f"{TASKS}/{task_id}/callbacks/{delivery['delivery_id']}/redeliver"

    asked = client.simulate_post(path)
    assert (asked.status_code, asked.json["delivery_id"]) == (202, delivery["delivery_id"])
    assert asked.json["next_attempt_at"] >= delivery["next_attempt_at"]
    # What is not there, or belongs to another task, is not found
    other = cancelled(client)
    for wrong in (
        path.replace(task_id, other),
        path.replace(delivery["delivery_id"], task_id),
        f"{TASKS}/x/y",
    ):
        assert client.simulate_post(wrong).status_code == 404
    assert client.simulate_post(path.replace(delivery["delivery_id"], "nix")).status_code == 404
    assert client.simulate_get(f"{TASKS}/nix/callbacks").status_code == 404


def test_deliveries_go_with_their_task(client: TestClient) -> None:
    task_id = cancelled(client, callback_url=URL)
    assert client.simulate_delete(f"{TASKS}/{task_id}").status_code == 204
    assert client.simulate_get(f"{TASKS}/{task_id}/callbacks").status_code == 404


@pytest.fixture
def being(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes every request from now on one of a user's."""

    def be(name: str | None) -> None:
        who = Caller(is_admin=True) if name is None else Caller(user_id=name)
        monkeypatch.setattr(caller, "ANYBODY", who)

    return be


def test_nobody_sees_anothers_webhooks_and_deliveries(client: TestClient, being: Any) -> None:
    # Given a webhook of an administrator, and one each of two users
    everything = make(client).json["webhook_id"]
    being("ann")
    hers = make(client).json
    assert hers["user_id"] == "ann"
    being("bob")
    his = make(client).json["webhook_id"]
    # When a task of Bob's ends
    task_id = cancelled(client, callback_url=URL)
    eventually(lambda: callbacks(client, task_id))
    # Then he sees what is delivered to him, and nothing of the others
    found = callbacks(client, task_id)
    assert {one["webhook_id"] for one in found} == {None, his}
    assert [one["webhook_id"] for one in client.simulate_get(WEBHOOKS).json["webhooks"]] == [his]
    for other in (everything, hers["webhook_id"]):
        assert client.simulate_get(f"{WEBHOOKS}/{other}").status_code == 404
        assert client.simulate_delete(f"{WEBHOOKS}/{other}").status_code == 404
    # and Ann sees nothing of it, nor can she have it sent
    being("ann")
    assert client.simulate_get(f"{TASKS}/{task_id}/callbacks").status_code == 404
    again = f"{TASKS}/{task_id}/callbacks/{found[0]['delivery_id']}/redeliver"
    assert client.simulate_post(again).status_code == 404
    refused = make(client, filter={"user_id": "bob"})
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "filter.user_id")
    # and an administrator sees all
    being(None)
    assert {one["webhook_id"] for one in callbacks(client, task_id)} == {None, his, everything}
    assert client.simulate_get(WEBHOOKS).json["total"] == 3
