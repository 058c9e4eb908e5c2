"""Submitting: from what a caller asks for to the tasks that are recorded."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from actors.limits import limited
from tasks.errors import InvalidField
from tasks.ids import new_id
from tasks.names import check_callback_url, check_queue, check_unique_key
from tasks.ports import Questions, Verbs
from tasks.values import Accepted, NewTask, Once, TaskType

REFRESH_SECONDS = 1.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for; None leaves it to the type's policy. ``delay`` and ``timeout`` are seconds.

    Of a pipeline, ``max_retries``, ``timeout`` and ``backoff`` hold for every stage, and go before the
    stages' own policies. Of all tasks of a ``user_id`` with the same ``unique_key`` there is one.
    """

    task_type: str
    payload: Any = msgspec.field(default_factory=dict)
    id: UUID = msgspec.field(default_factory=new_id)
    queue_name: str | None = None
    priority: int = 5
    max_retries: int | None = None
    backoff: dict[str, Any] | None = None
    timeout: float | None = None
    delay: float | None = None
    run_at: datetime | None = None
    user_id: str = ""
    project_id: str | None = None
    kb_id: str | None = None
    created_by: str = "system"
    tags: tuple[str, ...] = ()
    depends_on: tuple[UUID, ...] = ()
    on_dependency_failure: str = "fail"
    unique_key: str | None = None
    callback_url: str | None = None
    parent_id: UUID | None = None


class Defaults(msgspec.Struct, frozen=True):
    """What an order and a policy leave open. ``timeout`` is in seconds."""

    max_retries: int = 3
    timeout: float = 300.0


class Submittable(Protocol):
    """What can be asked for as a task: an actor, or a pipeline."""

    @property
    def name(self) -> str:
        """The type of its tasks."""

    def tasks(self, order: Order, defaults: Defaults) -> list[NewTask]:
        """The tasks of an order: the one that was asked for comes first, a run's first stages follow it.

        Raises:
          InvalidField: the payload does not fit.
        """


class Types(Protocol):
    """The types that this process knows."""

    def get(self, name: str) -> Submittable | None:
        """What is asked for by a name, or None."""


class Gatekeeper(Protocol):
    """Who knows which URLs may be called."""

    def check(self, url: str) -> object:
        """Refuse a URL that may not be called.

        Raises:
          ValueError: why; the message goes on after the name of a field, and does not repeat the URL.
        """


#: Checks an order of one type against the world (files, knowledge bases) and may complete its payload.
Check = Callable[[Order], Any]


