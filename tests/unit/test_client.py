"""The client speaks the routes of the API, and its errors say what to do."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.client import ApiError, Client, ClientError, ServerUnreachable, StillUnfinished, UnexpectedAnswer
from tests.support.answers import DOCUMENT_ID, TASK_ID, Script, event, problem, status, stream, task, told

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, **options: Any) -> Client:
    return Client("http://callboard.test", transport=httpx.MockTransport(handler), **options)


def no_pause(_: float) -> None:
    return None


def test_a_task_is_submitted_with_its_fields_and_returned_whole() -> None:
    # Given a server that accepts the task
    server = Script(httpx.Response(202, json=task()))

    # When it is submitted with a priority and an idempotency key
    submitted = client(server).submit("sleep", {"seconds": 1}, idempotency_key="k1", priority="high")

    # Then the request has the fields of the contract
    request = server.requests[0]
    assert (request.method, request.url.path) == ("POST", "/api/v1/tasks")
    assert json.loads(request.content) == {
        "task_type": "sleep",
        "payload": {"seconds": 1},
        "priority": "high",
    }
    assert request.headers["Idempotency-Key"] == "k1"
    # And the answer is a task with typed fields
    assert submitted.task_id == UUID(TASK_ID)
    assert submitted.created_at.year == 2026


def test_many_tasks_are_submitted_at_once() -> None:
    server = Script(httpx.Response(202, json={"tasks": [task(), task()]}))

    submitted = client(server).submit_many(
        [{"task_type": "test"}, {"task_type": "sleep", "payload": {"seconds": 1}}], idempotency_key="k1"
    )

    (request,) = server.requests
    assert request.url.path == "/api/v1/tasks/batch"
    assert [one["task_type"] for one in json.loads(request.content)["tasks"]] == ["test", "sleep"]
    assert request.headers["Idempotency-Key"] == "k1"
    assert [one.task_id for one in submitted] == [UUID(TASK_ID)] * 2


def test_a_payload_that_is_not_given_is_not_sent() -> None:
    server = Script(httpx.Response(202, json=task()))
    client(server).submit("test")
    assert json.loads(server.requests[0].content) == {"task_type": "test"}


def test_operators_verbs_are_sent_with_their_words() -> None:
    server = Script(*[httpx.Response(202, json=task())] * 4, httpx.Response(204))
    one = client(server)
    one.retry(TASK_ID)
    one.recover(TASK_ID, "stage", stage="embed", output=None)
    one.derivative(TASK_ID, {"a": 1}, idempotency_key="k", priority=3)
    assert one.delete(TASK_ID) is not None
    assert one.delete(TASK_ID) is None
    sent = [(request.method, request.url.path.rpartition("/")[2]) for request in server.requests]
    assert sent == [
        *(("POST", "retry"), ("POST", "recover"), ("POST", "derivative")),
        *[("DELETE", TASK_ID)] * 2,
    ]
    bodies = [json.loads(request.content) for request in server.requests[1:3]]
    assert bodies == [
        {"mode": "stage", "stage": "embed", "output": None},
        {"payload": {"a": 1}, "priority": 3},
    ]
    assert server.requests[2].headers["Idempotency-Key"] == "k"


@pytest.mark.parametrize(
    ("verb", "word"), [("cancel", "cancelled"), ("retry", "retried"), ("delete", "deleted")]
)
def test_a_verb_for_all_that_match_tells_its_counts(verb: str, word: str) -> None:
    counts = {"matched": 2, "eligible": 1, word: 1, "skipped": {"queued": 1}, "dry_run": False, "more": True}
    server = Script(httpx.Response(200, json=counts))
    outcome = getattr(client(server), f"{verb}_many")(
        tag="a", kb_id=None, created_before=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert (getattr(outcome, word), outcome.skipped, outcome.more) == (1, {"queued": 1}, True)
    assert json.loads(server.requests[0].content) == {
        "filter": {"tag": "a", "created_before": "2026-01-01T00:00:00+00:00"},
        "dry_run": False,
    }


def test_filters_that_are_none_are_left_out() -> None:
    page = {"tasks": [task()], "total": 1, "total_is_exact": True, "next_cursor": None}
    server = Script(httpx.Response(200, json=page))
    found = client(server).tasks(status="failed", kb_id=None, limit=5)
    assert dict(server.requests[0].url.params) == {"status": "failed", "limit": "5"}
    assert [one.task_type for one in found.tasks] == ["sleep"]


def test_a_task_is_followed_until_it_is_final_and_only_changes_are_told() -> None:
    # Given a task that stands still for one look
    looks = [status("queued"), status("running", 50), status("running", 50), status("completed", 100)]
    server = Script(*[httpx.Response(200, json=look) for look in looks])

    # When it is followed
    seen = list(client(server).poll(TASK_ID, pause=no_pause))

    # Then every change is told once, the end too
    assert [(one.status, one.progress) for one in seen] == [
        ("queued", 0),
        ("running", 50),
        ("completed", 100),
    ]


def test_the_intervals_between_looks_grow_from_a_twentieth_to_half_a_second() -> None:
    server = Script(*[httpx.Response(200, json=status("running"))] * 12, httpx.Response(200, json=status()))
    pauses: list[float] = []
    list(client(server).poll(TASK_ID, pause=pauses.append))
    assert pauses[0] == 0.05
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5


def test_a_short_outage_does_not_end_the_watch() -> None:
    # Given a server that is away and then too busy, after it was there once
    server = Script(
        httpx.Response(200, json=status("running")),
        httpx.ConnectError("refused"),
        problem(429, "rate_limited", "Too many requests", headers={"Retry-After": "7"}),
        httpx.Response(200, json=status("completed", 100)),
    )
    pauses: list[float] = []

    # When the task is followed
    seen = list(client(server).poll(TASK_ID, pause=pauses.append))

    # Then it is followed to its end, and the server's wish to wait was heard
    assert seen[-1].status == "completed"
    assert 7.0 in pauses


def test_a_server_that_was_never_there_ends_the_watch_at_once() -> None:
    with pytest.raises(ServerUnreachable):
        list(client(Script(httpx.ConnectError("refused"))).poll(TASK_ID, pause=no_pause))


def test_a_task_is_followed_through_cuts_and_refusals_to_its_final_event() -> None:
    # Given a stream that is cut twice, and once taken up by a server that is too busy
    server = Script(
        stream(told(2, "snapshot", status("running")), told(3, "progress", event(3, "progress", 25))),
        problem(503, "unavailable", "stopping", headers={"Retry-After": "7"}),
        httpx.ConnectError("refused"),
        stream(told(3, "snapshot", status("running", 25)), told(4, "log", event(4, "log"))),
        stream(
            told(4, "snapshot", status("running", 25)), told(5, "state", event(5, "state", 100, "completed"))
        ),
    )
    pauses: list[float] = []

    # When the task is followed
    seen = list(client(server).follow(TASK_ID, pause=pauses.append))

    # Then every event is told once, after one snapshot, and it ends with the final one
    assert [(one.id, one.event) for one in seen] == [
        (2, "snapshot"),
        (3, "progress"),
        (4, "log"),
        (5, "state"),
    ]
    assert seen[-1].is_final
    # And every connection went on where the one before had ended
    last = [request.headers.get("Last-Event-ID") for request in server.requests]
    assert last == [None, "3", "3", "3", "4"]
    assert 7.0 in pauses


def test_following_ends_when_the_server_has_no_more_to_tell() -> None:
    server = Script(httpx.Response(204))
    assert list(client(server).follow(TASK_ID, after=9)) == []
    assert server.requests[0].headers["Last-Event-ID"] == "9"


def test_following_a_server_that_was_never_there_ends_at_once() -> None:
    with pytest.raises(ServerUnreachable):
        list(client(Script(httpx.ConnectError("refused"))).follow(TASK_ID, pause=no_pause))


def test_following_a_task_that_is_not_there_is_refused() -> None:
    with pytest.raises(ApiError, match="no task"):
        list(client(Script(problem(404, "not_found", "There is no task"))).follow(TASK_ID, pause=no_pause))


def test_waiting_ends_with_the_whole_task_whatever_became_of_it() -> None:
    server = Script(
        stream(told(2, "snapshot", status("running")), told(3, "state", event(3, "state", None, "failed"))),
        httpx.Response(200, json=task(status="failed", error={"code": "actor_error", "message": "no"})),
    )
    assert client(server).wait(TASK_ID, pause=no_pause).error == {"code": "actor_error", "message": "no"}


def test_waiting_longer_than_allowed_says_how_to_go_on() -> None:
    server = Script(stream(told(2, "snapshot", status("running"))))
    with pytest.raises(StillUnfinished, match="callboard tasks watch"):
        client(server).wait(TASK_ID, timeout=0, pause=no_pause)


def test_cancelling_returns_the_task_as_it_is_now() -> None:
    server = Script(httpx.Response(202, json={}), httpx.Response(200, json=task(status="cancelled")))
    assert client(server).cancel(TASK_ID).status == "cancelled"
    assert server.requests[0].url.path == f"/api/v1/tasks/{TASK_ID}/cancel"


def test_a_file_is_uploaded_as_a_form_with_its_name_and_options(tmp_path: Path) -> None:
    # Given a file
    path = tmp_path / "report.txt"
    path.write_bytes(b"the content")
    server = Script(httpx.Response(202, json={"document_id": DOCUMENT_ID, "task_id": TASK_ID}))

    # When it is uploaded under a name of two parts
    accepted = client(server).upload("my kb", path, name="年/report.txt", chunk_size=500)

    # Then the knowledge base is quoted, and the form holds name, option and content
    request = server.requests[0]
    assert request.url.raw_path == b"/api/v1/knowledge-bases/my%20kb/documents"
    assert request.headers["Content-Type"].startswith("multipart/form-data")
    for part in ("年/report.txt".encode(), b'name="chunk_size"', b"500", b"the content"):
        assert part in request.content
    assert accepted.task_id == UUID(TASK_ID)


def test_a_search_returns_hits_with_their_places() -> None:
    hit = {"text": "t", "score": 0.5, "document_id": DOCUMENT_ID, "name": "a.md", "heading_path": ["A", "B"]}
    server = Script(httpx.Response(200, json={"hits": [hit | {"start": 0, "end": 1}]}))
    found = client(server).search("kb", "what?", limit=3)
    assert dict(server.requests[0].url.params) == {"q": "what?", "limit": "3", "mode": "hybrid"}
    assert found[0].heading_path == ["A", "B"]


def test_long_lists_are_read_page_by_page() -> None:
    # Given more documents than fit one page
    one = {"document_id": DOCUMENT_ID, "name": "a.md"}
    server = Script(
        httpx.Response(200, json={"documents": [one] * 1000, "total": 1001}),
        httpx.Response(200, json={"documents": [one], "total": 1001}),
    )
    # Then all of them are returned
    assert len(client(server).documents("kb")) == 1001
    assert [request.url.params["offset"] for request in server.requests] == ["0", "1000"]


@pytest.mark.parametrize(
    ("token", "header", "value"),
    [
        ("aaa.bbb.ccc", "Authorization", "Bearer aaa.bbb.ccc"),
        ("cb_0123456789", "X-API-Key", "cb_0123456789"),
    ],
)
def test_a_token_is_a_jwt_or_an_api_key(token: str, header: str, value: str) -> None:
    server = Script(httpx.Response(200, json={"status": "ok"}))
    client(server, token=token).health()
    assert server.requests[0].headers[header] == value


def test_not_ready_is_an_answer_not_an_error() -> None:
    server = Script(problem(503, "unavailable", "Postgres is away"), httpx.Response(200, json={}))
    asking = client(server)
    assert [asking.ready(), asking.ready()] == [False, True]


def test_a_problem_document_becomes_an_error_that_names_the_fields() -> None:
    # Given a server that refuses a field
    errors = [{"field": "priority", "message": "must be 0-10"}]
    server = Script(problem(422, "invalid_field", "Some fields are wrong.", errors=errors))

    # When a task is submitted
    with pytest.raises(ApiError) as caught:
        client(server).submit("test", priority=11)

    # Then the error has all that the problem document says
    error = caught.value
    assert (error.status, error.code, error.request_id) == (422, "invalid_field", "r-1")
    assert error.errors == ({"field": "priority", "message": "must be 0-10"},)
    assert str(error) == "Some fields are wrong; priority: must be 0-10 (422)"


def test_who_is_not_let_in_is_told_about_tokens() -> None:
    with pytest.raises(ApiError, match="CALLBOARD_TOKEN"):
        client(Script(problem(401, "unauthorized", "No token"))).task(TASK_ID)


def test_a_fault_of_the_server_names_the_request() -> None:
    with pytest.raises(ApiError, match=r"request r-1.*server's log"):
        client(Script(problem(500, "internal_error", "Oh"))).task(TASK_ID)


def test_a_refused_connection_names_the_url_and_how_to_start_a_server() -> None:
    with pytest.raises(ServerUnreachable, match=r"http://callboard\.test.*callboard up"):
        client(Script(httpx.ConnectError("refused"))).health()


def test_an_answer_that_comes_too_late_says_that_the_request_may_have_been_accepted() -> None:
    with pytest.raises(ServerUnreachable, match="may have been accepted"):
        client(Script(httpx.ReadTimeout("late"))).submit("test")


def test_another_kind_of_server_is_recognised() -> None:
    server = Script(httpx.Response(200, text="<html>hello</html>"), httpx.Response(404, text="nope"))
    asking = client(server)
    with pytest.raises(UnexpectedAnswer, match="Callboard server"):
        asking.task(TASK_ID)
    with pytest.raises(ApiError, match="Not Found"):
        asking.task(TASK_ID)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "nonsense"])
def test_a_url_that_cannot_be_one_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ClientError, match=r"http://127\.0\.0\.1:8000"):
        Client(url)
