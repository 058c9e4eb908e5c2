"""What a ledger is asked by who steers queues; a part of `tasks.ledger.Ledger`."""

from concurrent.futures import Future

from tasks.ledger import queues
from tasks.ledger.group import Group
from tasks.records import Queue


class Steering:
    """Making, changing, pausing and deleting queues. What is changed counts for whatever is claimed next."""

    _group: Group

    def define_queue(
        self, settings: queues.Define, *, patience: float | None = None
    ) -> Future[queues.Defined]:
        """Make a queue, or change the settings of an existing one."""
        return self._group.add("define", settings, patience=patience)

    def change_queue(self, settings: queues.Change, *, patience: float | None = None) -> Future[Queue | None]:
        """Change a queue that is there, or take limits away from it; None if it is not there."""
        return self._group.add("change", settings, patience=patience)

    def pause_queue(self, name: str, *, patience: float | None = None) -> Future[Queue | None]:
        """Let no more tasks of a queue start; None if it is not there.

        What is being claimed at this moment may still start: `tasks.queues.QueueQueries.wait_for_claims`.
        """
        return self._group.add("switch", queues.Switch(name, True), patience=patience)

    def resume_queue(self, name: str, *, patience: float | None = None) -> Future[Queue | None]:
        """Let the tasks of a paused queue start again; None if it is not there."""
        return self._group.add("switch", queues.Switch(name, False), patience=patience)

    def delete_queue(self, name: str, *, patience: float | None = None) -> Future[bool]:
        """Delete a queue; False if it is not there.

        Raises (from the future):
          Conflict: it has unfinished tasks, or open dead letters.
        """
        return self._group.add("drop", queues.Drop(name), patience=patience)

    def adopt_queues(self) -> Future[int]:
        """Make queues again that were deleted while a task was on its way into them: how many."""
        return self._group.add("adopt", queues.Adopt())
