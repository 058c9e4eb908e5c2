"""``callboard webhooks`` and what was delivered about a task, and the methods of the client behind them."""

import json

import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli import main
from api.client import Client
from tests.support.answers import TASK_ID, Script, task

WEBHOOK_ID = "019d0000-0000-7000-8000-00000000000a"
DELIVERY_ID = "019d0000-0000-7000-8000-00000000000b"
FILTER = {
    "task_type": "test",
    "queue_name": None,
    "user_id": None,
    "kb_id": None,
    "project_id": None,
    "tag": None,
    "stages": True,
}
WEBHOOK = {
    "webhook_id": WEBHOOK_ID,
    "url": "https://hook.example/[red]callbacks",
    "events": ["failed", "completed"],
    "filter": FILTER,
    "user_id": None,
    "created_by": "user:ann",
    "created_at": "2026-01-01T00:00:00Z",
}
DELIVERY = {
    "delivery_id": DELIVERY_ID,
    "task_id": TASK_ID,
    "event": "failed",
    "webhook_id": None,
    "url": "https://hook.example/callbacks",
    "status": "pending",
    "attempts": [
        {"at": "2026-01-01T00:00:00Z", "status_code": 503, "error": None, "duration_ms": 12.4},
        {"at": "2026-01-01T00:00:05Z", "status_code": None, "error": "no answer", "duration_ms": 10_000.0},
    ],
    "next_attempt_at": "2026-01-01T00:00:35Z",
    "created_at": "2026-01-01T00:00:00Z",
}


def call(server: Script, *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, obj=httpx.MockTransport(server))


def ok(value: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=value)


def test_webhooks_are_listed() -> None:
    done = call(Script(ok({"webhooks": [WEBHOOK], "total": 1})), "webhooks", "list")

    assert done.exit_code == 0
    for text in (WEBHOOK_ID, "failed, completed", "task_type test, stages True", "[red]callbacks"):
        assert text in done.stdout


def test_a_webhook_is_made_of_what_is_given_and_shows_its_secret() -> None:
    server = Script(ok({**WEBHOOK, "secret": "the secret of this webhook"}, 201))

    given = ("--event", "failed", "--event", "completed", "--type", "test", "--stages")
    done = call(server, "webhooks", "create", "https://hook.example/callbacks?token=1", *given)

    assert done.exit_code == 0
    assert "secret the secret of this webhook" in done.stdout
    (request,) = server.requests
    assert (request.method, request.url.path) == ("POST", "/api/v1/webhooks")
    assert json.loads(request.content) == {
        "url": "https://hook.example/callbacks?token=1",
        "events": ["failed", "completed"],
        "filter": {"task_type": "test", "stages": True},
    }


def test_an_event_that_there_is_not_is_refused_before_anything_is_sent() -> None:
    server = Script()
    assert call(server, "webhooks", "create", "https://a.example/", "--event", "started").exit_code == 2
    assert server.requests == []


def test_a_webhook_is_shown_and_deleted() -> None:
    shown = call(Script(ok(WEBHOOK)), "webhooks", "show", WEBHOOK_ID)
    assert "failed, completed; task_type test, stages True" in shown.stdout
    server = Script(httpx.Response(204))
    assert call(server, "webhooks", "delete", WEBHOOK_ID).exit_code == 0
    assert (server.requests[0].method, server.requests[0].url.path) == (
        "DELETE",
        f"/api/v1/webhooks/{WEBHOOK_ID}",
    )


def test_what_was_delivered_about_a_task_is_shown_with_each_attempt() -> None:
    done = call(Script(ok({"callbacks": [DELIVERY], "total": 1})), "tasks", "callbacks", TASK_ID)

    assert done.exit_code == 0
    for text in (DELIVERY_ID, "failed  pending, next attempt", "503  (12 ms)", "no answer  (10,000 ms)"):
        assert text in done.stdout


def test_a_delivery_is_sent_again() -> None:
    server = Script(ok(DELIVERY, 202))

    done = call(server, "tasks", "redeliver", TASK_ID, DELIVERY_ID, "--json")

    assert json.loads(done.stdout)["delivery_id"] == DELIVERY_ID
    path = f"/api/v1/tasks/{TASK_ID}/callbacks/{DELIVERY_ID}/redeliver"
    assert (server.requests[0].method, server.requests[0].url.path) == ("POST", path)


@pytest.mark.parametrize("command", [("webhooks", "list"), ("tasks", "callbacks", TASK_ID)])
def test_programs_get_one_document(command: tuple[str, ...]) -> None:
    server = Script(ok({"webhooks": [WEBHOOK], "callbacks": [DELIVERY], "total": 1}))
    assert json.loads(call(server, *command, "--json").stdout)


def test_a_task_is_submitted_with_a_callback() -> None:
    server = Script(ok(task(), 202))
    assert call(server, "submit", "test", "--callback", "https://hook.example/").exit_code == 0
    assert json.loads(server.requests[0].content)["callback_url"] == "https://hook.example/"


def test_ids_that_are_none_do_not_lead_elsewhere() -> None:
    server = Script(ok(WEBHOOK), ok(DELIVERY, 202))
    client = Client("http://callboard.test", transport=httpx.MockTransport(server))
    client.webhook("../tasks")
    client.redeliver("a/b", "c?d")
    assert [one.url.raw_path for one in server.requests] == [
        b"/api/v1/webhooks/..%2Ftasks",
        b"/api/v1/tasks/a%2Fb/callbacks/c%3Fd/redeliver",
    ]
