"""What tasks wait for: their time, others, or a worker that has what they need."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from tasks.allowances import Allowance, read_allowances
from tasks.models import WorkerRow
from tasks.states import QUEUED, SCHEDULED, WAITS
from tasks.values import announced, version_of


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A task, as far as it matters for what it waits for."""

    status: str
    task_type: str
    queue_name: str
    stage: str | None
    is_run: bool
    run_at: datetime | None
    version: str | None
    is_parked: bool

    @property
    def is_due(self) -> bool:
        """Whether it could run now. One that is scheduled without a time was sent back by a worker."""
        is_late = self.run_at is None or self.run_at <= datetime.now(UTC)
        return self.status == QUEUED or (self.status == SCHEDULED and is_late)

    def reason(self, served: "Served | None") -> str | None:
        """What it waits for; None if it is only a free worker, or if it does not wait."""
        lack = served.lack(self) if served is not None and self.is_due else None
        return lack or WAITS.get(self.status)


class Served:
    """Which queues and types the living workers serve, and what steered queues allow."""

    def __init__(self, workers: list[Any], allowances: dict[str, Allowance]) -> None:
        self._queues = {queue for worker in workers for queue in worker.queues}
        self._types = {name for worker in workers for name in worker.types}
        self._pipelines = {name.rpartition(".")[0] for name in self._types} | {
            name.partition("@")[0] for name in self._types if "@" in name
        }
        self._reasons = {name: one.reason for name, one in allowances.items()}

    @classmethod
    def read(cls, waits: Iterable[Waiting]) -> "Served | None":
        """What is served now, as far as it matters for some tasks; None: it does not matter for any.

        The models are bound and connected.
        """
        queues = {one.queue_name for one in waits if one.is_due}
        if not queues:
            return None
        workers = list(WorkerRow.select().where(WorkerRow.kind == "worker"))
        database = WorkerRow._meta.database
        return cls(workers, read_allowances(database.execute_sql, queues))

    def lack(self, task: Waiting) -> str | None:
        """What keeps a queued task waiting: others of its key, its queue, or the lack of a worker."""
        if task.is_parked:
            return "concurrency"
        if task.is_run:  # its stages are claimed, from queues of their own
            return self._lack_of_run(task)
        reason = self._reasons.get(task.queue_name)
        if reason is not None:  # there is, or was just now, somebody who starts what the queue lets start
            return reason
        if task.task_type not in self._types:
            return "no worker for its type"
        if self._lacks_version(task.task_type.removesuffix(f".{task.stage}"), task.version):
            return "no worker for its version"
        return None if task.queue_name in self._queues else "no worker for its queue"

    def _lack_of_run(self, task: Waiting) -> str | None:
        if task.task_type not in self._pipelines:
            return "no worker for its type"
        return "no worker for its version" if self._lacks_version(task.task_type, task.version) else None

    def _lacks_version(self, pipeline: str, version: str | None) -> bool:
        known = {name for name in self._types if name.startswith(f"{pipeline}@")}
        return version is not None and bool(known) and announced(pipeline, version) not in known


def waiting(row: Any) -> Waiting:
    """A row of a task with its state, as far as it matters for what it waits for."""
    return Waiting(
        status=row.state.status,
        task_type=row.task_type,
        queue_name=row.queue_name,
        stage=row.stage,
        is_run=row.state.queue is None,
        run_at=row.run_at,
        version=version_of(row.overrides),
        is_parked=row.state.parked,
    )
