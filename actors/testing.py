"""For your own tests: a board in memory, on which your actors and pipelines run on the calling thread.

def test_an_order_is_confirmed() -> None:
    with in_memory("shop") as board:
        task = submit("confirm", {"number": 7, "items": ["tea"]})
        board.run()
        assert result(task.task_id) == "order 7: tea"
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from types import ModuleType
from typing import Any, Protocol, Self
from uuid import UUID

from actors import context
from actors.attempt import Attempts
from actors.board import Board, TaskId
from actors.builtin import ACTORS
from actors.context import Resources
from actors.definitions import Actor
from actors.delivery import Delivery, message_for
from actors.errors import NotFinished
from actors.handing import Handings, Opening
from actors.interrupts import Interrupts
from actors.opening import Known
from actors.recorded_call import Following, RecordedCall
from actors.registry import Registry, load_module, submittables_of
from actors.step_cache import StepCache
from actors.submission import Defaults, Submission, Submittable
from tasks.memory import Clock, MemoryLedger, MemoryQueries, Store
from tasks.memory.locks import MemoryLocks
from tasks.records import Page, Task, TaskFilter
from tasks.states import FAILED, FINAL, RETRYING
from tasks.values import Advance, Claimed, NewTask, RunState

log = logging.getLogger("callboard.testing")

#: More attempts than that in one run of the board are taken for tasks that ask for each other for ever.
MOST_ATTEMPTS = 100_000
RETRIES = TaskFilter(statuses=(RETRYING,), stages=True)


class Composed(Submittable, Protocol):
    """A pipeline: its stages, and its flow from one to the next."""

    def actors(self) -> list[Actor[..., Any]]:
        """Its stages as actors."""

    def after(self, finished: Claimed, result: Any, defaults: Defaults) -> Following:
        """What follows a stage that finished."""

    def opening(self, claim: Claimed) -> Opening | None:
        """The map that a stage can hand out to while it runs."""

    def handed(self, claim: Claimed, index: int, value: Any, defaults: Defaults) -> Sequence[NewTask]:
        """The first tasks of that map for what is handed out."""

    def settle(
        self, run: RunState, outputs: Callable[[str], dict[int, Any]], defaults: Defaults
    ) -> Advance | None:
        """What a run needs now."""


class MemoryBoard(Board):
    """A board in memory. ``clock.advance(seconds)`` moves its time."""

    def __init__(self, types: Iterable[Submittable], resources: Resources | None = None) -> None:
        known = list(types)
        self.clock = Clock()
        store = Store(self.clock)
        self._memory, self._questions = MemoryLedger(store), MemoryQueries(store)
        defaults = Defaults()
        pipelines: list[Any] = [one for one in known if not isinstance(one, Actor)]
        self._flow = _Flow(pipelines, self._memory, self._questions, defaults)
        plain = [one for one in known if isinstance(one, Actor)]
        self._registry = Registry([*plain, *(stage for one in pipelines for stage in one.actors())])
        self._interrupts = Interrupts()
        self._call = self._recorded_call(resources or Resources())
        submission = Submission(Known(known), self._memory, self._questions, defaults)
        super().__init__(submission, self._memory, self._questions, locks=MemoryLocks())

    def _recorded_call(self, resources: Resources) -> RecordedCall:
        ledger = self._memory

        def report(
            claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
        ) -> None:
            ledger.report(claim, percent, phase, message, details or None)

        def tell(claim: Claimed, level: str, logger: str, message: str) -> bool:
            return ledger.log(claim, level, logger, message) is not None

        save = ledger.checkpoint
        handings = Handings(self._registry, ledger, self._questions, self._flow)
        attempts = Attempts(
            self._registry, resources, self._interrupts, report, save, tell=tell, give=handings.give
        )
        cache = StepCache(self._registry, self._questions)
        return RecordedCall(ledger, attempts, self._flow, cache, handings)

    def run(self) -> int:
        """Run everything that is ready, and what becomes ready by that; how many attempts that took.

        Retries do not wait: time moves on to the end of their backoff. What was given a ``delay`` or a
        ``run_at`` waits for ``clock.advance``.
        """
        attempts = 0
        while claims := self._next():
            for claim in claims:
                self._run(claim)
                attempts += 1
                if attempts > MOST_ATTEMPTS:
                    raise AssertionError(f"still something to do after {MOST_ATTEMPTS} attempts")
        return attempts

    def wait(self, task_id: TaskId, timeout: float | None = None) -> Task:
        """Run everything that is ready, and return a task that is over by then.

        Raises:
          NotFinished: it is not: it waits for its time, or for another task.
        """
        self.run()
        task = self.status(task_id)
        if task.status not in FINAL:
            raise NotFinished(f"Task {task_id} is {task.status} and nothing is ready: advance the clock?")
        return task

    def cancel(self, task_id: TaskId) -> Task:
        """Cancel a task; one that runs is interrupted."""
        cancelled = super().cancel(task_id)
        self._interrupts.cancel(cancelled.task_id)
        return cancelled

    def __enter__(self) -> Self:
        self._interrupts.start()
        return super().__enter__()

    def close(self) -> None:
        """Stop watching timeouts."""
        self._interrupts.close()

    def _next(self) -> list[Claimed]:
        """The next task to run; if there is none, time passes until the next retry is due."""
        for run_id in self._questions.unsettled_runs():  # one without stages: nothing else begins it
            self._flow.settle_soon(run_id)
        self._memory.promote().result()
        claims = self._claim()
        due = self._next_retry() if not claims else None
        if due is None:
            return claims
        self.clock.advance(max(0.0, (due - self.clock.now()).total_seconds()))
        self._memory.promote().result()
        return self._claim()

    def _claim(self) -> list[Claimed]:
        return self._memory.fetch(self._questions.queue_names(), self._registry.names, 1).result()

    def _next_retry(self) -> datetime | None:
        retrying = self._questions.tasks(RETRIES, Page(limit=MOST_ATTEMPTS)).tasks
        return min(filter(None, (self._questions.ready_at(one.task_id) for one in retrying)), default=None)

    def _run(self, claim: Claimed) -> None:
        outer = context.running_here()  # an actor may wait for another task
        try:
            self._call(Delivery(message_for(claim), claim))
        finally:
            context.enter(outer)


class _Flow:
    """The flow of the pipelines on a board in memory: it settles at once."""

    def __init__(
        self,
        pipelines: Sequence[Composed],
        ledger: MemoryLedger,
        queries: MemoryQueries,
        defaults: Defaults,
    ) -> None:
        stages = {stage.name: one for one in pipelines for stage in one.actors()}
        self._pipelines: dict[str, Composed] = {one.name: one for one in pipelines} | stages
        self._ledger = ledger
        self._queries = queries
        self._defaults = defaults

    def knows(self, claim: Claimed) -> bool:
        """Whether the pipeline of a stage is known: in memory there is one version of each."""
        return claim.task_type in self._pipelines

    def after(self, finished: Claimed, result: Any) -> Following:
        """What follows a stage that finished."""
        return self._pipelines[finished.task_type].after(finished, result, self._defaults)

    def opening(self, claim: Claimed) -> Opening | None:
        """The map that a stage can hand out to while it runs."""
        return None if claim.run_id is None else self._pipelines[claim.task_type].opening(claim)

    def handed(self, claim: Claimed, index: int, value: Any) -> Sequence[NewTask]:
        """The first tasks of that map for what is handed out."""
        return self._pipelines[claim.task_type].handed(claim, index, value, self._defaults)

    def settle_soon(self, run_id: UUID, after: Claimed | None = None) -> None:
        """Look at a run and apply what is due."""
        run = self._queries.run(run_id)
        if run is None:
            return
        decision = Advance(run_id) if run.status in FINAL else self._decide(run)
        if decision is not None:
            self._ledger.advance(decision).result()

    def _decide(self, run: RunState) -> Advance | None:
        def outputs(stage: str) -> dict[int, Any]:
            return self._queries.outputs(run.id, stage)

        try:
            return self._pipelines[run.task_type].settle(run, outputs, self._defaults)
        except TypeError as error:  # as it is in a worker
            blame = {"code": "bad_composition", "message": str(error)}
            return Advance(run.id, status=FAILED, error=blame, round=run.round)


def in_memory(*what: Submittable | ModuleType | str, resources: Resources | None = None) -> MemoryBoard:
    """A board in memory with the types of modules (or their names), actors and pipelines.

    The built-in types are there too. While it is entered, `actors.submit` and the others use it. What
    `current_task().use` gives comes from ``resources``. Isolated actors, too, run on the calling thread.

    Raises:
      DefinitionError: a module cannot be imported, or two types have the same name.
    """
    types: list[Submittable] = list(ACTORS)
    for one in what:
        if isinstance(one, str | ModuleType):
            types += submittables_of(load_module(one) if isinstance(one, str) else one)
        else:
            types.append(one)
    return MemoryBoard(dict.fromkeys(types), resources)
