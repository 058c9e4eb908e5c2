"""The verbs of schedules."""

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from uuid import UUID

from tasks.ledger import fires, schedules
from tasks.ledger.group import Group
from tasks.values import Accepted


class Scheduling:
    """What a ledger is asked about schedules; a part of `tasks.ledger.Ledger`."""

    _group: Group

    def make_schedule(self, item: schedules.Make, *, patience: float | None = None) -> Future[str]:
        """Make a schedule: "done", or "exists"."""
        return self._group.add("make_schedule", item, patience=patience)

    def change_schedule(self, item: schedules.Change, *, patience: float | None = None) -> Future[str]:
        """Change a schedule of a version: "done", "changed" or "missing"."""
        return self._group.add("change_schedule", item, patience=patience)

    def remove_schedule(self, schedule: UUID, *, patience: float | None = None) -> Future[str]:
        """Remove a schedule: "done" or "missing"."""
        return self._group.add("remove_schedule", schedules.Remove(schedule), patience=patience)

    def fire(self, plans: Sequence[fires.Firing]) -> Future[int]:
        """Fire schedules as planned: how many; the plan of the others does not hold any more, or not now."""
        rows = sum(len(one.tasks) for plan in plans for one in plan.fires)
        return self._group.add("fire", plans, rows=max(1, rows))

    def run_schedule(
        self, schedule: UUID, fire: fires.Fire, *, patience: float | None = None
    ) -> Future[Accepted | str]:
        """Run a schedule's task now; "missing" if there is no such schedule.

        Raises (from the future):
          QueueFull: its queue has no room.
        """
        return self._group.add("run_schedule", fires.RunNow(schedule, fire), patience=patience)

    def backfill(
        self, schedule: UUID, missed: Sequence[fires.Fire], *, patience: float | None = None
    ) -> Future[list[datetime] | str]:
        """Run what was not run at these fire times: those that were; "missing" if there is no such schedule.

        Raises (from the future):
          QueueFull: its queue has no room for all; none was run.
        """
        item = fires.Backfill(schedule, missed)
        rows = sum(len(one.tasks) for one in missed)
        return self._group.add("backfill", item, rows=rows, patience=patience)

    def forget_fires(self, seconds: float) -> Future[int]:
        """Forget a batch of what became of fire times so many seconds ago: how many."""
        return self._group.add("forget_fires", fires.Forget(seconds), rows=fires.FORGOTTEN_AT_ONCE)
