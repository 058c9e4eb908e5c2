"""The root of Callboard's errors, and those of the record.

Every message says what is wrong and what to do next. ``code`` is the stable word that users see in
problem documents and in a task's ``error``.
"""

from collections.abc import Sequence
from uuid import UUID


class CallboardError(Exception):
    """The root of all errors that Callboard raises on purpose."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class SettingsError(CallboardError):
    """A setting is missing or has a value that cannot be used."""

    code = "bad_setting"


class InvalidField(CallboardError):
    """Input is refused. ``errors`` holds one ``(field, message)`` for each field that is wrong."""

    code = "invalid_field"

    def __init__(self, errors: Sequence[tuple[str, str]], *, code: str | None = None) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors), code=code)
        self.errors = tuple(errors)

    @classmethod
    def of(cls, field: str, message: str, *, code: str | None = None) -> "InvalidField":
        """Refuse a single field."""
        return cls([(field, message)], code=code)


class DependencyMissing(InvalidField):
    """The task ``task_id`` is to wait for one that does not exist."""

    def __init__(self, task_id: UUID) -> None:
        super().__init__([("depends_on", "names a task that does not exist: depend on tasks that do")])
        self.task_id = task_id


class NotFound(CallboardError):
    """There is no such thing, or it is another user's."""

    code = "not_found"


class Conflict(CallboardError):
    """The state of the thing does not allow what was asked."""

    code = "conflict"


class QueueFull(CallboardError):
    """The queue ``queue`` has no room for a submission; nothing was stored. Try again later."""

    code = "queue_full"

    def __init__(self, queue: str, *, room: int, asked: int) -> None:
        super().__init__(
            f"The queue {queue} has room for {room} more, and {asked} were submitted: nothing was stored."
            " Try again when some are done, or raise its max_size."
        )
        self.queue = queue


class Unavailable(CallboardError):
    """Postgres cannot be reached or cannot write; nothing was stored. Try again in a moment."""

    code = "unavailable"


class EmbeddedPostgresError(CallboardError):
    """The embedded Postgres could not be started or stopped."""

    code = "embedded_postgres"
