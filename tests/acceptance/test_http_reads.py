"""Reading over HTTP: lists and their filters, what a task did in detail, and statistics."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from falcon.testing import TestClient
from psycopg.types.json import Jsonb

from pipelines.bootstrap import Kit, open_kit
from tasks import lists
from tasks.ids import new_id
from tasks.ledger.endings import Complete
from tasks.settings import Settings
from tasks.values import Claimed, NewTask, TaskError
from tests.support.api import api_on

TASKS = "/api/v1/tasks"
OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")


class Board:
    """The API on a record, and hands to write it."""

    def __init__(self, kit: Kit, client: TestClient, sql: "psycopg.Connection[Any]") -> None:
        self.kit = kit
        self.client = client
        self.sql = sql

    def submit(self, **body: Any) -> str:
        answer = self.client.simulate_post(TASKS, json={"task_type": "test", **body})
        assert answer.status_code == 202, answer.text
        return str(answer.json["task_id"])

    def claim(self, task_type: str = "test") -> Claimed:
        (claim,) = self.kit.ledger.fetch(["default"], [task_type], 1).result(10)
        return claim

    def complete(self, result: Any = None) -> None:
        claim = self.claim()
        assert self.kit.ledger.complete(claim, Complete(claim.id, claim.token, result)).result(10)

    def fail(self, retry_in: float | None = None) -> None:
        assert self.kit.ledger.fail(self.claim(), OOPS, retry_in=retry_in).result(10)

    def get(self, path: str = "", code: int = 200, /, **params: Any) -> Any:
        answer = self.client.simulate_get(f"{TASKS}{path}", params=params)
        assert answer.status_code == code, answer.text
        return answer.json

    def ids(self, **params: Any) -> list[str]:
        return [task["task_id"] for task in self.get(**params)["tasks"]]


@pytest.fixture(scope="module")
def opened(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    settings = Settings(
        database_url=url, data_dir=tmp_path_factory.mktemp("data"), actors=("tests.support.api",), port=0
    )
    kit = open_kit(settings)
    with api_on(kit) as client, psycopg.connect(url, autocommit=True) as sql:
        yield Board(kit, client, sql)
    kit.close()


@pytest.fixture
def board(opened: Board) -> Board:
    opened.sql.execute(
        "TRUNCATE tasks, task_state, attempts, events, snapshots, dependencies, dead_letters, tallies,"
        " statistics"
    )
    return opened


# --- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["NEEDLE", "needle", "Überraschung", "100%_\\", "red tag", "projekt", "kb_7"], ids=ascii
)
def test_a_text_is_found_wherever_it_stands(board: Board, word: str) -> None:
    # Given tasks of which one holds the text, and one that has nothing to do with it
    wanted = board.submit(
        payload={"a": ["the needle"], "b": "Überraschung 100%_\\"},
        tags=["red tag"],
        project_id="Projekt",
        kb_id="kb_7",
    )
    board.submit(payload={"a": "haystack"})

    assert board.ids(q=word) == [wanted]
    assert board.get(q=word)["total"] == 1


def test_errors_messages_and_ids_are_looked_through_too(board: Board) -> None:
    failed = board.submit()
    board.fail()
    other = board.submit()
    board.sql.execute("UPDATE task_state SET message = 'half way' WHERE id = %s", (other,))

    assert board.ids(q="runtimeerror: OOPS") == board.ids(q="actor_error") == [failed]
    assert board.ids(q="half way") == [other]
    assert board.ids(q=other.upper()[:30]) == [other]
    assert board.ids(q="nowhere") == []
    assert board.ids(q="half way", status="failed") == []


def test_a_text_is_looked_for_in_the_newest_tasks(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "SEARCHED", 3)
    found = [board.submit(payload={"n": number}) for number in range(5)]

    page = board.get(q='"n"', limit=2)

    assert [task["task_id"] for task in page["tasks"]] == found[:2:-1]
    assert (page["total"], page["total_is_exact"]) == (3, False)
    rest = board.get(q='"n"', limit=2, cursor=page["next_cursor"])
    assert ([task["task_id"] for task in rest["tasks"]], rest["next_cursor"]) == ([found[2]], None)


def test_retryable_are_those_that_a_retry_would_take(board: Board) -> None:
    failed = board.submit()
    board.fail()
    waiting = board.submit()

    assert board.ids(retryable="true") == [failed]
    assert board.ids(retryable="false") == [waiting]
    assert board.get("", 422, retryable="perhaps")["errors"][0]["field"] == "retryable"


@pytest.mark.parametrize(
    "params", [{"q": "\0"}, {"q": "x" * 300}, {"start_time": "x"}, {"created_after": "x"}]
)
def test_what_cannot_be_filtered_by_is_named(board: Board, params: dict[str, str]) -> None:
    assert board.get("", 422, **params)["errors"][0]["field"] == next(iter(params))


# --- a task in detail ------------------------------------------------------------------------------


def test_every_attempt_is_told_also_the_successful_one(board: Board) -> None:
    # Given a task that failed once, then is running
    task_id = board.submit()
    board.fail(retry_in=0)
    board.kit.ledger.promote().result(10)
    claim = board.claim()
    running = board.get(f"/{task_id}/attempts")["attempts"]
    board.kit.ledger.complete(claim, Complete(claim.id, claim.token, 1)).result(10)

    # Then both are told, and the second one with its end when it has one
    answer = board.get(f"/{task_id}/attempts")
    first, second = answer["attempts"]
    assert (first["attempt"], first["outcome"], first["status"]) == (1, "error", "retrying")
    assert (first["error"]["message"], first["traceback"]) == ("RuntimeError: oops", "Traceback …")
    assert (second["attempt"], second["outcome"], second["error"]) == (2, "completed", None)
    assert first["duration_ms"] >= 0 <= second["duration_ms"]
    assert (running[1]["outcome"], running[1]["ended_at"]) == ("running", None)
    assert (answer["total"], answer["next_cursor"]) == (2, None)
    assert list(answer) == ["attempts", "total", "total_is_exact", "next_cursor"]
    assert [one["attempt"] for one in board.get(f"/{task_id}/attempts", limit=1, offset=1)["attempts"]] == [2]


def test_the_log_has_its_lines_in_order_and_in_parts(board: Board) -> None:
    # Given a running task that has logged
    task_id = board.submit()
    claim = board.claim()
    for number in range(3, 6):
        board.sql.execute(
            "INSERT INTO events (task_id, event_id, kind, status, message, data)"
            " VALUES (%s, %s, 'log', 'running', %s, %s)",
            (task_id, number, f"line {number}", Jsonb({"level": "warning", "logger": "mine"})),
        )
    board.sql.execute("UPDATE task_state SET events = 5 WHERE id = %s", (task_id,))

    answer = board.get(f"/{task_id}/logs", limit=2)

    assert [line["message"] for line in answer["logs"]] == ["line 3", "line 4"]
    assert {key: answer["logs"][0][key] for key in ("event_id", "level", "logger", "attempt")} == {
        "event_id": 3,
        "level": "warning",
        "logger": "mine",
        "attempt": claim.attempt,
    }
    assert answer["total"] == 3
    rest = board.get(f"/{task_id}/logs", cursor=answer["next_cursor"])["logs"]
    assert [line["message"] for line in rest] == ["line 5"]
    kinds = [event["kind"] for event in board.get(f"/{task_id}/history")["history"]]
    assert kinds == ["state", "state", "log", "log", "log"]
    assert len(board.get(f"/{task_id}/history", limit=2)["history"]) == 2


def test_progress_is_told_with_two_decimals_everywhere(board: Board) -> None:
    task_id = board.submit()
    claim = board.claim()
    assert board.kit.ledger.report(claim, 100 / 3, None, None).result(10)

    (*_, told) = board.get(f"/{task_id}/history")["history"]

    assert told["progress"] == board.get(f"/{task_id}/status")["progress"] == 33.33


def test_snapshots_are_listed_and_read_by_version(board: Board) -> None:
    task_id = board.submit()
    claim = board.claim()
    for version, state in ((1, {"at": 1}), (2, None)):
        assert board.kit.ledger.checkpoint(claim, version, state).result(10)

    listed = board.get(f"/{task_id}/snapshots")
    assert [(one["version"], one["size_bytes"]) for one in listed["snapshots"]] == [(1, 9), (2, 4)]
    assert listed["total"] == 2
    latest = board.get(f"/{task_id}/snapshot")
    assert (latest["task_id"], latest["version"], latest["state"]) == (task_id, 2, None)
    assert board.get(f"/{task_id}/snapshot", version="latest") == latest
    assert board.get(f"/{task_id}/snapshot", version=1)["state"] == {"at": 1}


@pytest.mark.parametrize("version", ["0", "-1", "x", "1.5", "99999999999999999999"])
def test_a_version_that_is_none_is_refused(board: Board, version: str) -> None:
    task_id = board.submit()

    assert board.get(f"/{task_id}/snapshot", 422, version=version)["errors"][0]["field"] == "version"


def test_there_is_nothing_of_a_snapshot_or_a_task_that_never_was(board: Board) -> None:
    task_id = board.submit()

    board.get(f"/{task_id}/snapshot", 404)
    board.get(f"/{task_id}/snapshot", 404, version=7)
    for what in ("history", "attempts", "logs", "snapshots", "snapshot", "graph"):
        board.get(f"/{new_id()}/{what}", 404)
        board.get(f"/none/{what}", 404)


def test_a_graph_shows_a_run_its_stages_and_what_they_hang_together_with(board: Board) -> None:
    # Given two dependencies in a row, a run that needs the second one, a dependent, and a derivative
    first = board.submit()
    second = board.submit(depends_on=[first])
    run = board.submit(task_type="shouting", payload={"words": ["a"]}, depends_on=[second])
    after = board.submit(depends_on=[run])
    child = NewTask(task_type="test", queue_name="default", parent_id=UUID(run))
    board.kit.ledger.submit([child]).result(10)
    stranger = board.submit()

    graph = board.get(f"/{run}/graph")

    (stage,) = [node for node in graph["nodes"] if node["stage"]]
    assert graph["nodes"][0]["task_id"] == run
    assert {node["task_id"] for node in graph["nodes"]} == {
        first,
        second,
        run,
        after,
        str(child.id),
        stage["task_id"],
    }
    assert {(edge["source"], edge["target"], edge["kind"]) for edge in graph["edges"]} == {
        (first, second, "dependency"),
        (second, run, "dependency"),
        (second, stage["task_id"], "dependency"),
        (run, after, "dependency"),
        (run, stage["task_id"], "stage"),
        (run, str(child.id), "parent"),
    }
    assert {node["task_id"]: node["wait_reason"] for node in graph["nodes"]}[after] == "dependency"
    assert graph["truncated"] is False
    assert {node["task_id"] for node in board.get(f"/{stage['task_id']}/graph")["nodes"]} >= {run}
    assert len(board.get(f"/{stranger}/graph")["nodes"]) == 1


def test_a_graph_shows_a_run_by_its_stages(board: Board) -> None:
    # Given a run whose first stage waits for a worker
    run = board.submit(task_type="shouting", payload={"words": ["a", "b"]})

    shown = board.get(f"/{run}/graph")["run"]

    # Then it has all stages of the pipeline, those that have not begun too, and what follows what
    assert (shown["run_id"], shown["pipeline"], shown["status"]) == (run, "shouting", "queued")
    first, *later = shown["stages"]
    assert (first["status"], first["tasks"], first["wait_reason"]) == ("queued", 1, "no worker for its type")
    assert later
    assert {one["status"] for one in later} == {"pending"}
    assert (shown["edges"][0]["source"], shown["edges"][0]["target"]) == (first["stage"], later[0]["stage"])

    # And it is the same from its stage, while other tasks have none
    (stage,) = [node for node in board.get(f"/{run}/graph")["nodes"] if node["stage"]]
    assert board.get(f"/{stage['task_id']}/graph")["run"] == shown
    assert board.get(f"/{board.submit()}/graph")["run"] is None

    # And the pipeline itself has the same shape
    shape = board.client.simulate_get("/api/v1/pipelines/shouting").json
    assert (shape["version"], shape["edges"]) == (1, shown["edges"])
    assert shown["version"].startswith("1-")


def test_a_graph_is_bounded(board: Board) -> None:
    # Given a task with more derivatives than a graph shows
    parent = board.submit()
    many = [NewTask(task_type="test", queue_name="default", parent_id=UUID(parent)) for _ in range(1_000)]
    board.kit.ledger.submit(many).result(10)

    graph = board.get(f"/{parent}/graph")

    assert (len(graph["nodes"]), graph["truncated"]) == (1_000, True)
    assert graph["nodes"][0]["task_id"] == parent


def test_others_see_nothing_of_a_task_in_the_graph_of_their_own(board: Board) -> None:
    mine = board.submit(user_id="ann")
    board.submit(user_id="bob", depends_on=[mine])

    graph = board.kit.details.graph(UUID(mine), owner="ann")

    assert [str(node.task_id) for node in graph.nodes] == [mine]


# --- when it will be done --------------------------------------------------------------------------


def test_a_running_task_has_an_estimate_by_its_progress(board: Board) -> None:
    task_id = board.submit()
    claim = board.claim()
    assert board.get(f"/{task_id}")["estimated_completion"] is None
    board.sql.execute(
        "UPDATE task_state SET started_at = now() - interval '1 hour' WHERE id = %s", (task_id,)
    )
    board.kit.ledger.report(claim, 25.0, None, None).result(10)

    task = board.get(f"/{task_id}")

    estimate = datetime.fromisoformat(task["estimated_completion"]) - datetime.now(UTC)
    assert timedelta(hours=2.9) < estimate < timedelta(hours=3.1)
    assert board.get()["tasks"][0]["estimated_completion"] == task["estimated_completion"]
    board.sql.execute("UPDATE task_state SET progress = 1e-30 WHERE id = %s", (task_id,))
    board.get(f"/{task_id}")


# --- statistics ------------------------------------------------------------------------------------


def test_statistics_tell_how_tasks_ended(board: Board) -> None:
    began = datetime.now(UTC)
    for _ in range(3):
        board.submit()
        board.complete()
    board.submit()
    board.fail()
    board.submit(task_type="benchmark", user_id="ann")

    found = board.get("/statistics", start_time=began.isoformat(), end_time="2999-01-01T00:00:00Z")

    assert {name: found[name] for name in ("total", "completed", "failed", "cancelled", "success_rate")} == {
        "total": 5,
        "completed": 3,
        "failed": 1,
        "cancelled": 0,
        "success_rate": 75.0,
    }
    assert found["avg_duration_ms"] > 0 < found["p50"] <= found["p95"]
    assert found["by_type"]["benchmark"]["total"] == found["by_queue"]["default"]["failed"] == 1
    assert found["series"]["bucket"] == "hour"
    assert sum(point["total"] for point in found["series"]["points"]) == 5
    assert board.get("/statistics", user_id="ann")["total"] == 1
    assert board.get("/statistics", task_type="nothing")["total"] == 0
    # A plus sign that nobody escaped is a plus sign all the same.
    assert board.get("/statistics", start_time="2999-01-01T00:00:00+02:00")["total"] == 0


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"start_time": "yesterday"}, "start_time"),
        ({"start_time": "0001-01-01T00:00:00+14:00"}, "start_time"),
        ({"start_time": "2026-01-02T00:00:00Z", "end_time": "2026-01-01T00:00:00Z"}, "end_time"),
        ({"end_time": "2026-01-01T00:00:00"}, "end_time"),
        ({"stages": "maybe"}, "stages"),
        ({"limit": "1"}, "limit"),
    ],
)
def test_windows_that_are_none_are_refused(board: Board, params: dict[str, str], field: str) -> None:
    assert board.get("/statistics", 422, **params)["errors"][0]["field"] == field


@pytest.mark.parametrize(
    "params",
    [{"start_time": "0001-01-01T00:00:00Z"}, {"end_time": "9999-12-31T23:59:59Z"}, {"task_type": "x'y"}],
)
def test_windows_may_reach_as_far_as_the_calendar(board: Board, params: dict[str, str]) -> None:
    assert board.get("/statistics", **params)["total"] == 0
