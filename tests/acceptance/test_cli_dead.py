"""``callboard dead`` against the real API, on a record in which tasks have failed."""

import json
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from falcon.testing import TestClient

from actors.replays import Replayer
from api.cli import main
from pipelines.bootstrap import Kit
from tasks.values import Complete, TaskError
from tests.support.waiting import eventually

Call = Callable[..., Result]


@pytest.fixture
def call(client: TestClient) -> Call:
    """Calls a command; its requests are answered by the API itself, without a network."""

    def answer(request: httpx.Request) -> httpx.Response:
        given = client.simulate_request(
            request.method,
            request.url.path,
            query_string=request.url.query.decode(),
            body=request.content,
            headers=dict(request.headers),
        )
        return httpx.Response(given.status_code, content=given.content, headers=given.headers)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["dead", *arguments], obj=httpx.MockTransport(answer))

    return call


def fail_all(kit: Kit, message: str = "no answer") -> None:
    for claim in kit.ledger.fetch(["default"], ["strict"], 100).result(10):
        error = TaskError("actor_error", f"OSError: {message}", "the traceback", "OSError")
        assert kit.ledger.fail(claim, error, retry_in=None).result(10)


@pytest.fixture
def letters(client: TestClient, kit: Kit) -> list[str]:
    """The ids of three dead letters, the newest first."""
    for number in range(3):
        client.simulate_post("/api/v1/tasks", json={"task_type": "strict", "payload": {"number": number}})
        fail_all(kit)
    found = client.simulate_get("/api/v1/dead-letters").json["dead_letters"]
    return [one["dead_letter_id"] for one in found]


@pytest.fixture
def working(kit: Kit, letters: list[str]) -> Iterator[None]:
    """A clock that replays, and a worker that completes whatever is there."""
    replayer, over = Replayer(kit.ledger, kit.replays, kit.payloads), Event()

    def work() -> None:
        while not over.wait(0.02):
            replayer.step()
            for claim in kit.ledger.fetch(["default"], ["strict"], 100).result(10):
                kit.ledger.complete(claim, Complete(claim.id, claim.token, "done")).result(10)

    thread = Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


def document(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_letters_and_clusters_are_listed(call: Call, letters: list[str]) -> None:
    listed = call("list", "--type", "strict", "--limit", "2")
    assert listed.exit_code == 0
    assert [one in listed.stdout for one in letters] == [True, True, False]
    assert "2 of 3 dead letters" in listed.stdout
    assert "Go on with --cursor" in listed.stdout
    clusters = call("clusters", "--text", "answer")
    assert "OSError: no answer" in clusters.stdout
    assert "1 of 1 cluster" in clusters.stdout
    assert document(call("clusters", "--json"))["clusters"][0]["count"] == 3


def test_a_letter_is_shown_with_its_payload_and_traceback(call: Call, letters: list[str]) -> None:
    shown = call("show", letters[0]).stdout
    assert '{"number":2}' in shown
    assert "the traceback" in shown
    assert "failed now" in shown
    assert document(call("show", letters[0], "--json"))["payload"] == {"number": 2}


def test_letters_are_discarded(call: Call, letters: list[str]) -> None:
    done = call("discard", *letters[:2])
    assert done.stdout.splitlines() == [f"{one}  discarded" for one in letters[:2]]
    assert document(call("list", "--json"))["total"] == 1


def test_one_is_replayed_with_another_payload(call: Call, letters: list[str]) -> None:
    refused = call("replay", letters[0], "--payload", '{"number": "x"}')
    assert (refused.exit_code, "payload.number" in refused.stderr) == (1, True)
    assert call("replay", letters[0], "--payload", "{").exit_code == 1
    done = call("replay", letters[0], "--payload", '{"number": 9}')
    assert (done.exit_code, done.stdout.split()[1]) == (0, "queued")
    assert call("replay", letters[0]).exit_code == 1


@pytest.mark.usefixtures("working")
def test_a_replay_is_followed_to_its_end(call: Call, letters: list[str]) -> None:
    one = call("replay", letters[0], "--follow")
    assert (one.exit_code, one.stdout.split()[1]) == (0, "completed")
    many = call("replay", "--type", "strict", "--canary", "1", "--patch", '{"number": 5}', "--follow")
    assert many.exit_code == 0, many.output
    assert "completed: 0 pending, 2 replayed, 0 skipped (of these 2 completed)" in many.stdout


def test_a_replay_that_does_not_complete_ends_with_one(call: Call, letters: list[str], kit: Kit) -> None:
    replayer = Replayer(kit.ledger, kit.replays, kit.payloads)
    job = document(call("replay", "--type", "strict", "--canary", "1", "--json"))["replay_id"]
    eventually(lambda: replayer.step() or _is_replayed(call, job))
    fail_all(kit, "still none")
    replayer.step()
    shown = call("replays", "show", job).stdout
    assert "stopped: 2 pending, 1 replayed, 0 skipped (of these 1 failed); canary: task" in shown
    assert letters[2] in shown
    assert "stopped" in call("replays", "list").stdout
    # And it goes on if somebody wants it to, and is aborted
    assert "running" in call("replays", "resume", job).stdout
    assert "aborted" in call("replays", "abort", job).stdout
    assert call("replays", "abort", job).exit_code == 0


def _is_replayed(call: Call, job: str) -> bool:
    return bool(document(call("replays", "show", job, "--json"))["counts"]["replayed"])


def test_a_dry_run_says_what_it_would_be(call: Call, letters: list[str]) -> None:
    call("discard", letters[0])
    told = call("replay", "--error", "OSError", "--status", "any", "--dry-run")
    assert told.stdout.splitlines() == ["2 dead letters would be replayed.", "1 dead letter not: resolved"]
    assert document(call("replays", "list", "--json")) == {"replays": []}


@pytest.mark.parametrize(
    "arguments",
    [(), ("--status", "open"), ("ID", "--type", "x"), ("ID", "--dry-run"), ("--type", "x", "--payload", "1")],
)
def test_which_letters_are_meant_must_be_said_in_one_way(call: Call, arguments: tuple[str, ...]) -> None:
    assert call("replay", *arguments).exit_code == 2
