"""Dead letters over HTTP: lists and clusters, replays of one and of many, and who may see what."""

from collections.abc import Callable
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from actors.replays import Replayer
from api.caller import Caller
from pipelines.bootstrap import Kit
from tasks.values import TaskError
from tests.support.waiting import eventually

LETTERS, TASKS = "/api/v1/dead-letters", "/api/v1/tasks"
NOBODY = "0190a8f2-7c1b-7a6e-9d53-2f4d0c1b2a3e"
FIELDS = (
    "dead_letter_id kind task_id task_type queue_name user_id run_id stage attempt error_class error "
    "fingerprint failed_at resolution resolved_at resolved_by"
)
DETAILS = f"{FIELDS} payload traceback replay_id task"
JOB = (
    "replay_id status reason filter payload_patch canary rate limit created_by created_at started_at "
    "ended_at size counts outcomes"
)
TRACE = 'Traceback (most recent call last):\n  File "/app/shop.py", line 12, in pay\n    raise'


class Bench:
    """The API on an empty record, with what one needs to make tasks fail."""

    def __init__(self, client: TestClient, kit: Kit) -> None:
        self.client = client
        self.kit = kit
        self.replayer = Replayer(kit.ledger, kit.replays, kit.payloads)

    def fail_all(self, message: str = "no answer from 10.0.0.7") -> None:
        types = ["strict", "test", "shouting.gather_words", "shouting.shout"]
        error = TaskError("actor_error", f"OSError: {message}", TRACE, "OSError")
        for claim in self.kit.ledger.fetch(["default"], types, 100).result(10):
            assert self.kit.ledger.fail(claim, error, retry_in=None).result(10)

    def failed(self, message: str = "no answer from 10.0.0.7", **body: Any) -> str:
        """The id of a task that has failed for good."""
        task = {"task_type": "strict", "payload": {"number": 7}, **body}
        made = self.client.simulate_post(TASKS, json=task)
        assert made.status_code == 202, made.text
        self.fail_all(message)
        return str(made.json["task_id"])

    def list(self, below: str = "", **params: Any) -> Any:
        answer = self.client.simulate_get(LETTERS + below, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json

    def letter_of(self, task_id: str, status: str = "any") -> str:
        (found,) = self.list(q=task_id, status=status)["dead_letters"]
        return str(found["dead_letter_id"])

    def post(self, path: str, **body: Any) -> Result:
        return self.client.simulate_post(LETTERS + path, json=body)

    def replay_all(self, **body: Any) -> Any:
        """A job, once it is completed."""
        answer = self.post("/replay", **body)
        assert answer.status_code == 202, answer.text
        path = answer.headers["location"].removeprefix(LETTERS)
        eventually(lambda: self.replayer.step() or self.list(path)["status"] == "completed")
        return self.list(path)

    def status(self, task_id: str) -> str:
        return str(self.client.simulate_get(f"{TASKS}/{task_id}").json["status"])


@pytest.fixture
def bench(client: TestClient, kit: Kit) -> Bench:
    return Bench(client, kit)


# --- reading -------------------------------------------------------------------------------------


def test_a_dead_letter_has_everything_about_its_failure(bench: Bench) -> None:
    task_id = bench.failed(user_id="ann")
    page = bench.list()
    (found,) = page["dead_letters"]
    assert (page["total"], page["total_is_exact"], page["next_cursor"]) == (1, True, None)
    assert " ".join(found) == FIELDS
    assert (found["kind"], found["task_id"], found["user_id"]) == ("task", task_id, "ann")
    assert found["error"] == {"code": "actor_error", "message": "OSError: no answer from 10.0.0.7"}

    whole = bench.list(f"/{found['dead_letter_id']}")
    assert " ".join(whole) == DETAILS
    assert (whole["payload"], whole["traceback"], whole["replay_id"]) == ({"number": 7}, TRACE, None)
    assert (whole["task"]["task_id"], whole["task"]["status"]) == (task_id, "failed")


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"task_type": "strict"}, 2),
        ({"task_type": "test"}, 1),
        ({"queue_name": "default"}, 3),
        ({"error_class": "OSError"}, 3),
        ({"error_class": "KeyError"}, 0),
        ({"q": "ANSWER"}, 2),
        ({"q": "100%"}, 1),
        ({"q": "answ_r"}, 0),
        ({"user_id": "bob"}, 1),
        ({"since": "2020-01-01T00:00:00Z"}, 3),
        ({"until": "2020-01-01T00:00:00Z"}, 0),
        ({"status": "open"}, 3),
        ({"status": "any"}, 3),
        ({"status": "discarded"}, 0),
        ({"cluster": "0" * 16}, 0),
        ({"task_type": "strict", "user_id": "bob"}, 1),
    ],
)
def test_dead_letters_are_filtered(bench: Bench, filters: dict[str, str], count: int) -> None:
    bench.failed()
    bench.failed(user_id="bob")
    bench.failed("disk is 100% full", task_type="test", payload={})
    assert bench.list(**filters)["total"] == count
    assert sum(one["count"] for one in bench.list("/clusters", **filters)["clusters"]) == count


