"""Every call about tasks in the documents 000, 001 and 002, as printed: what is answered, on both brokers.

A row of the table is one call: the document, its lines, the method, the path, the body as it is printed,
and what the answer has. Paths name a task as the document does; ``on`` says what state that task is in. What
takes more than one call stands below the table, with its lines.
"""

import json
import shlex
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.deployment import Deployment
from tests.support.documents import pdf
from tests.support.waiting import eventually

TASKS = "/api/v1/tasks"
#: What an order of the documents becomes when it is accepted, and what a reader is told.
STATUS = {"task_id", "status", "phase", "progress", "message", "details", "updated_at"}
COUNTS = {"total", "completed", "failed", "success_rate", "avg_duration_ms"}
QUEUE = {"running", "completed", "failed", "size", "capacity", "concurrency"}


class Row(NamedTuple):
    """A call of a document. ``expected`` are fields the answer has; a dict says their values too."""

    where: str
    method: str
    path: str
    body: Any
    status: int | tuple[int, ...]
    expected: set[str] | dict[str, Any]
    on: str | None = None


#: A queue is made or changed, whichever it takes.
UPSERTED = (200, 201)
ARTICLE = {
    "task_type": "content_generation",
    "queue_name": "processing",
    "priority": 10,
    "payload": {"topic": "AI技术发展趋势"},
    "max_retries": 3,
    "timeout": 300,
}
# The fields of CreateTaskRequest (lines 239 to 245); the type is one of 001's.
GENERATION = {
    "type": "content_generation",
    "user_id": "user-123",
    "project_id": "project-456",
    "params": {"topic": "AI"},
    "priority": 5,
}
# The struct of lines 75 to 88.
SUBMITTED_IN_GO = {
    "task_type": "content_generation",
    "queue_name": "processing",
    "priority": "high",
    "payload": {"topic": "AI技术发展趋势", "style": "专业深度", "length": 2000},
    "max_retries": 3,
    "timeout": 300,
    "user_id": "user-123",
    "project_id": "project-456",
}
BENCHMARK = {"task_type": "benchmark", "payload": {}}
FEBRUARY = "start_time=2026-02-01T00:00:00Z&end_time=2026-02-21T00:00:00Z"

