"""The operations on tasks and pipelines."""

from collections.abc import Mapping
from typing import Any

from actors.requests import TaskRequest
from api.operations.model import Operation, holder, listing, optional
from api.resources.streams import HEADER as STREAM_HEADER
from api.schemas.common import Paged
from api.schemas.tasks import (
    BatchRequest,
    BulkOutcome,
    BulkRequest,
    PipelineShape,
    SnapshotQuery,
    StatisticsQuery,
    StreamQuery,
    TaskAttempts,
    TaskHistory,
    TaskListing,
    TaskLogs,
    TaskResult,
    TaskSnapshots,
    TaskStatus,
)
from pipelines.recovery import Recovery
from tasks.records import Graph, SnapshotState, Statistics, Task, TaskPage

EVENT_ID: Mapping[str, Any] = {"type": "integer", "minimum": 0}
AFTER_EVENT = ((STREAM_HEADER, "The last event that the caller has: those after it follow.", EVENT_ID),)
#: The fields of a task of which the others are its parent's.
DerivativeRequest = optional("DerivativeRequest", TaskRequest)
#: The filters of a list of tasks, as a body has them.
TasksMeant = optional("TasksMeant", TaskListing, without=Paged)
SubmittedTasks = holder("SubmittedTasks", tasks=list[Task])


OPERATIONS = (
    Operation("GET /tasks", "list_tasks", {200: TaskPage}, query=TaskListing),
    Operation(
        "POST /tasks",
        "submit_task",
        {202: Task},
        body=TaskRequest,
        once=True,
        refuses=(429,),
        has_location=True,
    ),
    Operation(
        "POST /tasks/batch",
        "submit_tasks",
        {202: SubmittedTasks},
        body=BatchRequest,
        once=True,
        refuses=(429,),
    ),
    Operation("POST /tasks/cancel", "cancel_tasks", {200: BulkOutcome}, body=BulkRequest),
    Operation("POST /tasks/retry", "retry_tasks", {200: BulkOutcome}, body=BulkRequest),
    Operation("POST /tasks/delete", "delete_tasks", {200: BulkOutcome}, body=BulkRequest),
    Operation("GET /tasks/statistics", "get_task_statistics", {200: Statistics}, query=StatisticsQuery),
    Operation("GET /tasks/{task_id}", "get_task", {200: Task}),
    Operation("DELETE /tasks/{task_id}", "delete_task", {202: Task, 204: None}, refuses=(409,)),
    Operation("GET /tasks/{task_id}/status", "get_task_status", {200: TaskStatus}),
    Operation("GET /tasks/{task_id}/progress", "get_task_progress", {200: TaskStatus}),
    Operation("GET /tasks/{task_id}/result", "get_task_result", {200: TaskResult}, refuses=(409,)),
    Operation("GET /tasks/{task_id}/history", "get_task_history", {200: TaskHistory}, query=Paged),
    Operation("GET /tasks/{task_id}/attempts", "get_task_attempts", {200: TaskAttempts}, query=Paged),
    Operation("GET /tasks/{task_id}/logs", "get_task_logs", {200: TaskLogs}, query=Paged),
    Operation("GET /tasks/{task_id}/snapshots", "get_task_snapshots", {200: TaskSnapshots}, query=Paged),
    Operation(
        "GET /tasks/{task_id}/snapshot", "get_task_snapshot", {200: SnapshotState}, query=SnapshotQuery
    ),
    Operation("GET /tasks/{task_id}/graph", "get_task_graph", {200: Graph}),
    Operation(
        "GET /tasks/{task_id}/stream",
        "stream_task",
        {200: "text/event-stream", 204: None},
        query=StreamQuery,
        headers=AFTER_EVENT,
    ),
    Operation("POST /tasks/{task_id}/cancel", "cancel_task", {202: Task}, refuses=(409,)),
    Operation("POST /tasks/{task_id}/retry", "retry_task", {202: Task}, refuses=(409,)),
    Operation(
        "POST /tasks/{task_id}/recover", "recover_task", {202: Task}, body=Recovery | None, refuses=(409,)
    ),
    Operation(
        "POST /tasks/{task_id}/derivative",
        "derive_task",
        {202: Task},
        body=DerivativeRequest | None,
        once=True,
        refuses=(429,),
        has_location=True,
    ),
    Operation("GET /pipelines", "list_pipelines", {200: listing("pipelines", PipelineShape)}, query=Paged),
    Operation("GET /pipelines/{name}", "get_pipeline", {200: PipelineShape}),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    TaskRequest: {"task_type": "test", "payload": {"message": "hello"}, "priority": "high", "max_retries": 3},
    BatchRequest: {"tasks": [{"task_type": "test", "payload": {"number": number}} for number in (1, 2)]},
    BulkRequest: {"filter": {"status": "failed", "task_type": "test"}, "dry_run": True},
    Recovery: {"mode": "checkpoint"},
    DerivativeRequest: {"payload": {"message": "hello again"}},
}

#: What is no body itself, but a field of one.
PARTS = (TasksMeant,)