def test_what_failed_alike_is_a_cluster_and_the_largest_comes_first(bench: Bench) -> None:
    first = bench.failed("disk is 91% full", task_type="test", payload={})
    alike = [bench.failed(f"no answer from 10.0.0.{number}") for number in range(3)]
    page = bench.list("/clusters")
    large, small = page["clusters"]
    assert page["total"] == 2
    assert (large["count"], large["task_types"], large["queues"]) == (3, ["strict"], ["default"])
    assert large["message"] == "OSError: no answer from 10.0.0.2"
    assert large["newest"] == [bench.letter_of(task_id) for task_id in reversed(alike)]
    assert large["first_seen"] < large["last_seen"]
    assert (small["count"], small["newest"]) == (1, [bench.letter_of(first)])
    # And a cluster is a filter
    assert bench.list(cluster=large["fingerprint"])["total"] == 3
    # When one of it fails again, then it is the same cluster, and known for as long
    bench.post(f"/{bench.letter_of(alike[0])}/replay")
    bench.fail_all("no answer from 192.168.0.1")
    again = bench.list("/clusters")["clusters"][0]
    assert (again["count"], again["fingerprint"]) == (3, large["fingerprint"])
    assert again["first_seen"] == large["first_seen"]


def test_dead_letters_are_paged(bench: Bench) -> None:
    ids = [bench.failed() for _ in range(3)]
    first = bench.list(limit=2)
    rest = bench.list(limit=2, cursor=first["next_cursor"])
    listed = [one["task_id"] for page in (first, rest) for one in page["dead_letters"]]
    assert listed == ids[::-1]


@pytest.mark.parametrize("path", ["/nix", f"/{NOBODY}", "/replays/nix", f"/replays/{NOBODY}"])
def test_what_is_not_there_is_not_found(bench: Bench, path: str) -> None:
    assert bench.client.simulate_get(LETTERS + path).status_code == 404
    verbs = ("/abort", "/resume") if "replays" in path else ("/replay",)
    assert [bench.post(path + verb).status_code for verb in verbs] == [404] * len(verbs)


def test_what_makes_no_sense_is_refused_by_name(bench: Bench) -> None:
    for name, value in (("status", "lost"), ("since", "yesterday"), ("colour", "red"), ("limit", "0")):
        answer = bench.client.simulate_get(LETTERS, params={name: value})
        assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, name)


# --- one -----------------------------------------------------------------------------------------


def test_a_dead_letter_is_replayed_once(bench: Bench) -> None:
    task_id = bench.failed()
    letter = bench.letter_of(task_id)
    replayed = bench.post(f"/{letter}/replay")
    assert (replayed.status_code, replayed.json["task_id"]) == (202, task_id)
    assert replayed.json["status"] == "queued"
    # When it is asked for again, then that is a conflict, while the new round runs and after it failed too
    assert bench.post(f"/{letter}/replay").status_code == 409
    bench.fail_all()
    again = bench.post(f"/{letter}/replay")
    assert (again.status_code, again.json["code"]) == (409, "conflict")
    found = bench.list(f"/{letter}")
    assert (found["resolution"], found["resolved_by"]) == ("replayed", "user:anonymous")
    # And the new failure has a letter of its own
    assert bench.list()["total"] == 1
    assert bench.list(status="any")["total"] == 2