ROWS = [
    # 000: the routes
    Row("000:161", "POST", TASKS, GENERATION, 202, {"status": "queued", "project_id": "project-456"}),
    Row("000:162", "GET", f"{TASKS}/:taskId/status", None, 200, STATUS, on="running"),
    Row("000:163", "GET", f"{TASKS}/:taskId/result", None, 200, {"status": "completed"}, on="completed"),
    Row("000:163, 487", "GET", f"{TASKS}/:taskId/result", None, 409, {"code": "conflict"}, on="running"),
    Row("000:164", "GET", f"{TASKS}/:taskId/history", None, 200, {"history"}, on="completed"),
    Row("000:166", "POST", f"{TASKS}/:taskId/recover", None, 202, {"task_id", "status"}, on="cancelled"),
    Row("000:167", "POST", f"{TASKS}/:taskId/cancel", None, 202, {"status": "cancelled"}, on="running"),
    Row("000:167, 343", "POST", f"{TASKS}/:taskId/cancel", None, 409, {"code": "conflict"}, on="completed"),
    Row("000:168", "POST", f"{TASKS}/:taskId/derivative", None, 202, {"parent_id"}, on="completed"),
    Row("000:711", "GET", "/health", None, 200, {"status": "ok"}),
    Row(
        "000:729",
        "GET",
        f"{TASKS}/:taskId/snapshot",
        None,
        200,
        {"task_id", "version", "state", "created_at"},
        on="completed",
    ),
    # 001: the HTTP examples
    Row("001:323-335", "POST", TASKS, ARTICLE, 202, {"status": "queued", **ARTICLE}),
    Row("001:340", "GET", f"{TASKS}/{{task_id}}", None, 200, {"task_id", "status", "result"}, on="completed"),
    Row("001:345", "DELETE", f"{TASKS}/{{task_id}}", None, 202, {"status": "cancelled"}, on="running"),
    Row(
        "001:350",
        "GET",
        f"{TASKS}?queue_name=processing&status=running&page=1&page_size=20",
        None,
        200,
        {"tasks", "total"},
    ),
    Row("001:355", "GET", f"{TASKS}/{{task_id}}/progress", None, 200, STATUS, on="running"),
    Row(
        "001:360",
        "GET",
        f"{TASKS}/{{task_id}}/result",
        None,
        200,
        {"task_id", "status", "result"},
        on="completed",
    ),
    Row("001:365", "GET", f"{TASKS}/statistics?{FEBRUARY}", None, 200, COUNTS),
    Row("001:372", "GET", "/api/v1/queues/processing/stats", None, 200, QUEUE),
    Row(
        "001:377-383",
        "POST",
        "/api/v1/queues",
        {"name": "processing", "concurrency": 10},
        UPSERTED,
        {"name": "processing", "concurrency": 10},
    ),
    # 001: calls of its Go examples, as requests
    Row(
        "001:24",
        "POST",
        "/api/v1/queues",
        {"name": "processing", "concurrency": 10},
        UPSERTED,
        {"concurrency": 10},
    ),
    Row(
        "001:25", "POST", "/api/v1/queues", {"name": "upload", "concurrency": 5}, UPSERTED, {"concurrency": 5}
    ),
    Row(
        "001:26",
        "POST",
        "/api/v1/queues",
        {"name": "notification", "concurrency": 3},
        UPSERTED,
        {"concurrency": 3},
    ),
    Row("001:75-88", "POST", TASKS, SUBMITTED_IN_GO, 202, {**SUBMITTED_IN_GO, "priority": 8}),
    Row(
        "001:154", "GET", f"{TASKS}/{{task_id}}", None, 200, {"task_id", "task_type", "payload"}, on="failed"
    ),
    Row("001:157", "GET", f"{TASKS}/{{task_id}}/progress", None, 200, STATUS, on="completed"),
    Row("001:193", "POST", f"{TASKS}/{{task_id}}/retry", None, 202, {"task_id", "status"}, on="failed"),
    Row("001:196", "GET", f"{TASKS}?retryable=true", None, 200, {"tasks", "total"}),
    Row("001:308", "GET", "/api/v1/queues/processing/stats", None, 200, QUEUE),
    Row(
        "001:540",
        "POST",
        "/api/v1/queues",
        {"name": "cpu_intensive", "concurrency": 2},
        UPSERTED,
        {"concurrency": 2},
    ),
    Row(
        "001:541",
        "POST",
        "/api/v1/queues",
        {"name": "io_intensive", "concurrency": 20},
        UPSERTED,
        {"concurrency": 20},
    ),
    Row("001:598", "GET", f"{TASKS}/{{task_id}}", None, 200, {"error"}, on="failed"),
    Row("001:603", "GET", f"{TASKS}/{{task_id}}/attempts", None, 200, {"attempts"}, on="failed"),
    # 002
    Row(
        "002:89",
        "GET",
        f"{TASKS}/{{task_id}}",
        None,
        200,
        {"task_id", "status", "progress", "started_at", "estimated_completion", "result"},
        on="running",
    ),
    Row("002:104", "POST", f"{TASKS}/batch", {"tasks": [BENCHMARK, BENCHMARK]}, 202, {"tasks"}),
    Row("002:105", "GET", f"{TASKS}?kb_id=kb_123&status=processing", None, 200, {"tasks", "total"}),
    Row("002:106", "DELETE", f"{TASKS}/{{task_id}}", None, 202, {"status": "cancelled"}, on="running"),
    Row("002:111", "GET", "/health", None, 200, {"status": "ok"}),
    Row("002:113", "GET", "/api/v1/stats/workers", None, 200, {"workers", "total"}),
    Row("002:114", "GET", "/api/v1/stats/queues", None, 200, {"queues", "totals"}),
    Row("002:270", "POST", TASKS, BENCHMARK, 202, {"status": "queued", "task_type": "benchmark"}),
]


@pytest.fixture(params=["embedded", "on_rabbitmq"])
def running(request: pytest.FixtureRequest) -> Deployment:
    deployed: Deployment = request.getfixturevalue(request.param)
    return deployed


def submit(running: Deployment, task_type: str, **payload: Any) -> str:
    answer = running.http.post(TASKS, json={"task_type": task_type, "payload": payload})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def a_completed(running: Deployment) -> str:
    task_id = submit(running, "content_generation", topic="AI")
    assert running.wait_for_task(task_id)["status"] == "completed"
    return task_id


def a_running(running: Deployment) -> str:
    task_id = submit(running, "video_processing", seconds=5.0)
    eventually(lambda: running.http.get(f"{TASKS}/{task_id}").json()["status"] == "running")
    return task_id


def a_failed(running: Deployment) -> str:
    task_id = submit(running, "task_type")
    assert running.wait_for_task(task_id)["status"] == "failed"
    return task_id


