"""Tasks from Python: ``from actors import submit, wait, result``. The verbs of the process's current board.

The current board is the innermost of those that were entered (``with connect() as board:``), in a worker its
own; without one the first call opens one by the environment's settings, which is closed at exit.
"""

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from actors.board import CREATED_BY, Board, TaskId, entered
from actors.submission import Submittable
from tasks.records import Statistics, Task, TaskPage


class _Default:
    """The board that the first call opens when nobody has entered one."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    def get(self) -> Board:
        """The one of this process: a fork opens its own, connections and threads stay with its parent."""
        with self._lock:
            if self._board is None or self._process != os.getpid():
                self._board, self._process = _open(), os.getpid()
                atexit.register(_close, self._board, self._process)
            return self._board


_default = _Default()


def current_board() -> Board:
    """The board that `submit` and the others use."""
    return entered[-1] if entered else _default.get()


def connect(database_url: str | None = None) -> Board:
    """Open a board: ``with connect() as board:`` makes it the current one, and closes it in the end.

    ``database_url`` goes before CALLBOARD_DATABASE_URL; without either, Callboard's own Postgres is used. A
    process has one such board at a time.

    Raises:
      CallboardError: a setting is wrong, Postgres cannot be reached, or a module cannot be loaded.
    """
    return _open(database_url)


def submit(
    what: Submittable | str,
    payload: Any = msgspec.UNSET,
    *,
    task_id: TaskId | None = None,
    created_by: str = CREATED_BY,
    **asked: Any,
) -> Task:
    """Submit a task of a type, an actor or a pipeline (see `Board.submit`)."""
    return current_board().submit(what, payload, task_id=task_id, created_by=created_by, **asked)


def submit_many(items: Sequence[Mapping[str, Any]], *, created_by: str = CREATED_BY) -> list[Task]:
    """Submit many tasks, all or nothing (see `Board.submit_many`)."""
    return current_board().submit_many(items, created_by=created_by)


def status(task_id: TaskId) -> Task:
    """The task as it is now (see `Board.status`)."""
    return current_board().status(task_id)


def result(task_id: TaskId) -> Any:
    """What a completed task returned (see `Board.result`)."""
    return current_board().result(task_id)


def wait(task_id: TaskId, timeout: float | None = None) -> Task:
    """Wait until a task is over (see `Board.wait`)."""
    return current_board().wait(task_id, timeout)


def cancel(task_id: TaskId) -> Task:
    """Cancel a task (see `Board.cancel`)."""
    return current_board().cancel(task_id)


def retry(task_id: TaskId) -> Task:
    """Run a failed task again (see `Board.retry`)."""
    return current_board().retry(task_id)


def delete(task_id: TaskId) -> None:
    """Remove a task that is over (see `Board.delete`)."""
    current_board().delete(task_id)


def list_tasks(**filters: Any) -> TaskPage:
    """A page of tasks, newest first (see `Board.list_tasks`)."""
    return current_board().list_tasks(**filters)


def count(**filters: Any) -> int:
    """How many tasks fit ``filters`` (see `Board.count`)."""
    return current_board().count(**filters)


def statistics(
    since: datetime | None = None, until: datetime | None = None, *, user_id: str | None = None
) -> Statistics:
    """How many tasks there were, how they ended and how long they took (see `Board.statistics`)."""
    return current_board().statistics(since, until, user_id=user_id)


def _close(board: Board, process: int) -> None:
    if os.getpid() == process:  # a fork would say goodbye on its parent's connections
        board.close()


def _open(database_url: str | None = None) -> Board:
    # What talks to Postgres takes long to import, and most who import `actors` only define some.
    from actors.opening import open_board

    return open_board(database_url)
