"""Answers of a Callboard server, made by hand, for the tests of its clients."""

import threading
from typing import Any

import httpx

TASK_ID = "019a0000-0000-7000-8000-000000000001"
DOCUMENT_ID = "019a0000-0000-7000-8000-000000000002"
_WHEN = "2026-01-02T03:04:05Z"
_OFTEN_NULL = (
    "phase message details payload result error user_id project_id kb_id parent_id run_id stage run_at "
    "started_at completed_at duration_ms estimated_completion wait_reason"
)


class Script:
    """Gives one answer after the other, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        with self._lock:
            self.requests.append(request)
            answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def task(**fields: Any) -> dict[str, Any]:
    """A task as the API shows it."""
    whole: dict[str, Any] = dict.fromkeys(_OFTEN_NULL.split())
    whole |= {"task_id": TASK_ID, "task_type": "sleep", "status": "queued", "progress": 0}
    whole |= {"queue_name": "default", "priority": 5, "attempts": 0, "max_retries": 3, "timeout": 300}
    whole |= {"created_by": "system", "tags": [], "depends_on": [], "created_at": _WHEN, "updated_at": _WHEN}
    return whole | fields


def status(state: str = "completed", progress: float = 0, **fields: Any) -> dict[str, Any]:
    """The progress of a task as the API shows it."""
    whole = {"task_id": TASK_ID, "status": state, "progress": progress, "updated_at": _WHEN}
    return whole | {"phase": None, "message": None, "details": None} | fields


def problem(
    status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    """A refusal as a problem document."""
    body = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail, "code": code}
    return httpx.Response(status, json=body | {"request_id": "r-1"} | fields, headers=headers)