def a_cancelled(running: Deployment) -> str:
    """One that got as far as its first checkpoint."""
    task_id = submit(running, "video_processing", seconds=0.3)
    eventually(lambda: "checkpoint" in running.http.get(f"{TASKS}/{task_id}/history").text)
    running.http.post(f"{TASKS}/{task_id}/cancel").raise_for_status()
    return task_id


MADE: dict[str, Callable[[Deployment], str]] = {
    "completed": a_completed,
    "running": a_running,
    "failed": a_failed,
    "cancelled": a_cancelled,
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.where} {row.method} {row.path}")
def test_a_call_of_the_documents_is_answered_as_they_say(running: Deployment, row: Row) -> None:
    # Given a task in the state that the document speaks of
    task_id = MADE[row.on](running) if row.on else ""
    path = row.path.replace(":taskId", task_id).replace("{task_id}", task_id)
    # When the call is made as it is printed
    answer = running.http.request(row.method, path, **({} if row.body is None else {"json": row.body}))
    # Then it has the status and the fields of the document
    statuses = row.status if isinstance(row.status, tuple) else (row.status,)
    assert answer.status_code in statuses, answer.text
    found = answer.json()
    assert set(row.expected) <= set(found)
    if isinstance(row.expected, dict):
        assert {name: found[name] for name in row.expected} == row.expected
    if row.on == "running" and row.method == "GET":
        running.http.post(f"{TASKS}/{task_id}/cancel").raise_for_status()


def test_the_metrics_have_the_names_of_the_document(running: Deployment) -> None:
    # Given a task of each fate, and a queue in which something has been (002, lines 178 to 183)
    a_completed(running)
    a_failed(running)
    # Then the metrics are those of the document, in Prometheus' text
    names = (
        "task_queue_size{queue=",
        "task_processing_duration_seconds_bucket{",
        "task_success_total{task_type=",
        "task_failure_total{task_type=",
        "worker_pool_active_count",
        "worker_pool_idle_count",
    )
    answer = running.http.get("/metrics")
    assert answer.status_code == 200
    eventually(lambda: all(name in running.http.get("/metrics").text for name in names))


def curl(command: str, running: Deployment) -> Any:
    """What a curl call of the document answers, on the port of a running Callboard."""
    here = command.replace("http://localhost:8084", running.url)
    answer = subprocess.run([*shlex.split(here), "-s"], capture_output=True, check=True, timeout=30)
    return json.loads(answer.stdout)


def test_the_quick_start_submits_a_test_task_that_echoes_its_payload(running: Deployment) -> None:
    # Given the call of 002's quick start (lines 260 to 262)
    submitted = curl(
        'curl -X POST http://localhost:8084/api/v1/tasks -H "Content-Type: application/json"'
        """ -d '{"task_type":"test","payload":{"message":"hello"}}'""",
        running,
    )
    # Then it is accepted, and its echo is recorded
    assert submitted["status"] == "queued"
    assert running.wait_for_task(submitted["task_id"])["result"] == {"message": "hello"}


def test_a_document_is_submitted_by_its_path_and_its_status_is_read(
    running: Deployment, file_root: Path
) -> None:
    # Given a knowledge base kb_123 and a file below an allowed root
    running.http.post("/api/v1/knowledge-bases", json={"kb_id": "kb_123", "name": "spec"})
    (file_root / "doc.pdf").write_bytes(pdf(["# Contracts", "Whoever signs on Tuesday pays on Friday."]))
    order = {
        "task_type": "document_processing",
        "kb_id": "kb_123",
        "payload": {"file_path": str(file_root / "doc.pdf"), "chunk_size": 1000, "chunk_overlap": 200},
        "priority": "high",
        "retry_limit": 3,
    }
    # When the body of 002's lines 67 to 77 is posted
    answer = running.http.post(TASKS, json=order)
    # Then the answer has the fields of lines 80 to 84
    assert answer.status_code == 202
    submitted = answer.json()
    assert {"task_id", "status", "created_at"} <= set(submitted)
    assert submitted["status"] == "queued"
    assert (submitted["priority"], submitted["max_retries"]) == (8, 3)
    # And its status has those of lines 92 to 99, until it is completed and can be searched
    seen = running.http.get(f"{TASKS}/{submitted['task_id']}").json()
    assert {"task_id", "status", "progress", "started_at", "estimated_completion", "result"} <= set(seen)
    done = running.wait_for_task(submitted["task_id"])
    assert (done["status"], done["progress"]) == ("completed", 100.0)
    found = running.http.get("/api/v1/knowledge-bases/kb_123/search", params={"q": "Who pays on Friday?"})
    assert "Tuesday" in found.json()["hits"][0]["text"]


