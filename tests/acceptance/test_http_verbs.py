"""The verbs of operators over HTTP: retry, recover, derive and delete, one task or all that match."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from falcon.testing import TestClient

from api.caller import Caller
from pipelines.bootstrap import Kit, open_kit
from pipelines.settling import Settler
from tasks.ids import new_id
from tasks.ledger.endings import Complete
from tasks.settings import Settings
from tasks.values import Claimed, TaskError
from tests.support.api import api_on

TASKS = "/api/v1/tasks"
OOPS = TaskError("actor_error", "RuntimeError: oops")
TYPES = ["test", "sleep", "strict", "shouting.gather_words", "shouting.shout"]


@pytest.fixture(scope="module")
def kit(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    folder = tmp_path_factory.mktemp("data")
    kit = open_kit(Settings(database_url=url, data_dir=folder, actors=("tests.support.api",), port=0))
    yield kit
    kit.close()


@pytest.fixture
def client(kit: Kit) -> Iterator[TestClient]:
    """The API on an empty record."""
    with psycopg.connect(kit.database_url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE tasks, task_state, attempts, events, snapshots, dependencies, dead_letters"
        )
    with api_on(kit) as client:
        yield client


def post(client: TestClient, path: str, **body: Any) -> Any:
    return client.simulate_post(f"{TASKS}{path}", json=body)


def submit(client: TestClient, **body: Any) -> str:
    answer = post(client, "", **{"task_type": "test", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json["task_id"])


def work(kit: Kit) -> Claimed:
    (claim,) = kit.ledger.fetch(["default"], TYPES, 1).result(5)
    return claim


def complete(kit: Kit, result: Any = None) -> None:
    claim = work(kit)
    kit.ledger.complete(claim, Complete(claim.id, claim.token, result)).result(5)


def fail(kit: Kit) -> None:
    kit.ledger.fail(work(kit), OOPS, retry_in=None).result(5)


def failed(client: TestClient, kit: Kit, **body: Any) -> str:
    task_id = submit(client, **body)
    fail(kit)
    return task_id


def finished(client: TestClient, kit: Kit, result: Any = None, **body: Any) -> str:
    task_id = submit(client, **body)
    complete(kit, result)
    return task_id


def status(client: TestClient, task_id: str) -> str:
    return str(client.simulate_get(f"{TASKS}/{task_id}").json["status"])


def refused_fields(answer: Any) -> list[str]:
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field"), answer.text
    return [error["field"] for error in answer.json["errors"]]


def shouted(kit: Kit, client: TestClient) -> str:
    """A run of two stages, the second one mapped, that completed."""
    run_id = submit(client, task_type="shouting", payload={"words": ["a", "b"]})
    shout(kit)
    return run_id


def shout(kit: Kit) -> None:
    """Work off all stages that there are."""
    settler = Settler(kit.catalogue, kit.ledger, kit.queries, kit.defaults)
    while claims := kit.ledger.fetch(["default"], TYPES, 10).result(5):
        for claim in claims:
            task = kit.queries.task(claim.id)
            assert task is not None
            assert claim.run_id is not None
            is_first = claim.stage == "gather_words"
            result = list(task.payload["words"]) if is_first else task.payload.upper()
            following = settler.after(claim, result)
            done = Complete(claim.id, claim.token, result, following.successors)
            kit.ledger.complete(claim, done).result(5)
            settler.settle(claim.run_id)


# --- retry -----------------------------------------------------------------------------------------


def test_a_failed_task_is_retried(client: TestClient, kit: Kit) -> None:
    task_id = failed(client, kit)
    answer = post(client, f"/{task_id}/retry")
    assert answer.status_code == 202
    assert (answer.json["task_id"], answer.json["status"], answer.json["error"]) == (task_id, "queued", None)
    again = post(client, f"/{task_id}/retry")
    assert (again.status_code, again.json["code"]) == (409, "conflict")
    assert "it is not over" in again.json["detail"]


def test_what_is_not_to_be_retried_is_told_what_to_do_instead(client: TestClient, kit: Kit) -> None:
    completed = finished(client, kit)
    cancelled = submit(client)
    post(client, f"/{cancelled}/cancel")
    for task_id, advice in ((completed, "mode=all"), (cancelled, "recover it")):
        answer = post(client, f"/{task_id}/retry")
        assert answer.status_code == 409
        assert advice in answer.json["detail"]


@pytest.mark.parametrize("verb", ["retry", "recover", "derivative"])
def test_what_does_not_exist_is_not_found(client: TestClient, verb: str) -> None:
    for task_id in (new_id(), "nix", "%00"):
        answer = client.simulate_post(f"{TASKS}/{task_id}/{verb}")
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")


# --- recover ---------------------------------------------------------------------------------------


def test_a_cancelled_task_is_recovered_without_a_body(client: TestClient, kit: Kit) -> None:
    task_id = submit(client)
    claim = work(kit)
    kit.ledger.checkpoint(claim, 1, {"half": True}).result(5)
    post(client, f"/{task_id}/cancel")
    answer = client.simulate_post(f"{TASKS}/{task_id}/recover")
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert work(kit).snapshot == 1
    assert post(client, f"/{task_id}/recover").status_code == 409


def test_a_version_that_was_never_saved_is_refused_by_name(client: TestClient, kit: Kit) -> None:
    task_id = failed(client, kit)
    assert refused_fields(post(client, f"/{task_id}/recover", mode="checkpoint", version=3)) == ["version"]


def test_a_run_is_recovered_with_an_edited_output(client: TestClient, kit: Kit) -> None:
    run_id = shouted(kit, client)
    answer = post(client, f"/{run_id}/recover", mode="stage", stage="gather_words", output=["x", "y", "z"])
    assert (answer.status_code, answer.json["status"], answer.json["result"]) == (202, "running", None)
    shout(kit)
    assert client.simulate_get(f"{TASKS}/{run_id}").json["result"] == ["X", "Y", "Z"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "nix"}, "mode"),
        ({"mode": "stage"}, "stage"),
        ({"mode": "stage", "stage": "nix"}, "stage"),
        ({"mode": "stage", "stage": "x" * 300}, "stage"),
        ({"mode": "stage", "stage": "gather_words", "output": 1}, "output"),
        ({"mode": "all", "version": 1}, "version"),
        ({"mode": "all", "output": None}, "output"),
        ({"version": 10**12}, "version"),
        ({"mod": "all"}, "mod"),
    ],
)
def test_a_recovery_that_makes_no_sense_is_refused_by_name(
    client: TestClient, kit: Kit, body: dict[str, Any], field: str
) -> None:
    run_id = shouted(kit, client)
    assert refused_fields(post(client, f"/{run_id}/recover", **body)) == [field]
    assert status(client, run_id) == "completed"


# --- derivative --------------------------------------------------------------------------------------


def test_a_derivative_is_a_new_task_with_what_its_parent_had(client: TestClient, kit: Kit) -> None:
    # Given a task that completed
    parent = finished(
        client,
        kit,
        {"pages": 3},
        payload={"topic": {"name": "cats", "age": 1}, "old": True},
        priority="high",
        tags=["a"],
        kb_id="kb",
        project_id="p",
        max_retries=7,
        timeout=9,
    )
    # When one is derived from it with another payload
    answer = post(client, f"/{parent}/derivative", payload={"topic": {"age": 2}, "old": None}, priority=1)
    # Then its payload is merged, the parent's result is in it, and the rest is taken over
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{TASKS}/{answer.json['task_id']}"
    child = client.simulate_get(f"{TASKS}/{answer.json['task_id']}").json
    assert {**child, "wait_reason": None} == answer.json
    assert child["payload"] == {"topic": {"name": "cats", "age": 2}, "parent_result": {"pages": 3}}
    assert (child["parent_id"], child["priority"], child["tags"]) == (parent, 1, ["a"])
    assert (child["kb_id"], child["project_id"]) == ("kb", "p")
    assert (child["max_retries"], child["timeout"]) == (7, 9)
    # And it is found from its parent
    found = client.simulate_get(f"{TASKS}?parent_id={parent}").json["tasks"]
    assert [one["task_id"] for one in found] == [child["task_id"]]


def test_a_derivative_may_be_made_of_any_state_and_has_no_result_then(client: TestClient, kit: Kit) -> None:
    parent = submit(client, payload={"a": 1})
    answer = client.simulate_post(f"{TASKS}/{parent}/derivative")
    assert (answer.status_code, answer.json["payload"]) == (202, {"a": 1})


def test_the_result_is_left_out_where_the_type_cannot_take_it(client: TestClient, kit: Kit) -> None:
    parent = finished(client, kit, "a result", task_type="strict", payload={"number": 1})
    answer = post(client, f"/{parent}/derivative", payload={"number": 2})
    assert (answer.status_code, answer.json["payload"]) == (202, {"number": 2})
    assert refused_fields(post(client, f"/{parent}/derivative", payload={"number": "x"})) == [
        "payload.number"
    ]


def test_a_derivative_of_a_run_is_a_run_and_of_a_stage_there_is_none(client: TestClient, kit: Kit) -> None:
    run_id = shouted(kit, client)
    answer = post(client, f"/{run_id}/derivative", params={"words": ["c"]})
    shout(kit)
    child = client.simulate_get(f"{TASKS}/{answer.json['task_id']}").json
    assert (child["result"], child["parent_id"]) == (["C"], run_id)
    stages = client.simulate_get(f"{TASKS}?stages=true&task_type=shouting.shout").json["tasks"]
    assert post(client, f"/{stages[0]['task_id']}/derivative").status_code == 409


def test_a_derivative_with_an_idempotency_key_is_made_once(client: TestClient, kit: Kit) -> None:
    parent = submit(client)
    ask = {"headers": {"Idempotency-Key": "k"}, "json": {"payload": {"b": 2}}}
    answers = [client.simulate_post(f"{TASKS}/{parent}/derivative", **ask) for _ in range(2)]
    assert answers[0].json["task_id"] == answers[1].json["task_id"]
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert client.simulate_get(f"{TASKS}?parent_id={parent}").json["total"] == 1


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"nix": None}, ["nix"]),
        ({"priority": 11}, ["priority"]),
        ({"payload": {}, "params": {}}, ["params"]),
        ({"type": "nix"}, ["task_type"]),
        ({"parent_id": str(new_id())}, ["parent_id"]),
    ],
)
def test_fields_of_a_derivative_that_do_not_fit_are_refused(
    client: TestClient, body: dict[str, Any], fields: list[str]
) -> None:
    parent = submit(client)
    answer = post(client, f"/{parent}/derivative", **body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == fields


# --- delete ------------------------------------------------------------------------------------------


def test_a_task_that_is_not_over_is_cancelled_and_one_that_is_is_removed(
    client: TestClient, kit: Kit
) -> None:
    task_id = submit(client)
    answer = client.simulate_delete(f"{TASKS}/{task_id}")
    assert (answer.status_code, answer.json["status"]) == (202, "cancelled")
    answer = client.simulate_delete(f"{TASKS}/{task_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.simulate_get(f"{TASKS}/{task_id}").status_code == 404
    assert client.simulate_delete(f"{TASKS}/{task_id}").status_code == 404


def test_a_run_is_deleted_with_its_stages_and_none_of_them_alone(client: TestClient, kit: Kit) -> None:
    run_id = shouted(kit, client)
    stages = [one["task_id"] for one in client.simulate_get(f"{TASKS}?stages=true").json["tasks"]]
    stages.remove(run_id)
    answer = client.simulate_delete(f"{TASKS}/{stages[0]}")
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert client.simulate_delete(f"{TASKS}/{run_id}").status_code == 204
    assert client.simulate_get(f"{TASKS}?stages=true").json["total"] == 0


# --- all that match ----------------------------------------------------------------------------------


def test_all_that_match_are_cancelled_and_a_dry_run_only_counts(client: TestClient, kit: Kit) -> None:
    # Given two tasks with a tag that wait, one that is done, and one with another tag
    done = finished(client, kit, tags=["red"])
    waiting = [submit(client, tags=["red"]) for _ in range(2)]
    other = submit(client, tags=["blue"])
    # When it is only tried
    trial = post(client, "/cancel", filter={"tag": "red"}, dry_run=True)
    # Then it tells what would be done
    counts = {"matched": 3, "eligible": 2, "skipped": {"completed": 1}, "more": False}
    assert trial.status_code == 200
    assert trial.json == {**counts, "cancelled": 0, "dry_run": True}
    assert status(client, waiting[0]) == "queued"
    # And then it is done
    answer = post(client, "/cancel", filter={"tag": "red"})
    assert answer.json == {**counts, "cancelled": 2, "dry_run": False}
    assert [status(client, one) for one in (*waiting, done, other)] == [
        *("cancelled", "cancelled", "completed"),
        "queued",
    ]


def test_a_filter_may_look_for_a_text(client: TestClient) -> None:
    wanted, other = submit(client, payload={"word": "Tuesday"}), submit(client)
    answer = post(client, "/cancel", filter={"q": "tuesday"})
    assert (answer.status_code, answer.json["cancelled"]) == (200, 1)
    assert (status(client, wanted), status(client, other)) == ("cancelled", "queued")


def test_all_that_failed_are_retried_in_batches(
    client: TestClient, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.resources.bulk.BATCH", 2)
    ids = [failed(client, kit) for _ in range(5)]
    answer = post(client, "/retry", filter={"status": "failed", "task_type": "test"})
    assert (answer.json["matched"], answer.json["retried"], answer.json["more"]) == (5, 5, False)
    assert {status(client, one) for one in ids} == {"queued"}


def test_a_request_that_would_take_too_long_says_that_there_is_more(
    client: TestClient, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.resources.bulk.BATCH", 2)
    monkeypatch.setattr("api.resources.bulk.MOST_TASKS", 2)
    for _ in range(3):
        submit(client)
    answers = [post(client, "/cancel", filter={"status": ["pending"]}).json for _ in range(2)]
    assert [(one["eligible"], one["cancelled"], one["more"]) for one in answers] == [
        (3, 2, True),
        (1, 1, False),
    ]


def test_all_that_match_and_are_over_are_deleted(client: TestClient, kit: Kit) -> None:
    over = [finished(client, kit), failed(client, kit), shouted(kit, client)]
    waiting = submit(client)
    answer = post(client, "/delete", filter={"created_after": "2000-01-01T00:00:00Z", "stages": True})
    assert answer.json == {
        "matched": 7,
        "eligible": 3,
        "deleted": 3,
        "skipped": {"queued": 1, "stage": 3},
        "dry_run": False,
        "more": False,
    }
    assert {client.simulate_get(f"{TASKS}/{one}").status_code for one in over} == {404}
    assert status(client, waiting) == "queued"


def test_groups_of_states_are_understood(client: TestClient, kit: Kit) -> None:
    submit(client)
    work(kit)
    submit(client)
    answer = post(client, "/cancel", filter={"status": "processing"})
    assert (answer.json["matched"], answer.json["cancelled"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["filter"]),
        ({"filter": {}}, ["filter"]),
        ({"filter": {"status": ""}}, ["filter.status"]),
        ({"filter": {"status": [], "task_type": "test"}}, ["filter.status"]),
        ({"filter": {"stages": True}}, ["filter"]),
        ({"filter": {"nix": 1}}, ["filter.nix"]),
        ({"filter": {"limit": 1, "tag": "a"}}, ["filter.limit"]),
        ({"filter": {"status": "nix"}}, ["filter.status"]),
        ({"filter": {"status": ["failed", 3]}}, ["filter.status"]),
        ({"filter": {"created_before": "yesterday"}}, ["filter.created_before"]),
        ({"filter": {"created_before": "0001-01-01T00:00:00+14:00"}}, ["filter.created_before"]),
        ({"filter": {"parent_id": 7}}, ["filter.parent_id"]),
        ({"filter": {"tag": "a"}, "dry_run": "yes"}, ["dry_run"]),
        ({"filter": "all"}, ["filter"]),
        ({"filter": {"tag": "a"}, "force": True}, ["force"]),
    ],
)
@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
def test_a_filter_that_names_nothing_or_what_is_unknown_is_refused(
    client: TestClient, verb: str, body: dict[str, Any], fields: list[str]
) -> None:
    task_id = submit(client)
    assert refused_fields(post(client, f"/{verb}", **body)) == fields
    assert status(client, task_id) == "queued"


# --- whose tasks -------------------------------------------------------------------------------------


@pytest.fixture
def as_ann(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the caller is Ann, who is no admin."""
    for module in ("task", "moves", "bulk"):
        monkeypatch.setattr(f"api.resources.{module}.caller_of", lambda req: Caller("ann"))


def test_nobody_changes_the_tasks_of_others(
    client: TestClient, kit: Kit, request: pytest.FixtureRequest
) -> None:
    theirs, own = failed(client, kit, user_id="bob"), failed(client, kit, user_id="ann")
    request.getfixturevalue("as_ann")
    for verb in ("retry", "recover", "derivative", "cancel"):
        assert post(client, f"/{theirs}/{verb}").status_code == 404
    assert client.simulate_delete(f"{TASKS}/{theirs}").status_code == 404
    answer = post(client, "/retry", filter={"status": "failed"})
    assert (answer.json["matched"], answer.json["retried"]) == (1, 1)
    answer = post(client, "/delete", filter={"user_id": "bob"})
    assert answer.json["matched"] == 0
    assert post(client, f"/{own}/derivative", user_id="bob").json["user_id"] == "ann"
    states = {one: kit.queries.task(UUID(one)) for one in (theirs, own)}
    assert [one.status for one in states.values() if one is not None] == ["failed", "queued"]
