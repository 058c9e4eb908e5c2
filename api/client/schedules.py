"""The methods of the client for schedules."""

from datetime import datetime
from typing import Any
from urllib.parse import quote

from api.client.answers import converted, read
from api.client.requests import Requests
from tasks.records import Task
from tasks.schedule_records import Backfilled, FireRecord, Schedule, ScheduleStats

_SCHEDULES = "/scheduled-tasks"
# Up to 1,000 tasks are submitted at once.
_PATIENT = 60.0


class ScheduleVerbs(Requests):
    """What can be done with schedules."""

    def schedules(self) -> list[Schedule]:
        """Return all schedules, by name."""
        return list(self._all(_SCHEDULES, "scheduled_tasks", Schedule))

    def schedule(self, name: str) -> Schedule:
        """Return one schedule, with its next times."""
        return read(self._get(_path(name)), Schedule)

    def create_schedule(self, name: str, task_type: str, cron_expr: str, **fields: Any) -> Schedule:
        """Make a schedule; ``fields`` are those of the contract: ``payload``, ``timezone``, ``overlap``..."""
        body = {"name": name, "task_type": task_type, "cron_expr": cron_expr, **fields}
        return read(self._post(_SCHEDULES, body), Schedule)

    def update_schedule(self, name: str, **fields: Any) -> Schedule:
        """Change what is given of a schedule; the rest stays."""
        return read(self._send("PUT", _path(name), json=fields), Schedule)

    def delete_schedule(self, name: str) -> None:
        """Remove a schedule; its tasks stay."""
        self._send("DELETE", _path(name))

    def pause_schedule(self, name: str) -> Schedule:
        """Let a schedule submit nothing until it is resumed."""
        return read(self._post(_path(name) + "/pause"), Schedule)

    def resume_schedule(self, name: str) -> Schedule:
        """Let a schedule go on from now."""
        return read(self._post(_path(name) + "/resume"), Schedule)

    def run_schedule(self, name: str) -> Task:
        """Submit the task of a schedule at once, and return it."""
        return read(self._post(_path(name) + "/run"), Task)

    def backfill_schedule(
        self, name: str, since: datetime, until: datetime, *, dry_run: bool = False
    ) -> Backfilled:
        """Submit the task for each fire time of a range that had none; with ``dry_run`` only tell which."""
        body = {"from": since.isoformat(), "to": until.isoformat(), "dry_run": dry_run}
        return read(self._post(_path(name) + "/backfill", body, patience=_PATIENT), Backfilled)

    def schedule_runs(self, name: str, *, limit: int = 20, offset: int = 0) -> list[FireRecord]:
        """Return what became of the fire times of a schedule, the newest first."""
        answer = self._get(_path(name) + "/runs", {"limit": limit, "offset": offset})
        return converted(read(answer, dict[str, Any]).get("runs"), list[FireRecord], answer.url)

    def schedule_stats(self) -> ScheduleStats:
        """Return all schedules in numbers."""
        return read(self._get("/stats/schedules"), ScheduleStats)


def _path(name: str) -> str:
    return f"{_SCHEDULES}/{quote(name, safe='')}"
