"""From a stage in its place to its task."""

from typing import Any

from actors.limits import limited
from actors.submission import Defaults
from pipelines.plan import Leaf
from tasks.values import VERSION, NewTask


def task_of_stage(
    task_type: str, version: str, run: NewTask, leaf: Leaf, scope: int, payload: Any, defaults: Defaults
) -> NewTask:
    """The task of a stage in a scope: as the order of the run says, else as the stage's policy does."""
    policy = leaf.actor.policy
    asked = (run.overrides or {}) | {VERSION: version}
    max_retries = asked.get("max_retries", policy.max_retries)
    timeout = asked.get("timeout", policy.timeout)
    task = NewTask(
        task_type=task_type,
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
        stage=leaf.name,
        stage_index=scope,
        overrides=asked,
    )
    return limited(task, policy)
