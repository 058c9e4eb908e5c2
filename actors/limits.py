"""How many tasks of a type run at once: the path that a policy declares, and a task's key by it."""

import hashlib
import re
from typing import Any, Protocol

import msgspec

from tasks.values import NewTask

#: What keys can be taken from: fields of a task, and what is in its payload.
FIELDS = ("user_id", "project_id", "kb_id")
PATH = re.compile(rf"(?:{'|'.join(FIELDS)}|payload(?:\.[\w-]{{1,100}}){{0,10}})")
MOST_AT_ONCE = 1_000_000
#: A longer key is kept as its digest, in bytes.
MOST_KEY = 200


class Limited(Protocol):
    """What may say how many of its tasks run at once: a policy, or a type that only others know."""

    @property
    def concurrency(self) -> int | None:
        """How many; None: any number."""

    @property
    def concurrency_key(self) -> str | None:
        """The path to what those have in common that are counted together; None: all of the type are."""


def check_path(path: str, concurrency: int | None) -> None:
    """Check a path where it is declared.

    Raises:
      ValueError: it leads nowhere, or nothing is limited.
    """
    if not PATH.fullmatch(path):
        raise ValueError(
            f"concurrency_key is one of {', '.join(FIELDS)}, or a place in the payload such as"
            f" payload.customer.id, not {path!r}"
        )
    if concurrency is None:
        raise ValueError(f"concurrency_key={path!r} limits nothing alone: say how many with concurrency=…")


def limited(task: NewTask, policy: Limited) -> NewTask:
    """The task with the limit of its type, if that has one and the task something at its path."""
    if policy.concurrency is None:
        return task
    key = task.task_type
    if policy.concurrency_key is not None:
        value = _at(task, policy.concurrency_key)
        if value in (None, ""):
            return task
        key = _named(key, msgspec.json.encode(value, order="sorted"))
    return msgspec.structs.replace(task, concurrency=policy.concurrency, concurrency_key=key)


def _at(task: NewTask, path: str) -> Any:
    """What a task has at a path; None if there is nothing."""
    field, *names = path.split(".")
    value = getattr(task, field)
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _named(task_type: str, value: bytes) -> str:
    if len(value) > MOST_KEY:
        return f"{task_type} {hashlib.sha256(value).hexdigest()}"
    return f"{task_type} {value.decode()}"
