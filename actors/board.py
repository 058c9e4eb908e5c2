"""The board: tasks from Python, without HTTP. The same fields, the same checks and the same errors."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

import msgspec

from actors import fields
from actors.context import running_here
from actors.errors import ActorsError, NotFinished, TaskFailed
from actors.kept import as_kept
from actors.registry import makes_tasks
from actors.requests import SYNONYMS, FilterRequest, TaskRequest, filter_of, in_utc, order_of, prefixed
from actors.submission import Submission, Submittable, asked_for
from tasks.errors import Conflict, DependencyMissing, InvalidField, NotFound, Unavailable
from tasks.ids import parse_id
from tasks.ports import Locks, Questions, Verbs
from tasks.records import Event, Page, Statistics, Task, TaskPage
from tasks.states import COMPLETED, FINAL
from tasks.values import NewTask
from tasks.windows import Window

T = TypeVar("T")
TaskId = UUID | str
#: Whose task a task is said to be from, unless the caller says so.
CREATED_BY = "system"
PATIENCE_SECONDS = 5.0
FIRST_LOOK, LAST_LOOK, GROWTH = 0.005, 0.25, 1.5


class Bell(Protocol):
    """What wakes those who wait for a task. A hint only: who waits looks now and then, too."""

    def listen(self) -> None:
        """Begin to listen, if nobody did yet."""

    def wait(self, task_id: UUID, seconds: float) -> None:
        """Return when something may have happened to a task, after ``seconds`` at the latest."""


class Sleeping:
    """The bell of a process that hears of nothing."""

    def listen(self) -> None:
        """There is nothing to hear."""

    def wait(self, task_id: UUID, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


class Board:
    """The verbs of a record for Python code. Any thread may use it; `close` it, or use ``with``.

    An id is a UUID or its text. Errors are those of `tasks.errors`: InvalidField, NotFound, Conflict,
    Unavailable. While it is entered it is the one that `actors.submit` and the others use.
    """

    def __init__(
        self,
        submission: Submission,
        ledger: Verbs,
        queries: Questions,
        bell: Bell | None = None,
        locks: Locks | None = None,
    ) -> None:
        self._submission = submission
        self._ledger = ledger
        self._queries = queries
        self._bell = bell or Sleeping()
        self._locks = locks

    @property
    def locks(self) -> Locks:
        """The locks on names (see `actors.locks`).

        Raises:
          ActorsError: this board has none.
        """
        if self._locks is None:
            raise ActorsError("This board has no locks: connect() to a database, or use in_memory().")
        return self._locks

    # --- asking for work -------------------------------------------------------------------------

    def submit(
        self,
        what: Submittable | str,
        payload: Any = msgspec.UNSET,
        *,
        task_id: TaskId | None = None,
        created_by: str = CREATED_BY,
        **asked: Any,
    ) -> Task:
        """Submit a task of a type, an actor or a pipeline, and return it.

        ``asked`` are the fields of ``POST /tasks``: ``priority``, ``delay``, ``depends_on``, ``queue_name``…
        A ``task_id`` of the caller's own makes it safe to repeat: the task that has it is the answer.

        Raises:
          InvalidField: a field or the payload cannot be used, or the type is unknown.
        """
        given = {**asked, "task_type": what, "payload": payload, "task_id": task_id}
        return self._submit([self._prepare(given, created_by)])[0]

    def submit_many(self, items: Sequence[Mapping[str, Any]], *, created_by: str = CREATED_BY) -> list[Task]:
        """Submit many tasks, all or nothing; an item has the arguments of `submit` and a ``task_type``.

        Raises:
          InvalidField: an item cannot be used; its fields are named ``tasks[i].…``.
        """
        prepared = []
        for at, item in enumerate(items):
            try:
                prepared.append(self._prepare(item, created_by))
            except InvalidField as error:
                raise prefixed(error, f"tasks[{at}].") from None
        try:
            return self._submit(prepared) if prepared else []
        except DependencyMissing as error:
            at = next(at for at, one in enumerate(prepared) if error.task_id in [task.id for task in one])
            raise prefixed(error, f"tasks[{at}].") from None

    def cancel(self, task_id: TaskId) -> Task:
        """Cancel a task and the stages of its run; cancelling it again changes nothing.

        Raises:
          Conflict: it is over.
        """
        known = self.status(task_id).task_id
        if self._committed(lambda: self._ledger.cancel(known, patience=PATIENCE_SECONDS)) == "finished":
            raise Conflict("The task is over and cannot be cancelled any more.")
        return self.status(known)

    def retry(self, task_id: TaskId) -> Task:
        """Run a failed task again, with a new budget of attempts; a run goes on from its failed stage.

        Raises:
          Conflict: it has not failed, or it is a stage of a run that is over.
        """
        known = self.status(task_id).task_id
        outcome = self._committed(lambda: self._ledger.retry(known, patience=PATIENCE_SECONDS))
        task = self.status(known)
        if outcome == "not_failed":
            raise Conflict(f"The task is {task.status}: only one that has failed can be retried.")
        if outcome == "run_is_over":
            raise Conflict(f"The run of this stage is over: see its run {task.run_id}.")
        return task

    def delete(self, task_id: TaskId) -> None:
        """Remove a task that is over from the record, a run with its stages.

        Raises:
          Conflict: it is not over, or it is a stage.
        """
        task = self.status(task_id)
        outcome = self._committed(lambda: self._ledger.delete(task.task_id, patience=PATIENCE_SECONDS))
        if outcome == "unfinished":
            raise Conflict("The task is not over: cancel it first, or wait for it.")
        if outcome == "stage":
            raise Conflict(f"This is a stage: delete its run {task.run_id}.")

    # --- looking ---------------------------------------------------------------------------------

    def status(self, task_id: TaskId) -> Task:
        """The task as it is now.

        Raises:
          NotFound: there is none with this id.
        """
        known = _known(task_id)
        task = self._ask(lambda: self._queries.task(known))
        if task is None:
            raise _no_task(task_id)
        return task

    def result(self, task_id: TaskId) -> Any:
        """What a completed task returned.

        Raises:
          NotFinished: it is not over.
          TaskFailed: it failed or was cancelled.
        """
        task = self.status(task_id)
        if task.status not in FINAL:
            raise NotFinished(f"The task is {task.status}: wait for it before asking for its result.")
        if task.status != COMPLETED:
            raise TaskFailed(task)
        return task.result

    def wait(self, task_id: TaskId, timeout: float | None = None) -> Task:
        """Wait until a task is over and return it, whatever became of it. ``timeout`` is in seconds.

        Raises:
          NotFinished: it was not over in time; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        interval = FIRST_LOOK
        self._ask(self._bell.listen)
        while (task := self.status(task_id)).status not in FINAL:
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            if left <= 0:
                raise NotFinished(f"Task {task_id} is still {task.status} after {timeout:g} s; it goes on.")
            self._bell.wait(task.task_id, left)
            interval = min(interval * GROWTH, LAST_LOOK)
        return task

    def history(self, task_id: TaskId) -> list[Event]:
        """Every event of a task, oldest first."""
        known = self.status(task_id).task_id
        return self._ask(lambda: self._queries.history(known))

    def list_tasks(
        self, *, limit: int = 20, offset: int = 0, cursor: str | None = None, **filters: Any
    ) -> TaskPage:
        """A page of tasks, newest first. ``filters`` are those of ``GET /tasks``: ``status``, ``task_type``…

        ``status`` takes several states by commas, and ``pending`` or ``processing`` for groups of them.

        Raises:
          InvalidField: a filter is unknown or has a value that cannot be used.
        """
        wanted = filter_of(fields.read(FilterRequest, _kept(filters)))
        page = fields.read(Page, {"limit": limit, "offset": offset, "cursor": cursor})
        return self._ask(lambda: self._queries.tasks(wanted, page))

    def count(self, **filters: Any) -> int:
        """How many tasks there are that fit ``filters`` (see `list_tasks`); exact up to 10,000."""
        return self.list_tasks(limit=1, **filters).total

    def statistics(
        self, since: datetime | None = None, until: datetime | None = None, *, user_id: str | None = None
    ) -> Statistics:
        """How many tasks were created in [since, until), how they ended and how long they took.

        ``user_id`` is whose tasks count, None: everybody's.
        """
        window = Window(since=in_utc(since, "since"), until=in_utc(until, "until"), user=user_id)
        return self._ask(lambda: self._queries.statistics(window))

    # --- the board itself ------------------------------------------------------------------------

    def close(self) -> None:
        """Give back what this board has opened; by itself it has opened nothing."""

    def __enter__(self) -> Self:
        entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        entered.remove(self)
        self.close()

    # --- how it is done --------------------------------------------------------------------------

    def _prepare(self, item: Mapping[str, Any], created_by: str) -> list[NewTask]:
        given = {SYNONYMS.get(name, name): value for name, value in item.items()}
        what, task_id = given.pop("task_type", None), given.pop("task_id", None)
        of = None if what is None or isinstance(what, str) else what
        if of is not None:
            if not makes_tasks(of):
                raise InvalidField.of("task_type", "must be a type's name, an actor or a pipeline")
            what = of.name
        request = fields.read(TaskRequest, _kept({**given, "task_type": what}))
        order = order_of(request, user_id=request.user_id or "", created_by=created_by)
        if task_id is not None:
            order = msgspec.structs.replace(order, id=_own(task_id))
        return self._ask(lambda: self._submission.prepare(order, of))

    def _submit(self, prepared: Sequence[list[NewTask]]) -> list[Task]:
        """Record what is new of it; an id or a unique key on record is answered with the task that has it."""
        ids = [tasks[0].id for tasks in prepared]
        there = {task.task_id for task in self._ask(lambda: self._queries.tasks_by_id(ids))}
        new = [tasks for tasks in prepared if tasks[0].id not in there]
        if new:
            committed = self._committed(lambda: self._submission.record(new, patience=PATIENCE_SECONDS))
            answers = zip(new, asked_for(new, committed), strict=False)
            answered = {tasks[0].id: accepted.id for tasks, accepted in answers}
            ids = [answered.get(one, one) for one in ids]
        found = self._ask(lambda: self._queries.tasks_by_id(ids))
        if len(found) < len(ids):
            raise Conflict("A task that a key stands for was removed meanwhile: take a new key.")
        return found

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask something; inside an actor no interrupt may hit it half-way."""
        current = running_here()
        return question() if current is None else current.shielded(question)

    def _committed(self, verb: Callable[[], "Future[T]"]) -> T:
        """Call a verb and wait for its commit."""
        answer = self._ask(verb)
        current = running_here()
        try:
            if current is not None:
                return current.wait_for(answer, PATIENCE_SECONDS)
            return answer.result(PATIENCE_SECONDS)
        except TimeoutError:
            raise Unavailable("Postgres does not answer, whether this was stored is not known yet.") from None


#: The boards of this process that were entered and not left, the current one last.
entered: list[Board] = []


def _kept(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON keeps them; what was not given is left out.

    Raises:
      InvalidField: a value cannot be kept.
    """
    kept = {}
    for name, value in given.items():
        if value is not msgspec.UNSET:
            try:
                kept[name] = as_kept(value)
            except ValueError as error:
                raise InvalidField.of(name, str(error)) from None
    return kept


def _own(task_id: object) -> UUID:
    own = task_id if isinstance(task_id, UUID) else parse_id(str(task_id))
    if own is None:
        raise InvalidField.of("task_id", "must be a UUID")
    return own


def _known(task_id: TaskId) -> UUID:
    known = task_id if isinstance(task_id, UUID) else parse_id(str(task_id))
    if known is None:
        raise _no_task(task_id)
    return known


def _no_task(task_id: object) -> NotFound:
    return NotFound(f"There is no task {str(task_id)[:100]}: list_tasks() gives those there are.")
