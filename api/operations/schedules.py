"""The operations on scheduled tasks."""

from typing import Any

from api.operations.model import Operation, listing
from api.schemas.common import Paged
from api.schemas.schedules import BackfillRequest, ScheduleChange, ScheduleRequest
from tasks.records import Task
from tasks.schedule_records import Backfilled, FireRecord, Schedule, ScheduleStats

#: All of it is for administrators.
ADMIN = (403,)

OPERATIONS = (
    Operation(
        "GET /scheduled-tasks",
        "list_schedules",
        {200: listing("scheduled_tasks", Schedule)},
        query=Paged,
        refuses=ADMIN,
    ),
    Operation(
        "POST /scheduled-tasks",
        "create_schedule",
        {201: Schedule},
        body=ScheduleRequest,
        refuses=(*ADMIN, 409),
        has_location=True,
    ),
    Operation("GET /scheduled-tasks/{name}", "get_schedule", {200: Schedule}, refuses=ADMIN),
    Operation(
        "PUT /scheduled-tasks/{name}",
        "update_schedule",
        {200: Schedule},
        body=ScheduleChange,
        refuses=(*ADMIN, 409),
    ),
    Operation("DELETE /scheduled-tasks/{name}", "delete_schedule", {204: None}, refuses=ADMIN),
    Operation("POST /scheduled-tasks/{name}/pause", "pause_schedule", {200: Schedule}, refuses=(*ADMIN, 409)),
    Operation(
        "POST /scheduled-tasks/{name}/resume", "resume_schedule", {200: Schedule}, refuses=(*ADMIN, 409)
    ),
    Operation(
        "POST /scheduled-tasks/{name}/run",
        "run_schedule",
        {202: Task},
        refuses=(*ADMIN, 422, 429),
        has_location=True,
    ),
    Operation(
        "POST /scheduled-tasks/{name}/backfill",
        "backfill_schedule",
        {200: Backfilled, 202: Backfilled},
        body=BackfillRequest,
        refuses=(*ADMIN, 429),
    ),
    Operation(
        "GET /scheduled-tasks/{name}/runs",
        "list_schedule_runs",
        {200: listing("runs", FireRecord)},
        query=Paged,
        refuses=ADMIN,
    ),
    Operation("GET /stats/schedules", "get_schedule_stats", {200: ScheduleStats}, refuses=ADMIN),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    ScheduleRequest: {
        "name": "hourly_report",
        "task_type": "report_generation",
        "cron_expr": "0 * * * *",
        "payload": {"report_type": "hourly"},
    },
    ScheduleChange: {"cron_expr": "*/30 * * * *"},
    BackfillRequest: {"from": "2026-02-01T00:00:00Z", "to": "2026-02-02T00:00:00Z", "dry_run": True},
}