def test_a_replay_with_another_payload_changes_the_task_and_the_letter_keeps_what_failed(
    bench: Bench,
) -> None:
    task_id = bench.failed()
    letter = bench.letter_of(task_id)
    # Given one that does not fit, then nothing happens
    refused = bench.post(f"/{letter}/replay", payload={"number": "eight"})
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "payload.number")
    assert bench.post(f"/{letter}/replay", payloads={}).status_code == 422
    assert bench.status(task_id) == "failed"
    # When it fits
    replayed = bench.post(f"/{letter}/replay", payload={"number": 8})
    # Then the task has it from the same moment on
    assert (replayed.status_code, replayed.json["payload"]) == (202, {"number": 8})
    whole = bench.list(f"/{letter}")
    assert (whole["payload"], whole["task"]["payload"]) == ({"number": 7}, {"number": 8})
    history = bench.client.simulate_get(f"{TASKS}/{task_id}/history").json["history"]
    assert history[-1]["message"] == "replayed with another payload"
    # And if that fails too, each letter shows its own
    bench.fail_all()
    second = bench.letter_of(task_id, status="open")
    assert bench.post(f"/{second}/replay", payload={"number": 9}).status_code == 202
    assert [bench.list(f"/{one}")["payload"] for one in (letter, second)] == [{"number": 7}, {"number": 8}]


def test_the_stage_of_a_run_is_replayed_with_another_payload(bench: Bench) -> None:
    run = bench.failed(task_type="shouting", payload={"words": ["a"]})
    eventually(lambda: bench.list()["total"] == 1)
    (letter,) = bench.list()["dead_letters"]
    assert (letter["run_id"], letter["stage"]) == (run, "gather_words")
    replayed = bench.post(f"/{letter['dead_letter_id']}/replay", payload={"words": ["b"]})
    assert (replayed.status_code, replayed.json["payload"]) == (202, {"words": ["b"]})


def test_after_a_cancel_nothing_is_replayed(bench: Bench) -> None:
    task_id = bench.failed()
    letter = bench.letter_of(task_id)
    bench.post(f"/{letter}/replay")
    bench.client.simulate_post(f"{TASKS}/{task_id}/cancel")
    refused = bench.post(f"/{letter}/replay")
    assert (refused.status_code, refused.json["code"]) == (409, "conflict")
    assert "cancelled" in refused.json["detail"]
    assert bench.status(task_id) == "cancelled"


def test_a_discarded_letter_is_none_any_more_and_its_task_stays_failed(bench: Bench) -> None:
    task_id = bench.failed()
    letter = bench.letter_of(task_id)
    for _ in range(2):
        assert bench.client.simulate_delete(f"{LETTERS}/{letter}").status_code == 204
    assert bench.list()["total"] == 0
    assert bench.list(f"/{letter}")["resolution"] == "discarded"
    refused = bench.post(f"/{letter}/replay")
    assert (refused.status_code, bench.status(task_id)) == (409, "failed")
    assert "discarded" in refused.json["detail"]
    # And what was replayed cannot be discarded
    replayed = bench.letter_of(bench.failed())
    bench.post(f"/{replayed}/replay")
    assert bench.client.simulate_delete(f"{LETTERS}/{replayed}").status_code == 409


# --- many ----------------------------------------------------------------------------------------


def test_a_dry_run_counts_what_it_would_replay_and_why_not_the_rest(bench: Bench) -> None:
    bench.failed()
    bench.failed(payload={"number": 8})
    bench.client.simulate_delete(f"{LETTERS}/{bench.letter_of(bench.failed())}")
    bench.failed(task_type="test", payload={"number": "nine"})
    wanted = {"error_class": "OSError", "status": "any"}
    found = bench.post("/replay", filter=wanted, dry_run=True, payload_patch={"number": None})
    assert found.status_code == 200
    missing = "payload.number: is required"
    assert found.json == {"eligible": 1, "ineligible": 3, "reasons": {"resolved": 1, missing: 2}}
    # And nothing was done
    assert bench.list()["total"] == 3
    assert bench.list("/replays")["total"] == 0


def test_many_are_replayed_as_a_job_with_a_result_for_each(bench: Bench) -> None:
    ids = [bench.failed() for _ in range(3)]
    other = bench.failed("disk is full")
    cluster = bench.list(f"/{bench.letter_of(ids[0])}")["fingerprint"]
    wanted = {"cluster": cluster}
    done = bench.replay_all(filter=wanted, payload_patch={"number": 70}, limit=2)
    assert " ".join(done) == f"{JOB} items total total_is_exact next_cursor"
    assert (done["filter"], done["limit"], done["size"], done["created_by"]) == (
        wanted,
        2,
        2,
        "user:anonymous",
    )
    assert done["counts"] == {"pending": 0, "replayed": 2, "skipped": 0}
    assert done["outcomes"] == {"queued": 2}
    assert [one["task_id"] for one in done["items"]] == ids[:2]
    assert [bench.status(one) for one in [*ids, other]] == ["queued", "queued", "failed", "failed"]
    assert bench.client.simulate_get(f"{TASKS}/{ids[0]}").json["payload"] == {"number": 70}
    assert bench.list("/replays")["replays"] == [{name: done[name] for name in JOB.split()}]
    assert bench.list(f"/replays/{done['replay_id']}", status="skipped")["items"] == []
    # And what is over is neither aborted nor resumed
    for verb in ("abort", "resume"):
        assert bench.post(f"/replays/{done['replay_id']}/{verb}").status_code == 409


