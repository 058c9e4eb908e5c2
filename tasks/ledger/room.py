"""Room in queues: a queue with a max_size refuses submissions while so many tasks wait in it.

Whole tasks take room: a plain one while it waits (scheduled, blocked, queued, retrying), a run until it is
over. Stages, retries and replays are never refused, so there may be more than max_size.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from tasks.errors import QueueFull
from tasks.ledger.locks import try_lock
from tasks.ledger.transaction import SKIPPED, Transaction
from tasks.values import NewTask

_LIMITED = "SELECT name FROM queues WHERE name = ANY(%s) AND max_size IS NOT NULL"

# Counted no further than to the limit.
_LEFT = """
SELECT q.name, q.max_size
    - (SELECT count(*) FROM (
        SELECT FROM task_state s WHERE s.queue = q.name AND NOT s.is_stage
        AND s.status IN ('scheduled', 'blocked', 'queued', 'retrying') LIMIT q.max_size) AS waiting)
    - (SELECT count(*) FROM (
        SELECT FROM task_state s WHERE s.run_queue = q.name
        AND s.status IN ('scheduled', 'blocked', 'queued', 'running') LIMIT q.max_size) AS runs)
FROM queues q WHERE q.name = ANY(%s) AND q.max_size IS NOT NULL"""

_RECORDED = "SELECT id FROM tasks WHERE id = ANY(%s)"


class NoLimits:
    """No queue has a limit: there is room for everything."""

    def objection(self, tasks: Sequence[NewTask]) -> object | None:
        """There is none."""
        return None


class Rooms(NoLimits):
    """How much room the limited queues of a transaction's submissions have left, locked against others."""

    def __init__(self, tx: Transaction, tasks: Sequence[NewTask]) -> None:
        names = sorted(entered(tasks))
        self._limited = {row[0] for row in tx.rows(_LIMITED, names)} if names else set()
        self._left: dict[str, int] = {}
        self._recorded: set[UUID] = set()
        if self._limited:
            locked = try_lock(tx, {lock_of(name) for name in self._limited})
            held = [name for name in self._limited if lock_of(name) in locked]
            self._left = dict(tx.rows(_LEFT, held))
            # After a commit of unknown outcome they are there, and are counted, already.
            ids = [task.id for task in tasks if task.run_id is None and task.queue_name in self._limited]
            self._recorded = {row[0] for row in tx.rows(_RECORDED, ids)}

    def objection(self, tasks: Sequence[NewTask]) -> object | None:
        """Take the room that a submission needs, all or nothing.

        Why it cannot: QueueFull, or SKIPPED while another process submits to one of its limited queues.
        """
        if not self._limited:
            return None
        needed = Counter(
            task.queue_name
            for task in tasks
            if task.run_id is None and task.queue_name in self._limited and task.id not in self._recorded
        )
        if needed.keys() - self._left.keys():
            return SKIPPED
        for name, count in needed.items():
            if count > self._left[name]:
                return QueueFull(name, room=max(self._left[name], 0), asked=count)
        for name, count in needed.items():
            self._left[name] -= count
        return None


def entered(tasks: Iterable[NewTask]) -> set[str]:
    """The queues in which tasks take room."""
    return {task.queue_name for task in tasks if task.run_id is None}


def lock_of(queue: str) -> str:
    """The lock on the settings and the room of a queue."""
    return f"queue {queue}"
