"""How work runs: actors, the recorded call, broker, dispatch, clock; and how Python code asks for it."""

from actors.context import current_task
from actors.definitions import actor
from actors.errors import LockLost, LockNotAvailable, NotFinished, Permanent, RetryAfter, TaskFailed
from actors.executors import register
from actors.locks import lock
from actors.usage import (
    cancel,
    connect,
    count,
    delete,
    list_tasks,
    result,
    retry,
    statistics,
    status,
    submit,
    submit_many,
    wait,
)

__all__ = [
    "LockLost",
    "LockNotAvailable",
    "NotFinished",
    "Permanent",
    "RetryAfter",
    "TaskFailed",
    "actor",
    "cancel",
    "connect",
    "count",
    "current_task",
    "delete",
    "list_tasks",
    "lock",
    "register",
    "result",
    "retry",
    "statistics",
    "status",
    "submit",
    "submit_many",
    "wait",
]
