"""Answers of a Callboard server, made by hand, for the tests of its clients."""

import json
import threading
from collections.abc import Mapping, Sequence
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


def event(
    number: int, kind: str, progress: float | None = None, state: str = "running", **fields: Any
) -> dict[str, Any]:
    """An event as the API shows it."""
    whole = {"event_id": number, "kind": kind, "progress": progress, "status": state, "timestamp": _WHEN}
    return whole | {"phase": None, "message": None} | fields


def told(number: int, kind: str, data: dict[str, Any]) -> str:
    """An event as a stream tells it."""
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def stream(*events: str) -> httpx.Response:
    """A stream that ends after these events."""
    return httpx.Response(200, text="retry: 1000\n\n" + ": still here\n\n".join(events))


def problem(
    status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    """A refusal as a problem document."""
    body = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail, "code": code}
    return httpx.Response(status, json=body | {"request_id": "r-1"} | fields, headers=headers)


class Documents:
    """A server that takes documents in; each ends as its entry says: a result, an error or a refusal.

    Every document is seen once in the stage ``embed`` and then in its end. ``refuse_first`` is the answer
    to the very first upload, ``there`` the documents that it lists.
    """

    def __init__(
        self,
        ends: Mapping[str, Any],
        *,
        refuse_first: httpx.Response | None = None,
        there: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._ends = ends
        self._there = list(there)
        self._refusal = refuse_first
        self._names: dict[str, str] = {}
        self._seen: set[str] = set()
        self._under_way = 0
        self._lock = threading.Lock()
        self.asked: list[str] = []
        self.most_at_once = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and "/knowledge-bases/" in request.url.path:
            return self._tell(request.url.path)
        with self._lock:
            self.asked.append(request.method)
            if request.method == "POST":
                return self._take(_name_in(request))
            task_id = request.url.path.removesuffix("/status").rpartition("/")[2]
            return self._look(task_id) if request.url.path.endswith("/status") else self._end(task_id)

    def _tell(self, path: str) -> httpx.Response:
        if path.endswith("/documents"):
            page = {"total": len(self._there), "total_is_exact": True, "next_cursor": None}
            return httpx.Response(200, json={"documents": self._there} | page)
        return httpx.Response(200, json={"kb_id": "kb", "name": "kb", "documents": len(self._there)})

    def _take(self, name: str) -> httpx.Response:
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            return refusal
        if isinstance(self._ends[name], httpx.Response):
            return httpx.Response(self._ends[name].status_code, content=self._ends[name].content)
        task_id = f"{TASK_ID[:-6]}{len(self._names) + 100:06}"
        self._names[task_id] = name
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        return httpx.Response(202, json={"document_id": DOCUMENT_ID, "task_id": task_id})

    def _look(self, task_id: str) -> httpx.Response:
        if task_id not in self._seen:
            self._seen.add(task_id)
            look = status("running", 50, phase="embed", task_id=task_id)
        else:
            look = status(self._state(task_id), 100, task_id=task_id)
        return httpx.Response(200, json=look)

    def _end(self, task_id: str) -> httpx.Response:
        self._under_way -= 1
        end = self._ends[self._names[task_id]]
        outcome = {"error": end} if "code" in end else {"result": end | {"document_id": DOCUMENT_ID}}
        return httpx.Response(200, json=task(task_id=task_id, status=self._state(task_id), **outcome))

    def _state(self, task_id: str) -> str:
        return "failed" if "code" in self._ends[self._names[task_id]] else "completed"


def _name_in(request: httpx.Request) -> str:
    """What a document is called, in a form or in JSON."""
    body = request.read()
    if request.headers["Content-Type"] == "application/json":
        return str(json.loads(body)["name"])
    return body.split(b'name="name"\r\n\r\n')[1].split(b"\r\n")[0].decode()
