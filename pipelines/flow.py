"""The flow of a run: pure functions from what has happened to what comes next.

`after` is asked when a stage finishes: its answer is committed together with the result. `settle` is asked
afterwards about the whole run: it finds joins that are due and the end. Both may be asked twice for the
same moment; the ledger inserts a stage once and ends a run once.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import msgspec

from actors.submission import Defaults
from pipelines.errors import CompositionError
from pipelines.evaluation import WINDOW, Due, Ended, Evaluation, Fallen, Given, Pending, error_of, is_done
from pipelines.pace import Pace, steps
from pipelines.plan import Choice, Each, Guarded, Leaf, Parallel, Part, Series, Step, leaves, way_to
from pipelines.stages import task_of_stage
from tasks.states import BLOCKED, CANCELLED, COMPLETED, FAILED
from tasks.values import Advance, Claimed, NewTask, RunProgress, RunState, StageState

NO_PACE = Pace()


class Composed(Protocol):
    """A pipeline, as far as its flow needs it."""

    @property
    def name(self) -> str:
        """The type of its runs."""

    @property
    def version(self) -> str:
        """What tells its plan apart from older and newer ones."""

    @property
    def plan(self) -> Series:
        """Its stages in their places."""

    @property
    def stages(self) -> Sequence[Leaf]:
        """Its stages in their order."""

    def type_of(self, stage: str) -> str:
        """The task type of a stage."""


class Next(msgspec.Struct, frozen=True):
    """What follows a finished stage; ``settle`` asks for a look at the whole run after the commit."""

    successors: tuple[NewTask, ...] = ()
    settle: bool = False
    progress: float = 0.0
    phase: str | None = None
    details: dict[str, Any] | None = None


class Join(msgspec.Struct, frozen=True):
    """Where stages meet: all ``stages`` must be through, or half of a full ``window`` of them."""

    stages: tuple[str, ...]
    window: int = 0


def join_of(pipeline: Composed, stage: str) -> Join | None:
    """The join that a stage leads to; None: after it the run is to be looked at in any case."""
    way = way_to(pipeline.plan, stage) or []
    joins = [step.part for step in way if isinstance(step.part, Each | Parallel)]
    if not joins or len(joins) > 1:  # of a join inside of a map only some tasks matter
        return None
    names = tuple(leaf.name for leaf in leaves(joins[0]))
    return Join(names, WINDOW if isinstance(joins[0], Each) else 0)


def begin(pipeline: Composed, run: NewTask, defaults: Defaults) -> list[NewTask]:
    """The tasks of the first stage of a run."""
    look = Evaluation((), _nothing)
    look.came_to(pipeline.plan, lambda: run.payload)
    return _tasks(pipeline, run, look, defaults)


def after(
    pipeline: Composed, finished: Claimed, result: Any, defaults: Defaults, pace: Pace = NO_PACE
) -> Next:
    """What follows a stage that finished with ``result``.

    Raises:
      CompositionError: the pipeline has no such stage (any more).
      TypeError: a map was given something that it cannot use.
    """
    if is_done(result):
        return Next(settle=True, progress=99.0)
    name = finished.stage or ""
    way = find(pipeline, name)
    ahead = _ahead(way, result, finished)
    if ahead is None:  # a join, or the end: what is left is seen after the commit
        is_last = not any(isinstance(step.part, Each | Parallel) for step in way)
        return Next(settle=True, progress=99.0 if is_last else pace.reached(pipeline, name), phase=name)
    part, value = ahead
    inner = any(isinstance(step.part, Each) for step in way)
    look = Evaluation((), _nothing)
    came = look.came_to(part, lambda: value, finished.stage_index or 0, inner)
    successors = _tasks(pipeline, _template(finished), look, defaults)
    phase = successors[0].stage or name if successors else name
    # Of what it has handed out, much may be through already: then nobody else looks for the rest.
    handed_out = any(leaf.name == name and leaf.actor.yields for leaf in pipeline.stages)
    return Next(
        tuple(successors),
        settle=not isinstance(came, Pending) or handed_out,
        progress=pace.reached(pipeline, phase),
        phase=phase,
        details=_steps(look, phase),
    )


def begin_item(
    pipeline: Composed, finished: Claimed, part: Part, scope: int, value: Any, defaults: Defaults
) -> list[NewTask]:
    """The first tasks of a mapped part for an item that a stage hands out."""
    look = Evaluation((), _nothing)
    look.came_to(part, lambda: value, scope, inner=True)
    return _tasks(pipeline, _template(finished), look, defaults)


def settle(
    pipeline: Composed,
    run: RunState,
    outputs: Callable[[str], dict[int, Any]],
    defaults: Defaults,
    pace: Pace = NO_PACE,
) -> Advance | None:
    """What a run needs now, or None if its stages are still at work.

    ``outputs(stage)`` gives the results of the completed tasks of a stage by their index.

    Raises:
      CompositionError: the run has a stage that the pipeline does not have (any more).
      TypeError: a map was given something that it cannot use.
    """
    if not run.stages and run.status == BLOCKED:
        return None
    known = {one.name for one in pipeline.stages}
    for stage in run.stages:
        if stage.stage not in known:
            raise _unknown(pipeline, stage.stage)
    read = cache(outputs)
    look = Evaluation(run.stages, lambda stage, scope: read(stage)[scope])
    came = look.came_to(pipeline.plan, lambda: run.task.payload)
    if isinstance(came, Fallen):
        return Advance(run.id, status=FAILED, error=_blame(came.stage), round=run.round)
    if cancelled := ended_by_cancel(run):
        return cancelled
    if isinstance(came, Given | Ended):
        return Advance(run.id, status=COMPLETED, result=came.value(), round=run.round)
    successors = _tasks(pipeline, run.task, look, defaults)
    if not successors:
        return None
    phase = successors[0].stage or ""
    told = RunProgress(run.id, pace.reached(pipeline, phase), phase, _steps(look, phase))
    unpinned = run.task.version is None
    version = pipeline.version if unpinned else None
    return Advance(run.id, successors, round=run.round, version=version, progress=told)


def find(pipeline: Composed, stage: str) -> list[Step]:
    """The way to a stage.

    Raises:
      CompositionError: the pipeline has no such stage (any more).
    """
    way = way_to(pipeline.plan, stage)
    if way is None:
        raise _unknown(pipeline, stage)
    return way


def ended_by_cancel(run: RunState) -> Advance | None:
    """The end of a run of which a stage was cancelled: for that its pipeline need not be known."""
    if any(stage.status == CANCELLED for stage in run.stages):
        return Advance(run.id, status=CANCELLED, round=run.round)
    return None


def _ahead(way: Sequence[Step], result: Any, finished: Claimed) -> tuple[Part, Any] | None:
    """The part that comes next after the stage at the end of a way, and what it gets; None at a join."""
    for step in reversed(way):
        match step.part:
            case Series() if step.place + 1 < len(step.part.parts):
                return step.part.parts[step.place + 1], result
            case Choice() if step.place == 0:
                chosen = step.part.then if result else step.part.otherwise
                result = msgspec.json.decode(finished.payload)
                if chosen is not None:
                    return chosen, result
            case Each() | Parallel():
                return None
            case Series() | Choice() | Guarded() | Leaf():
                pass
    return None


def _tasks(pipeline: Composed, run: NewTask, look: Evaluation, defaults: Defaults) -> list[NewTask]:
    def task(due: Due) -> NewTask:
        task_type = pipeline.type_of(due.leaf.name)
        return task_of_stage(task_type, pipeline.version, run, due.leaf, due.scope, due.payload, defaults)

    return [task(due) for due in look.due]


def _steps(look: Evaluation, stage: str) -> dict[str, Any] | None:
    """The steps of a map that begins with a stage."""
    return steps(stage, 0, look.totals[stage]) if stage in look.totals else None


def _nothing(stage: str, scope: int) -> Any:
    raise AssertionError("nothing has run yet")


def _unknown(pipeline: Composed, stage: str) -> CompositionError:
    return CompositionError(f"the pipeline {pipeline.name} has no stage {stage}")


def _template(finished: Claimed) -> NewTask:
    """The run of a stage, as far as its next stages need it."""
    assert finished.run_id is not None
    return NewTask(
        id=finished.run_id,
        task_type="",
        queue_name="",
        priority=finished.priority,
        user_id=finished.user_id,
        project_id=finished.project_id,
        kb_id=finished.kb_id,
        tags=tuple(finished.tags),
        overrides=finished.overrides,
    )


def _blame(stage: StageState) -> dict[str, Any]:
    return error_of(stage) | {"stage": stage.stage}
