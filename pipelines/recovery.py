"""Recovering: from what an operator asks for to what of a task, or of a run, begins anew. Pure decisions.

A run knows stages by their order: what comes after a stage that runs again is removed and made anew by the
flow. The ledger applies a decision to the round that it was made for, or not at all.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from actors.submission import Defaults
from pipelines import flow, plan
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline
from pipelines.evaluation import is_done
from tasks.errors import Conflict, InvalidField, NotFound
from tasks.ledger.restarts import Restart, RunRestart
from tasks.queries import Queries
from tasks.states import CANCELLED, COMPLETED, FAILED, FINAL
from tasks.values import RunState

Mode = Literal["checkpoint", "failed", "downstream", "stage", "all"]
OF_TASKS = ("checkpoint", "all")
OF_RUNS = ("failed", "downstream", "stage", "all")
FALLEN = (FAILED, CANCELLED)
ANY_END = tuple(sorted(FINAL))


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST …/recover``: how a task that is over is to run again.

    ``mode``: a plain task goes on from its last ``checkpoint`` (the default), or from the one of ``version``,
    or begins anew (``all``). Of a run the ``failed`` and cancelled stages run again (the default), those and
    everything after them anew (``downstream``; from ``stage`` on if it is given), a ``stage`` and everything
    after it, or ``all``. With ``output`` the ``stage`` does not run: it is completed with this output, for a
    mapped stage a list with one for each of its tasks.
    """

    mode: Mode | None = None
    stage: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    output: Any = msgspec.UNSET
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class Recoverer:
    """Decides recoveries of what is on record."""

    def __init__(self, catalogue: Catalogue, queries: Queries, defaults: Defaults) -> None:
        self._catalogue = catalogue
        self._queries = queries
        self._defaults = defaults

    def decide(self, task_id: UUID, asked: Recovery) -> Restart | RunRestart:
        """What to have the ledger do.

        Raises:
          NotFound: there is no such task.
          InvalidField: what is asked for does not fit the task or together; the field is named.
          Conflict: the state of the task does not allow it.
        """
        run = self._queries.run(task_id)
        if run is None:
            raise NotFound(f"There is no task {task_id}: see GET /api/v1/tasks for those there are.")
        if run.task.run_id is not None:
            raise Conflict(
                f"This is a stage of the run {run.task.run_id}: recover that, with mode=stage and its name."
            )
        mode: Mode = asked.mode or ("failed" if run.task.is_run else "checkpoint")
        _check(mode, asked, run.task.is_run)
        if run.status not in FINAL:
            raise Conflict(f"The task is {run.status}: recover it when it is over, or cancel it first.")
        if not run.task.is_run:
            return restart(run, mode, asked.version)
        version = None if mode == "all" else run.task.version  # all of it begins on the newest plan
        pipeline = self._catalogue.pipeline_of(run.task_type, version)
        return restart_run(pipeline, run, mode, asked, self._queries, self._defaults)


def restart(task: RunState, mode: Mode, version: int | None) -> Restart:
    """How a plain task that is over begins anew."""
    if mode == "all":
        return Restart(task_id=task.id, leaves=ANY_END, message="recovered from the beginning", afresh=True)
    if task.status == COMPLETED:
        raise Conflict("The task has completed: with mode=all it runs again from the beginning.")
    place = "the last checkpoint" if version is None else f"checkpoint {version}"
    return Restart(task_id=task.id, leaves=FALLEN, message=f"recovered from {place}", version=version)


def restart_run(
    pipeline: Pipeline | None,
    run: RunState,
    mode: Mode,
    asked: Recovery,
    queries: Queries,
    defaults: Defaults,
) -> RunRestart:
    """How a run that is over begins anew. What keeps all stages, or none, can do without its pipeline."""
    if mode == "failed":
        if run.status == COMPLETED:
            raise Conflict("Nothing of the run has failed: name a stage with mode=stage, or use mode=all.")
        standing_in = set() if pipeline is None else plan.handlers(pipeline.plan)
        kept = tuple(name for name in _names(run) if name not in standing_in)
        return _decided(run, FALLEN, "recovered from what had failed", kept=kept)
    if mode == "all":
        return _from_the_beginning(pipeline, run, queries, defaults)
    if pipeline is None:
        raise Conflict(
            f"This process does not know the pipeline {run.task_type} in the version that the run goes by"
            f" ({run.task.version or 'none'}): ask one that has it, or use mode=all."
        )
    return _from_a_stage(pipeline, run, asked, queries, defaults)


