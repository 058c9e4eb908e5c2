"""The examples of the task manager's document (spec 002), as printed, on our port."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment
from tests.support.documents import pdf
from tests.support.waiting import eventually


def curl(command: str, running: Deployment) -> Any:
    """What a curl call of the document answers, on the port of a running Callboard."""
    here = command.replace("http://localhost:8084", running.url)
    answer = subprocess.run([*shlex.split(here), "-s"], capture_output=True, check=True, timeout=30)
    return json.loads(answer.stdout)


@pytest.fixture(params=["embedded", "on_rabbitmq"])
def running(request: pytest.FixtureRequest) -> Deployment:
    deployed: Deployment = request.getfixturevalue(request.param)
    return deployed


def test_the_quick_start_submits_a_test_task_that_echoes_its_payload(running: Deployment) -> None:
    # Given the call of the quick start (lines 268 to 270)
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
    # When the body of lines 76 to 86 is posted
    answer = running.http.post("/api/v1/tasks", json=order)
    # Then the answer has the fields of lines 89 to 93
    assert answer.status_code == 202
    submitted = answer.json()
    assert {"task_id", "status", "created_at"} <= set(submitted)
    assert submitted["status"] == "queued"
    assert (submitted["priority"], submitted["max_retries"]) == (8, 3)
    # And its status has those of lines 98 to 107, until it is completed and can be searched
    seen = running.http.get(f"/api/v1/tasks/{submitted['task_id']}").json()
    assert {"task_id", "status", "progress", "started_at", "estimated_completion", "result"} <= set(seen)
    done = running.wait_for_task(submitted["task_id"])
    assert (done["status"], done["progress"]) == ("completed", 100.0)
    found = running.http.get("/api/v1/knowledge-bases/kb_123/search", params={"q": "Who pays on Friday?"})
    assert "Tuesday" in found.json()["hits"][0]["text"]


def test_tasks_are_listed_by_knowledge_base_and_status(running: Deployment) -> None:
    # Given a running task that is about kb_123 (line 113)
    order = {"task_type": "sleep", "payload": {"seconds": 30}, "kb_id": "kb_123"}
    task_id = running.http.post("/api/v1/tasks", json=order).json()["task_id"]
    # When the list is asked for what is processing
    call = "curl 'http://localhost:8084/api/v1/tasks?kb_id=kb_123&status=processing'"
    eventually(lambda: task_id in [task["task_id"] for task in curl(call, running)["tasks"]])
    # Then it is there as running, and it can be cancelled
    listed = {task["task_id"]: task["status"] for task in curl(call, running)["tasks"]}
    assert listed[task_id] == "running"
    assert running.http.post(f"/api/v1/tasks/{task_id}/cancel").status_code == 202
    assert running.wait_for_task(task_id)["status"] == "cancelled"


def test_health_answers(running: Deployment) -> None:
    assert curl("curl http://localhost:8084/health", running) == {"status": "ok"}
