"""Steps: stages in their places, and the tasks that start one. Pure; composing and the flow use it."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from actors.definitions import Actor
from actors.submission import Defaults
from tasks.values import NewTask


class Step(msgspec.Struct, frozen=True):
    """A stage in its place. ``batch``: None runs it once; n runs it once for every n items of its input."""

    actor: Actor[..., Any]
    name: str
    batch: int | None = None


class Composed(Protocol):
    """A pipeline, as far as starting its steps needs it."""

    @property
    def steps(self) -> Sequence[Step]:
        """Its steps in order."""

    def type_of(self, stage: str) -> str:
        """The task type of a stage."""

    def position(self, stage: str) -> int:
        """Where a stage stands; the first is 0."""


def start(
    pipeline: Composed, run: NewTask, place: int, value: Any, defaults: Defaults
) -> tuple[list[NewTask], bool]:
    """The tasks of the step at ``place``, and whether the run is over because nothing was left to map."""
    step = pipeline.steps[place]
    if step.batch is None:
        return [_task(pipeline, run, step, 0, value, defaults)], False
    if not isinstance(value, list):
        raise TypeError(
            f"{step.name}.map() needs a list, but the stage before returned {type(value).__name__}"
        )
    if not value:
        last = place == len(pipeline.steps) - 1
        return ([], True) if last else start(pipeline, run, place + 1, [], defaults)
    size = step.batch or 1
    parts = [value[at : at + size] for at in range(0, len(value), size)]
    inputs = parts if step.batch else value
    return [_task(pipeline, run, step, at, part, defaults) for at, part in enumerate(inputs)], False


def _task(
    pipeline: Composed, run: NewTask, step: Step, index: int, payload: Any, defaults: Defaults
) -> NewTask:
    policy = step.actor.policy
    asked = run.overrides or {}
    max_retries = asked.get("max_retries", policy.max_retries)
    timeout = asked.get("timeout", policy.timeout)
    return NewTask(
        task_type=pipeline.type_of(step.name),
        queue_name=policy.queue,
        payload=payload,
        priority=run.priority,
        max_retries=defaults.max_retries if max_retries is None else max_retries,
        backoff=asked.get("backoff", policy.backoff),
        timeout=defaults.timeout if timeout is None else timeout,
        delay=run.delay,
        run_at=run.run_at,
        user_id=run.user_id,
        project_id=run.project_id,
        kb_id=run.kb_id,
        created_by=run.created_by,
        tags=run.tags,
        depends_on=run.depends_on,
        on_dependency_failure=run.on_dependency_failure,
        run_id=run.id,
        stage=step.name,
        stage_index=index,
        overrides=run.overrides,
    )
