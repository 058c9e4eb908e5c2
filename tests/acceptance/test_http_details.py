"""What belongs to a task, over HTTP: its attempts, its log, its checkpoints and its relations."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from falcon.testing import TestClient

from pipelines.bootstrap import Kit
from tasks.ids import new_id
from tasks.values import Claimed, Complete, TaskError

TASKS = "/api/v1/tasks"
OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")


def submit(client: TestClient, **body: Any) -> str:
    answer = client.simulate_post(TASKS, json={"task_type": "test", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json["task_id"])


def claimed(kit: Kit) -> Claimed:
    """The next task of the type test, claimed."""
    (claim,) = kit.ledger.fetch(["default"], ["test"], 1).result(5)
    return claim


def finish(kit: Kit, claim: Claimed, result: Any = None) -> None:
    assert kit.ledger.complete(claim, Complete(claim.id, claim.token, result)).result(5)


def ask(client: TestClient, task_id: str, what: str, **params: Any) -> Any:
    answer = client.simulate_get(f"{TASKS}/{task_id}/{what}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json


def tried_again(client: TestClient, kit: Kit) -> str:
    """A task that has failed once, was handed back once, and runs."""
    task_id = submit(client)
    kit.ledger.fail(claimed(kit), OOPS, retry_in=0).result(5)
    kit.ledger.promote().result(5)
    kit.ledger.release(claimed(kit)).result(5)
    claimed(kit)
    return task_id


def test_every_attempt_is_told_with_what_became_of_it(client: TestClient, kit: Kit) -> None:
    # Given a task whose first attempt failed, and whose second was handed back and taken again
    task_id = tried_again(client, kit)
    # When its attempts are asked for
    attempts = ask(client, task_id, "attempts")["attempts"]
    # Then each is there with its outcome, the error with its traceback, and the one that runs
    assert [(one["attempt"], one["outcome"]) for one in attempts] == [
        (1, "error"),
        (2, "released"),
        (2, "running"),
    ]
    assert attempts[0]["error"] == {"code": "actor_error", "message": "RuntimeError: oops"}
    assert attempts[0]["traceback"] == "Traceback …"
    assert attempts[0]["worker"] == str(kit.ledger.owner)
    assert attempts[0]["duration_ms"] >= 0
    assert attempts[2]["ended_at"] is None


def test_the_attempt_that_completed_is_the_last_one(client: TestClient, kit: Kit) -> None:
    task_id = submit(client)
    assert ask(client, task_id, "attempts") == {"attempts": []}

    finish(kit, claimed(kit))

    (attempt,) = ask(client, task_id, "attempts")["attempts"]
    assert (attempt["attempt"], attempt["outcome"], attempt["error"]) == (1, "completed", None)
    assert attempt["duration_ms"] >= 0


def test_what_a_task_logs_is_read_page_by_page(client: TestClient, kit: Kit) -> None:
    # Given a task that has logged five lines and reported progress
    task_id = submit(client)
    claim = claimed(kit)
    for number in range(5):
        told = kit.ledger.log(claim, "warning", "shop", f"line {number}")
        assert told is not None and told.result(5)
    kit.ledger.report(claim, 50, None, None).result(5)
    # When they are read by two
    first = ask(client, task_id, "logs", limit=2)
    second = ask(client, task_id, "logs", limit=2, cursor=first["next_cursor"])
    # Then they come in order, and the report is not among them
    assert [line["message"] for line in first["logs"] + second["logs"]] == [f"line {n}" for n in range(4)]
    assert (first["logs"][0]["level"], first["logs"][0]["logger"]) == ("warning", "shop")
    assert first["total"] == 5


def test_checkpoints_are_listed_and_each_can_be_read(client: TestClient, kit: Kit) -> None:
    # Given a task with two checkpoints
    task_id = submit(client)
    claim = claimed(kit)
    for version in (1, 2):
        kit.ledger.checkpoint(claim, version, {"page": version}).result(5)
    # Then both are listed, and read by version; the latest one by default
    listed = ask(client, task_id, "snapshots")["snapshots"]
    assert [one["version"] for one in listed] == [1, 2]
    assert ask(client, task_id, "snapshot", version=1)["state"] == {"page": 1}
    for latest in (ask(client, task_id, "snapshot"), ask(client, task_id, "snapshot", version="latest")):
        assert (latest["task_id"], latest["version"], latest["state"]) == (task_id, 2, {"page": 2})


def test_a_checkpoint_that_is_not_there_is_not_found(client: TestClient) -> None:
    task_id = submit(client)
    for params in ({}, {"version": "7"}):
        answer = client.simulate_get(f"{TASKS}/{task_id}/snapshot", params=params)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("version", ["newest", "-1", "1.5", "99999999999"])
def test_a_version_that_can_be_none_is_refused_by_name(client: TestClient, version: str) -> None:
    task_id = submit(client)
    answer = client.simulate_get(f"{TASKS}/{task_id}/snapshot", params={"version": version})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == ["version"]


def edges(graph: Any) -> set[tuple[str, str, str]]:
    return {(edge["source"], edge["target"], edge["kind"]) for edge in graph["edges"]}


def statuses(graph: Any, ids: Sequence[str]) -> list[str]:
    found = {node["task_id"]: node["status"] for node in graph["nodes"]}
    return [found[one] for one in ids]


def test_a_graph_shows_what_a_task_waits_for_and_what_waits_for_it(client: TestClient) -> None:
    # Given a chain of three
    first = submit(client)
    second = submit(client, depends_on=[first])
    third = submit(client, depends_on=[second])
    # When the graph of the middle one is asked for
    graph = ask(client, second, "graph")
    # Then it has its neighbours on both sides
    assert edges(graph) == {(first, second, "dependency"), (second, third, "dependency")}
    assert statuses(graph, [first, second, third]) == ["queued", "blocked", "blocked"]
    assert graph["nodes"][0]["wait_reason"] == "dependency"
    assert graph["truncated"] is False


def test_a_graph_shows_a_run_with_its_stages_and_its_derivatives(client: TestClient, kit: Kit) -> None:
    # Given a run and a derivative of it
    run = submit(client, task_type="shouting", payload={"words": ["a"]})
    derivative = client.simulate_post(f"{TASKS}/{run}/derivative").json["task_id"]
    stages = kit.queries.run(UUID(run))
    assert stages is not None
    stage = str(stages.stages[0].id)
    # Then the run's graph has both, and the stage's graph has its run
    assert edges(ask(client, run, "graph")) == {(run, stage, "stage"), (run, derivative, "parent")}
    assert (run, stage, "stage") in edges(ask(client, stage, "graph"))


@pytest.mark.parametrize("what", ["attempts", "logs", "snapshots", "snapshot", "graph"])
@pytest.mark.parametrize("task_id", [str(new_id()), "not-an-id"])
def test_nothing_belongs_to_a_task_that_is_not_there(client: TestClient, what: str, task_id: str) -> None:
    answer = client.simulate_get(f"{TASKS}/{task_id}/{what}")
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
