"""The record as its users see it: `tasks.ledger` and `tasks.queries` on Postgres, `tasks.memory` without.

The same tests run over both (``tests/integration/test_record_contract.py``).
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol
from uuid import UUID

from tasks.records import Event, Page, Statistics, Task, TaskFilter, TaskPage
from tasks.values import (
    Accepted,
    Advance,
    Claimed,
    Complete,
    Joining,
    NewTask,
    Once,
    Reusable,
    RunState,
    TaskError,
    TaskType,
)
from tasks.windows import Window


class Verbs(Protocol):
    """The verbs of a ledger, except those that only RabbitMQ needs. See `tasks.ledger.Ledger`."""

    @property
    def owner(self) -> UUID:
        """The id under which it claims."""

    def submit(
        self,
        tasks: Sequence[NewTask],
        *,
        once: Once | None = None,
        asked: Sequence[UUID] = (),
        patience: float | None = None,
    ) -> Future[list[Accepted]]:
        """Record tasks, all or nothing."""

    def cancel(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Cancel a task and the stages of its run."""

    def retry(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Run a failed task again, with a new budget."""

    def delete(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Remove a task that is over."""

    def fetch(self, queues: Sequence[str], types: Sequence[str], limit: int) -> Future[list[Claimed]]:
        """Claim ready tasks."""

    def release(self, claim: Claimed, seconds: float = 0.0) -> Future[bool]:
        """Give a claim back without using up an attempt; it may be claimed again after ``seconds``."""

    def report(
        self,
        claim: Claimed,
        progress_: float,
        phase: str | None,
        message: str | None,
        details: dict[str, Any] | None = None,
    ) -> Future[bool]:
        """Record how far an attempt is."""

    def log(self, claim: Claimed, level: str, logger: str, message: str) -> Future[bool] | None:
        """Record a line that an attempt logged, unless too much waits already."""

    def checkpoint(self, claim: Claimed, version: int, state: Any) -> Future[bool]:
        """Save a state for the next attempt."""

    def complete(self, claim: Claimed, completion: Complete) -> Future[bool]:
        """Finish an attempt with its successors."""

    def fail(self, claim: Claimed, error: TaskError, *, retry_in: float | None) -> Future[bool]:
        """End an attempt with an error."""

    def lose(self, claim: Claimed, how: str) -> Future[bool]:
        """The process of its own that ran an attempt died."""

    def rescue(self, worker: UUID, *, died: bool = True) -> Future[int]:
        """Take everything back from a process."""

    def advance(self, decision: Advance) -> Future[bool]:
        """Apply what the flow decided for a run."""

    def hand_out(self, claim: Claimed, tasks: Sequence[NewTask]) -> Future[bool]:
        """Record tasks that an attempt hands out while it runs."""

    def promote(self) -> Future[int]:
        """Make due tasks ready."""

    def unblock(self) -> Future[int]:
        """Move blocked tasks that nothing holds back any more."""


class Questions(Protocol):
    """What can be asked of a record. See `tasks.queries.Queries`."""

    def task(self, task_id: UUID, *, owner: str | None = None) -> Task | None:
        """A task."""

    def tasks_by_id(self, ids: Sequence[UUID]) -> list[Task]:
        """These tasks, in this order."""

    def tasks(self, wanted: TaskFilter, page: Page) -> TaskPage:
        """A page of tasks, newest first."""

    def statistics(self, window: Window) -> Statistics:
        """How many tasks there were in a window, how they ended, and how long they took."""

    def history(self, task_id: UUID) -> list[Event]:
        """Every event of a task, oldest first."""

    def run(self, run_id: UUID) -> RunState | None:
        """A run and its stages."""

    def outputs(self, run_id: UUID, stage: str) -> dict[int, Any]:
        """The results of a stage of a run by the index of its tasks, in their order."""

    def kept_output(self, claim: Claimed, key: bytes) -> Reusable | None:
        """The output that is kept under a key, if it may answer for a claimed task."""

    def payloads(self, run_id: UUID, stage: str) -> list[Any]:
        """What the tasks of a stage of a run got, by their index."""

    def joining(self, run_id: UUID, stages: Sequence[str] | None = None) -> Joining:
        """How far some stages of a run are, or all of them."""

    def is_at_work(self, run_id: UUID) -> bool:
        """Whether a run goes on by itself."""

    def unsettled_runs(self, limit: int = 200) -> list[UUID]:
        """Runs that nothing will move by itself."""

    def task_types(self) -> dict[str, TaskType]:
        """Every type that some process has declared, with its queue."""

    def queue_names(self) -> list[str]:
        """The queues that exist, by name."""


class Hold(Protocol):
    """A named lock that is held; its ``fence`` is higher than that of every earlier holder."""

    @property
    def fence(self) -> int:
        """Which holder of the name this is."""

    def is_held(self) -> bool:
        """Whether it was not lost."""

    def release(self) -> None:
        """Give it back."""


class Locks(Protocol):
    """Named locks."""

    def try_hold(self, name: str) -> Hold | None:
        """The lock of a name, or None while others hold it."""