def test_tasks_are_listed_by_knowledge_base_and_status(running: Deployment) -> None:
    # Given a running task that is about kb_123 (002, line 105)
    order = {"task_type": "sleep", "payload": {"seconds": 30}, "kb_id": "kb_123"}
    task_id = running.http.post(TASKS, json=order).json()["task_id"]
    # When the list is asked for what is processing
    call = "curl 'http://localhost:8084/api/v1/tasks?kb_id=kb_123&status=processing'"
    eventually(lambda: task_id in [task["task_id"] for task in curl(call, running)["tasks"]])
    # Then it is there as running, and it can be cancelled
    listed = {task["task_id"]: task["status"] for task in curl(call, running)["tasks"]}
    assert listed[task_id] == "running"
    assert running.http.delete(f"{TASKS}/{task_id}").status_code == 202
    assert running.wait_for_task(task_id)["status"] == "cancelled"


def test_many_benchmark_tasks_are_submitted_by_ten_clients_at_once(running: Deployment) -> None:
    # Given the load of 002 (lines 268 to 271), a tenth of it
    with ThreadPoolExecutor(10) as clients:
        answers = list(clients.map(lambda _: running.http.post(TASKS, json=BENCHMARK), range(100)))
    # Then every one is accepted, and every one completes
    assert {answer.status_code for answer in answers} == {202}
    for answer in answers:
        assert running.wait_for_task(answer.json()["task_id"])["status"] == "completed"


def test_progress_with_steps_is_seen_while_it_happens_and_in_the_history(running: Deployment) -> None:
    # Given the handler of 001's lines 513 to 533: four steps, each said before it is done
    task_id = submit(running, "video_processing", seconds=0.2)
    # When its progress is read (line 157)
    seen = eventually(
        lambda: (
            running.http.get(f"{TASKS}/{task_id}/progress").json()["phase"] == "转码"
            and running.http.get(f"{TASKS}/{task_id}/progress").json()
        )
    )
    # Then it tells the step, and how many are done
    assert seen["details"]["steps_total"] == 4
    # And afterwards the history has every step in order, with what was said of it
    running.wait_for_task(task_id)
    history = running.http.get(f"{TASKS}/{task_id}/history").json()["history"]
    steps = [(event["phase"], event["message"]) for event in history if event["kind"] == "progress"]
    assert steps == [(step, f"正在{step}...") for step in ("下载", "转码", "上传", "通知")]


def test_a_simple_progress_and_one_with_steps_are_told_as_they_were_reported(running: Deployment) -> None:
    # Given the calls of 001's lines 126 to 135
    task_id = a_completed(running)
    # When the history is read, which has phase, progress, message and timestamp (000, lines 512 to 518)
    history = running.http.get(f"{TASKS}/{task_id}/history").json()["history"]
    # Then both reports are there
    reported = [event for event in history if event["kind"] == "progress"]
    assert [(one["phase"], one["progress"], one["message"]) for one in reported] == [
        (None, 50.0, "正在生成内容..."),
        ("内容生成", 40.0, "正在生成第3段内容..."),
    ]
    assert all(one["timestamp"] for one in reported)


def test_a_task_that_failed_is_among_the_retryable_ones_until_it_is_retried(running: Deployment) -> None:
    # Given a task that failed (001, line 598 reads its error)
    task_id = a_failed(running)
    assert running.http.get(f"{TASKS}/{task_id}").json()["error"] == {
        "code": "actor_error",
        "message": "RuntimeError: the service is away",
    }

    def retryable() -> list[str]:
        tasks = running.http.get(TASKS, params={"retryable": True, "limit": 100}).json()["tasks"]
        return [task["task_id"] for task in tasks]

    # Then it is one of those that can be retried (line 196), and its attempts tell why (line 603)
    assert task_id in retryable()
    (attempt,) = running.http.get(f"{TASKS}/{task_id}/attempts").json()["attempts"]
    assert attempt["error"]["message"] == "RuntimeError: the service is away"
    # When it is retried (line 193)
    again = running.http.post(f"{TASKS}/{task_id}/retry")
    # Then the same task runs once more
    assert (again.status_code, again.json()["task_id"]) == (202, task_id)
    eventually(lambda: len(running.http.get(f"{TASKS}/{task_id}/attempts").json()["attempts"]) == 2)