class Submission:
    """Turns orders into tasks and records them."""

    def __init__(
        self,
        catalogue: Types,
        ledger: Verbs,
        queries: Questions,
        defaults: Defaults,
        checks: Mapping[str, Check] | None = None,
        callbacks: Gatekeeper | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._queries = queries
        self._defaults = defaults
        self._checks = dict(checks or {})
        self._callbacks = callbacks
        self._declared: dict[str, TaskType] = {}
        self._declared_at = -REFRESH_SECONDS

    def prepare(self, order: Order, of: Submittable | None = None) -> list[NewTask]:
        """The tasks of an order: one, or a run and its first stage. Reads, but records nothing.

        ``of`` is what is asked for, if the caller has it in hand; else it is found by the order's type. A
        pipeline that only other processes know is a run without stages: a clock that knows it begins it.

        Raises:
          InvalidField: the type is unknown (code unknown_task_type), or the payload does not fit it.
        """
        _check_names(order, self._callbacks)
        if order.task_type in self._checks:
            payload = self._checks[order.task_type](order)
            order = msgspec.structs.replace(order, payload=payload)
        known = of or self._catalogue.get(order.task_type)
        if known is not None:
            return known.tasks(order, self._defaults)
        elsewhere = self._declared_elsewhere(order.task_type)
        task = task_of(order, self._defaults, elsewhere.queue_name, is_run=elsewhere.is_pipeline)
        return [limited(task, elsewhere)]

    def record(
        self, prepared: Sequence[Sequence[NewTask]], *, once: Once | None = None, patience: float | None = 2.0
    ) -> Future[list[Accepted]]:
        """Commit prepared orders, all or nothing; the first task of each is the one that was asked for.

        With ``once`` a repeated request records nothing and gets what the first one asked for. In the place
        of a task whose unique key another one has is that one, without the stages of its own.

        Raises:
          InvalidField: the tasks depend on each other in a circle. The future raises as `Ledger.submit` does.
        """
        tasks = [task for one in prepared for task in one]
        _refuse_circles(tasks)
        asked = [one[0].id for one in prepared]
        return self._ledger.submit(tasks, once=once, asked=asked, patience=patience)

    def _declared_elsewhere(self, task_type: str) -> TaskType:
        """A type that only other processes know."""
        if task_type not in self._declared and time.monotonic() - self._declared_at > REFRESH_SECONDS:
            self._declared = self._queries.task_types()
            self._declared_at = time.monotonic()
        if task_type not in self._declared:
            raise InvalidField.of(
                "task_type",
                f"no worker has ever declared {task_type!r}; see CALLBOARD_ACTORS for your own types",
                code="unknown_task_type",
            )
        return self._declared[task_type]


def asked_for(prepared: Sequence[Sequence[NewTask]], committed: Sequence[Accepted]) -> list[Accepted]:
    """Of what `Submission.record` answers, the task of each order; the stages of new runs are left out."""
    stages = {task.id for tasks in prepared for task in tasks[1:]}
    return [one for one in committed if one.id not in stages]


def task_of(
    order: Order,
    defaults: Defaults,
    queue: str,
    max_retries: int | None = None,
    timeout: float | None = None,
    backoff: dict[str, Any] | None = None,
    *,
    is_run: bool = False,
) -> NewTask:
    """The task of an order, as far as the order and its type's policy say; the rest is left to defaults."""
    return NewTask(
        id=order.id,
        task_type=order.task_type,
        queue_name=order.queue_name or queue,
        payload=order.payload,
        priority=order.priority,
        max_retries=_first(order.max_retries, max_retries, defaults.max_retries),
        backoff=order.backoff or backoff,
        timeout=float(_first(order.timeout, timeout, defaults.timeout)),
        delay=order.delay,
        run_at=order.run_at,
        user_id=order.user_id,
        project_id=order.project_id,
        kb_id=order.kb_id,
        created_by=order.created_by,
        tags=order.tags,
        depends_on=order.depends_on,
        on_dependency_failure=order.on_dependency_failure,
        is_run=is_run,
        unique_key=order.unique_key,
        callback_url=order.callback_url,
        parent_id=order.parent_id,
        overrides=_overrides(order) if is_run else None,
    )


def _overrides(order: Order) -> dict[str, Any] | None:
    """What an order says for all stages of a run; None if it leaves everything to their policies."""
    asked = {"max_retries": order.max_retries, "timeout": order.timeout, "backoff": order.backoff}
    return {name: value for name, value in asked.items() if value is not None} or None


def check_callable(url: str, gate: Gatekeeper | None, *, field: str = "callback_url") -> str:
    """A URL to call when tasks end, as far as it can be told before. Messages do not repeat it.

    Raises:
      InvalidField: it cannot be called; the message says why.
    """
    check_callback_url(url, field=field)
    try:
        if gate is not None:
            gate.check(url)
    except ValueError as error:
        raise InvalidField.of(field, str(error)) from None
    return url


def _check_names(order: Order, gate: Gatekeeper | None) -> None:
    if order.queue_name is not None:
        check_queue(order.queue_name)
    if order.unique_key is not None:
        check_unique_key(order.unique_key)
    if order.callback_url is not None:
        check_callable(order.callback_url, gate)


def _refuse_circles(tasks: Sequence[NewTask]) -> None:
    """Only tasks of one submission can depend on each other in a circle: all others exist before."""
    needs = {task.id: set(task.depends_on) for task in tasks if task.depends_on}
    while free := [task_id for task_id, ids in needs.items() if not ids & needs.keys()]:
        for task_id in free:
            del needs[task_id]
    if needs:
        raise InvalidField.of("depends_on", f"the tasks wait for each other: {', '.join(map(str, needs))}")


def _first(asked: Any, policy: Any, default: Any) -> Any:
    return asked if asked is not None else policy if policy is not None else default
