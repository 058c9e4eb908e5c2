"""The operators' verbs of the client: for one task, and for all that match."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec

from api.client.answers import read
from api.client.requests import Requests
from api.schemas.tasks import BulkOutcome
from tasks.records import Task

TaskId = UUID | str
# A request for many tasks works on them for some seconds.
_PATIENT = 60.0


def task_path(task_id: TaskId) -> str:
    """Where a task is found, below the prefix."""
    return f"/tasks/{quote(str(task_id), safe='')}"


class Verbs(Requests):
    """What operators do with tasks."""

    def retry(self, task_id: TaskId) -> Task:
        """Run a failed task again, with a new budget of attempts."""
        return read(self._post(task_path(task_id) + "/retry"), Task)

    def recover(self, task_id: TaskId, mode: str | None = None, **how: Any) -> Task:
        """Run a task that is over again; ``how``: ``stage``, ``output`` or ``version``."""
        body = how if mode is None else {"mode": mode, **how}
        return read(self._post(task_path(task_id) + "/recover", body), Task)

    def derivative(
        self,
        task_id: TaskId,
        payload: Any = msgspec.UNSET,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Task:
        """Submit a new task made from this one; ``payload`` is merged into its payload (RFC 7396)."""
        body = fields if payload is msgspec.UNSET else {"payload": payload, **fields}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return read(self._post(task_path(task_id) + "/derivative", body, headers=headers), Task)

    def delete(self, task_id: TaskId) -> Task | None:
        """Remove a task that is over (None); one that is not is cancelled and returned."""
        answer = self._send("DELETE", task_path(task_id))
        return read(answer, Task) if answer.content else None

    def cancel_many(self, *, dry_run: bool = False, **filters: Any) -> BulkOutcome:
        """Cancel all tasks that match; ``filters`` are those of `tasks`. Ask again while there is more."""
        return self._many("cancel", filters, dry_run)

    def retry_many(self, *, dry_run: bool = False, **filters: Any) -> BulkOutcome:
        """Retry all failed tasks that match."""
        return self._many("retry", filters, dry_run)

    def delete_many(self, *, dry_run: bool = False, **filters: Any) -> BulkOutcome:
        """Remove all tasks that match and are over."""
        return self._many("delete", filters, dry_run)

    def _many(self, verb: str, filters: Mapping[str, Any], dry_run: bool) -> BulkOutcome:
        given = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in filters.items()
            if value is not None
        }
        answer = self._post(f"/tasks/{verb}", {"filter": given, "dry_run": dry_run}, patience=_PATIENT)
        return read(answer, BulkOutcome)