def test_a_job_is_aborted_and_resumed(bench: Bench) -> None:
    bench.failed()
    job = bench.post("/replay", filter={"task_type": "strict"}, rate=1).json["replay_id"]
    for _ in range(2):
        aborted = bench.post(f"/replays/{job}/abort")
        assert (aborted.status_code, aborted.json["status"]) == (202, "aborted")
    bench.replayer.step()
    assert bench.list()["total"] == 1
    for _ in range(2):
        assert bench.post(f"/replays/{job}/resume").status_code == 202
    eventually(lambda: bench.replayer.step() or bench.list(f"/replays/{job}")["status"] == "completed")
    assert bench.list()["total"] == 0


@pytest.mark.parametrize("wanted", [{}, {"status": "open"}, {"q": ""}, {"task_type": None}])
def test_an_empty_filter_is_refused(bench: Bench, wanted: dict[str, Any]) -> None:
    for dry_run in (True, False):
        answer = bench.post("/replay", filter=wanted, dry_run=dry_run)
        assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "filter")


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("filter", {}),
        ("filter.colour", {"filter": {"colour": "red"}}),
        ("filter.limit", {"filter": {"limit": 5}}),
        ("filter.since", {"filter": {"since": "soon"}}),
        ("canary", {"canary": -1}),
        ("canary", {"canary": 10**9}),
        ("rate", {"rate": 0}),
        ("rate", {"rate": "50"}),
        ("limit", {"limit": 0}),
        ("payload_patch", {"payload_patch": [1]}),
        ("dry_run", {"dry_run": 1}),
        ("colour", {"colour": "red"}),
    ],
)
def test_a_bulk_replay_that_makes_no_sense_is_refused_by_name(
    bench: Bench, field: str, body: dict[str, Any]
) -> None:
    given = body if field == "filter" else {"filter": {"task_type": "test"}, **body}
    answer = bench.post("/replay", **given)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, field)
    assert bench.list("/replays")["total"] == 0


# --- whose they are ------------------------------------------------------------------------------


@pytest.fixture
def as_ann(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def become() -> None:
        """From now on the caller is Ann, who is no admin."""
        for module in ("dead_letters", "replays", "tasks", "task"):
            monkeypatch.setattr(f"api.resources.{module}.caller_of", lambda req: Caller("ann"))

    return become


def test_a_caller_sees_and_replays_letters_of_its_own_tasks_alone(
    bench: Bench, as_ann: Callable[[], None]
) -> None:
    # Given dead letters of Ann's and Bob's tasks, and a replay of an admin
    mine, his = bench.failed(user_id="ann"), bench.failed(user_id="bob")
    bobs = bench.letter_of(his)
    job = bench.replay_all(filter={"q": "nothing that matches"})["replay_id"]
    as_ann()
    # Then Ann sees hers alone
    assert [one["task_id"] for one in bench.list()["dead_letters"]] == [mine]
    assert bench.list(user_id="bob")["total"] == 0
    assert [one["count"] for one in bench.list("/clusters")["clusters"]] == [1]
    assert bench.client.simulate_get(f"{LETTERS}/{bobs}").status_code == 404
    assert bench.client.simulate_delete(f"{LETTERS}/{bobs}").status_code == 404
    assert bench.post(f"/{bobs}/replay").status_code == 404
    assert bench.list("/replays")["total"] == 0
    assert bench.client.simulate_get(f"{LETTERS}/replays/{job}").status_code == 404
    assert bench.post(f"/replays/{job}/abort").status_code == 404
    # And a replay of everything is one of hers
    survey = bench.post("/replay", filter={"error_class": "OSError"}, dry_run=True).json
    assert survey == {"eligible": 1, "ineligible": 0, "reasons": {}}
    done = bench.replay_all(filter={"error_class": "OSError"})
    assert [one["task_id"] for one in done["items"]] == [mine]
    assert bench.list("/replays")["total"] == 1