def test_old_completed_tasks_are_cleaned_up(running: Deployment) -> None:
    # Given a completed task, and 001's call that removes what is older than 30 days (line 203)
    task_id = a_completed(running)
    month_ago = (datetime.now(UTC) - timedelta(days=30)).isoformat()
    order = {"filter": {"status": "completed", "created_before": month_ago}, "dry_run": False}
    cleaned = running.http.post(f"{TASKS}/delete", json=order)
    # Then this one is not among them, but it can be removed by itself
    assert cleaned.status_code == 200, cleaned.text
    assert running.http.get(f"{TASKS}/{task_id}").status_code == 200
    assert running.http.delete(f"{TASKS}/{task_id}").status_code == 204
    assert running.http.get(f"{TASKS}/{task_id}").status_code == 404


def test_the_statistics_of_a_week_count_what_happened_in_it(running: Deployment) -> None:
    # Given a completed and a failed task
    a_completed(running)
    a_failed(running)
    # When 001's statistics of the last seven days are asked for (lines 293 to 302)
    now = datetime.now(UTC)
    window = {"start_time": (now - timedelta(days=7)).isoformat(), "end_time": now.isoformat()}
    told = running.http.get(f"{TASKS}/statistics", params=window).json()
    # Then they have them, and a rate of success in percent
    assert told["completed"] >= 1
    assert told["failed"] >= 1
    assert told["success_rate"] == pytest.approx(
        100 * told["completed"] / (told["completed"] + told["failed"]), abs=0.1
    )
    assert told["avg_duration_ms"] > 0


def test_a_running_task_is_found_by_its_queue(running: Deployment) -> None:
    # Given a task of the queue "processing" that runs
    task_id = a_running(running)
    # When 001's filter is asked for (lines 167 to 174)
    query = "queue_name=processing&status=running&page=1&page_size=20"
    listed = running.http.get(f"{TASKS}?{query}").json()
    # Then it is on the first page
    assert task_id in [task["task_id"] for task in listed["tasks"]]
    assert listed["total"] >= 1
    running.http.post(f"{TASKS}/{task_id}/cancel").raise_for_status()


def test_a_derivative_takes_over_what_it_does_not_change(running: Deployment) -> None:
    # Given a completed task, and 000's route of line 168
    task_id = a_completed(running)
    # When a derivative of it is asked for with another style
    made = running.http.post(f"{TASKS}/{task_id}/derivative", json={"payload": {"style": "轻松"}}).json()
    # Then it is a new task that knows its parent
    assert made["parent_id"] == task_id
    assert made["payload"]["topic"] == "AI"
    assert running.wait_for_task(made["task_id"])["result"] == {"content": "AI：轻松"}


def test_a_recovered_task_goes_on_from_its_last_checkpoint(running: Deployment) -> None:
    # Given a task that was cancelled after its first step, and 000's route of line 166
    task_id = a_cancelled(running)
    # When it is recovered
    assert running.http.post(f"{TASKS}/{task_id}/recover").status_code == 202
    # Then it completes, under its own id
    assert running.wait_for_task(task_id)["status"] == "completed"


def test_a_stream_tells_the_snapshot_and_then_every_event(running: Deployment) -> None:
    # Given a task at work, and 000's route of line 165
    task_id = submit(running, "video_processing", seconds=0.2)
    # When it is streamed until it ends
    kinds = []
    with running.http.stream("GET", f"{TASKS}/{task_id}/stream") as stream:
        assert stream.headers["content-type"].split(";")[0] == "text/event-stream"
        kinds = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    # Then there was a snapshot first, and progress after it, and its end last
    assert (kinds[0], kinds[-1]) == ("snapshot", "state")
    assert "progress" in kinds


def test_a_websocket_tells_the_progress_of_its_task(running: Deployment) -> None:
    # Given 000's route of line 173, for a task at work
    task_id = submit(running, "video_processing", seconds=0.3)
    address = running.url.replace("http://", "ws://")
    with connect(f"{address}/ws?task_id={task_id}", proxy=None) as socket:
        # Then the first frame is a snapshot, and progress follows
        first = json.loads(socket.recv(10))
        assert (first["event"], first["task_id"]) == ("snapshot", task_id)
        while json.loads(socket.recv(10))["event"] != "progress":
            pass


def test_a_failed_request_says_what_is_wrong(running: Deployment) -> None:
    # Given a type that nobody has registered (001, line 591)
    answer: httpx.Response = running.http.post(TASKS, json={"task_type": "unheard_of", "payload": {}})
    # Then it is refused by name instead of waiting for ever
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_task_type")