def _from_a_stage(
    pipeline: Pipeline, run: RunState, asked: Recovery, queries: Queries, defaults: Defaults
) -> RunRestart:
    name = asked.stage or _first_fallen(pipeline, run)
    if name is None:
        raise Conflict("Nothing of the run has failed: name the stage from which on it is to run again.")
    _check_stage(pipeline, run, name)
    later = plan.following(flow.find(pipeline, name))
    kept = tuple(one.name for one in pipeline.stages if one.name not in later)
    decision = _decided(
        run,
        ANY_END,
        f"recovered from stage {name}",
        kept=kept,
        again=asked.stage,
        progress=flow.NO_PACE.reached(pipeline, name),
        phase=name,
    )
    if asked.output is msgspec.UNSET:
        return decision
    outputs = _outputs(pipeline, run, name, asked.output)
    successors = _following(pipeline, run, kept, {name: outputs}, queries, defaults)
    return msgspec.structs.replace(decision, outputs=outputs, successors=successors)


def _check(mode: Mode, asked: Recovery, is_run: bool) -> None:
    """Refuse what does not go together."""
    if mode not in (OF_RUNS if is_run else OF_TASKS):
        kind, modes = ("a run", OF_RUNS) if is_run else ("a task that is no run", OF_TASKS)
        raise InvalidField.of("mode", f"{mode} is nothing for {kind}: use {', '.join(modes)}")
    if asked.stage is None and mode == "stage":
        raise InvalidField.of("stage", "is required with mode=stage")
    wrong = {
        "stage": asked.stage is not None and mode not in ("stage", "downstream"),
        "output": asked.output is not msgspec.UNSET and mode != "stage",
        "version": asked.version is not None and mode != "checkpoint",
    }
    goes_with = {"stage": "stage or downstream", "output": "stage", "version": "checkpoint"}
    errors = [(field, f"goes with mode={goes_with[field]}") for field, is_wrong in wrong.items() if is_wrong]
    if errors:
        raise InvalidField(errors)


def _decided(run: RunState, leaves: tuple[str, ...], message: str, **how: Any) -> RunRestart:
    return RunRestart(run_id=run.id, round=run.round, leaves=leaves, message=message, **how)


def _from_the_beginning(
    pipeline: Pipeline | None, run: RunState, queries: Queries, defaults: Defaults
) -> RunRestart:
    """All stages are removed. A process that knows the pipeline begins it, this one if it does."""
    successors = () if pipeline is None else _following(pipeline, run, (), {}, queries, defaults)
    return _decided(
        run,
        ANY_END,
        "recovered from the beginning",
        kept=(),
        successors=successors,
        progress=0.0,
        anew=True,
        version=None if pipeline is None else pipeline.version,
    )


def _names(run: RunState) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stage.stage for stage in run.stages))


def _first_fallen(pipeline: Pipeline, run: RunState) -> str | None:
    fallen = {stage.stage for stage in run.stages if stage.status in FALLEN}
    return next((one.name for one in pipeline.stages if one.name in fallen), None)


def _check_stage(pipeline: Pipeline, run: RunState, name: str) -> None:
    names = [one.name for one in pipeline.stages]
    if name not in names:
        raise InvalidField.of("stage", f"is none of {pipeline.name}: it has {', '.join(names)}")
    if name not in _names(run):
        raise Conflict(f"The run never came to the stage {name}: name one that has run, or use mode=all.")


def _outputs(pipeline: Pipeline, run: RunState, name: str, output: Any) -> list[Any]:
    """The outputs of the tasks of a stage, if the part after it can take them."""
    count = sum(stage.stage == name for stage in run.stages)
    is_mapped = plan.batch_of(pipeline.plan, name) is not None
    if is_mapped and (not isinstance(output, list) or len(output) != count):
        raise InvalidField.of("output", f"must be a list of {count} outputs: one for each task of {name}")
    if not is_done(output):
        pipeline.fit_output(name, output, "output")
    return list(output) if is_mapped else [output]


def _following(
    pipeline: Pipeline,
    run: RunState,
    kept: Sequence[str],
    outputs: dict[str, list[Any]],
    queries: Queries,
    defaults: Defaults,
) -> Sequence[Any]:
    """The tasks that follow when all ``kept`` stages are completed, some of them with these ``outputs``.

    There are none where the run is over then: the end is left to whoever settles it.
    """
    stages = [
        msgspec.structs.replace(stage, status=COMPLETED, error=None)
        for stage in run.stages
        if stage.stage in kept
    ]
    completed = msgspec.structs.replace(run, stages=stages)

    def output(name: str) -> dict[int, Any]:
        if name not in outputs:
            return queries.outputs(run.id, name)
        scopes = sorted(stage.index for stage in run.stages if stage.stage == name)
        return dict(zip(scopes, outputs[name], strict=True))

    try:
        settled = flow.settle(pipeline, completed, output, defaults)
    except TypeError as error:
        raise InvalidField.of("output", str(error)) from None
    return () if settled is None or settled.status is not None else settled.successors
