"""The flow of a run: pure functions from what has happened to what comes next.

`after` is asked when a stage finishes: its answer is committed together with the result. `settle` is asked
afterwards about the whole run: it finds joins that are due and the end. Both may be asked twice for the
same moment; the ledger inserts a stage once and ends a run once.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from actors.submission import Defaults
from pipelines.steps import Composed, start
from tasks.states import BLOCKED, CANCELLED, COMPLETED, FAILED
from tasks.values import Advance, Claimed, NewTask, RunState, StageState

#: The key under which a `pipelines.composition.Done` is kept.
DONE = "$done"


class Next(msgspec.Struct, frozen=True):
    """What follows a finished stage; ``settle`` asks for a look at the whole run after the commit."""

    successors: tuple[NewTask, ...] = ()
    settle: bool = False
    progress: float = 0.0
    phase: str | None = None


def begin(pipeline: Composed, run: NewTask, defaults: Defaults) -> list[NewTask]:
    """The tasks of the first stage of a run."""
    return start(pipeline, run, 0, run.payload, defaults)[0]


def after(pipeline: Composed, finished: Claimed, result: Any, defaults: Defaults) -> Next:
    """What follows a stage that finished with ``result``."""
    if is_done(result):
        return Next(settle=True, progress=99.0)
    place = pipeline.position(finished.stage or "")
    step = pipeline.steps[place]
    done = 100.0 * (place + 1) / len(pipeline.steps)
    if step.batch is not None:  # how many siblings are left is seen after the commit
        return Next(settle=True, progress=100.0 * place / len(pipeline.steps), phase=step.name)
    if place == len(pipeline.steps) - 1:
        return Next(settle=True, progress=min(done, 99.0), phase=step.name)
    template = _template(finished)
    successors, ended = start(pipeline, template, place + 1, result, defaults)
    return Next(tuple(successors), settle=ended, progress=done, phase=pipeline.steps[place + 1].name)


def settle(
    pipeline: Composed, run: RunState, outputs: Callable[[str], list[Any]], defaults: Defaults
) -> Advance | None:
    """What a run needs now, or None if its stages are still at work.

    ``outputs(stage)`` gives the results of a stage in the order of its items.
    """
    ended = ended_badly(run)
    if ended is not None:
        return ended
    if any(stage.status != COMPLETED for stage in run.stages):
        return None
    if not run.stages and run.status == BLOCKED:
        return None
    # Without a stage: submitted by a process that does not know the pipeline, or its first one maps nothing.
    place, value = -1, run.task.payload
    if run.stages:
        place = max(pipeline.position(stage.stage) for stage in run.stages)
        step = pipeline.steps[place]
        results = outputs(step.name)
        done = next((one for one in results if is_done(one)), None)
        if done is not None:
            return Advance(run.id, status=COMPLETED, result=done[DONE], round=run.round)
        value = results if step.batch is not None else results[0]
    if place == len(pipeline.steps) - 1:
        return Advance(run.id, status=COMPLETED, result=value, round=run.round)
    successors, over = start(pipeline, run.task, place + 1, value, defaults)
    if over:
        return Advance(run.id, status=COMPLETED, result=[], round=run.round)
    return Advance(run.id, successors, round=run.round)


def is_done(result: Any) -> bool:
    """Whether a stage's result (as it is kept) is a `pipelines.composition.Done`."""
    return isinstance(result, dict) and set(result) == {DONE}


def ended_badly(run: RunState) -> Advance | None:
    """The end of a run of which a stage failed or was cancelled; this needs no knowledge of its pipeline."""
    for stage in run.stages:
        if stage.status == FAILED:
            return Advance(run.id, status=FAILED, error=_blame(stage), round=run.round)
    if any(stage.status == CANCELLED for stage in run.stages):
        return Advance(run.id, status=CANCELLED, round=run.round)
    return None


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
    error = stage.error or {"code": "actor_error", "message": "the stage failed"}
    return {**error, "stage": stage.stage}
