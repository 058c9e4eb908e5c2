"""Errors by which an actor tells the engine what to do with its task, and those of the engine itself."""

from tasks.errors import CallboardError
from tasks.records import Task


class ActorsError(CallboardError):
    """The root of the errors of this package."""


class Permanent(ActorsError):
    """Raised by an actor: trying again cannot help, so the task fails at once.

    ``code`` becomes the task's error code: ``raise Permanent("no such page", code="fetch_refused")``.
    """

    code = "actor_error"


class RetryAfter(ActorsError):
    """Raised by an actor: try again, but not before ``seconds`` have passed.

    What is no number of seconds (a `timedelta`) is refused where it is given: a TypeError or a ValueError.
    """

    code = "actor_error"

    def __init__(self, seconds: float, message: str = "asked to be tried again later") -> None:
        super().__init__(message)
        self.seconds = float(seconds)


class NotFinished(ActorsError):
    """The task is not over yet; ask again later, or wait for longer."""

    code = "conflict"


class TaskFailed(ActorsError):
    """The result of a task was asked for that has none: it failed, or was cancelled. ``task`` tells more."""

    def __init__(self, task: Task) -> None:
        error = task.error or {"code": task.status, "message": f"it was {task.status}"}
        super().__init__(f"task {task.task_id} has no result: {error['message']}", code=error["code"])
        self.task = task


class LockNotAvailable(ActorsError):
    """Others held a lock for as long as its holder was willing to wait; the task is tried again."""

    code = "lock_timeout"


class LockLost(ActorsError):
    """A lock was lost with its connection: stop, others may hold it by now. The task is tried again."""

    code = "lock_lost"


class DefinitionError(ActorsError):
    """An actor or a pipeline is declared in a way that cannot work; raised when it is declared."""

    code = "bad_definition"


class BrokerError(ActorsError):
    """RabbitMQ cannot be reached or refused an operation. Work waits in Postgres meanwhile."""

    code = "broker_unavailable"
