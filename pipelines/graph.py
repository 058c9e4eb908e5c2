"""The graph of a run: its stages as the pipeline has them, with what is on record of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import plan
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline
from pipelines.pace import Pace
from tasks.details import Details
from tasks.queries import Queries
from tasks.records import RunGraph, StageNode, StageSummary, Task
from tasks.states import CANCELLED, COMPLETED, FAILED, FINAL, RUNNING, UNFINISHED

#: Without tasks a stage is one of these.
PENDING, SKIPPED = "pending", "skipped"
#: A stage with several tasks is what the first of these says that there is.
FIRST_OF = (FAILED, CANCELLED, RUNNING, "retrying", "queued", "scheduled", "blocked", COMPLETED)


class RunGraphs:
    """Draws runs that are on record."""

    def __init__(self, catalogue: Catalogue, queries: Queries, details: Details) -> None:
        self._catalogue = catalogue
        self._queries = queries
        self._details = details

    def around(self, task: Task) -> RunGraph | None:
        """The run that a task is, or is a stage of; None for others."""
        if task.run_id is None and not self._queries.is_run(task.task_id):
            return None
        run = task if task.run_id is None else self._queries.task(task.run_id)
        if run is None:
            return None
        version = self._queries.version(run.task_id)
        pipeline = self._catalogue.pipeline_of(run.task_type, version)
        summaries = self._details.stages(run.task_id)
        return draw(run, version, pipeline, summaries, Pace(self._queries.spent()))


def draw(
    run: Task,
    version: str | None,
    pipeline: Pipeline | None,
    summaries: Sequence[StageSummary],
    pace: Pace,
) -> RunGraph:
    """The graph of a run; without its pipeline only what has begun is known."""
    begun = {one.stage: one for one in summaries}
    if pipeline is None:
        stages = [_node(one, None, run.details) for one in summaries]
        edges = []
    else:
        passed = plan.passed_by(pipeline.plan, begun, is_over=run.status in FINAL)
        stages = [
            _node(
                begun.get(leaf.name) or _not_begun(pipeline, leaf),
                pace.expected(pipeline, leaf.name),
                run.details,
                without=SKIPPED if leaf.name in passed else PENDING,
            )
            for leaf in pipeline.stages
        ]
        edges = list(plan.links(pipeline.plan))
    return RunGraph(
        run_id=run.task_id,
        pipeline=run.task_type,
        version=version,
        status=run.status,
        progress=run.progress,
        estimated_completion=run.estimated_completion,
        stages=stages,
        edges=edges,
    )


def _not_begun(pipeline: Pipeline, leaf: plan.Leaf) -> StageSummary:
    return StageSummary(
        stage=leaf.name,
        task_type=pipeline.type_of(leaf.name),
        queue_name=leaf.actor.policy.queue,
        counts={},
        started_at=None,
        ended_at=None,
        spent_ms=0.0,
        wait_reason=None,
        error=None,
    )


def _node(
    known: StageSummary,
    expected_ms: float | None,
    details: Mapping[str, Any] | None,
    *,
    without: str = PENDING,
) -> StageNode:
    counts = known.counts
    status = next((one for one in FIRST_OF if one in counts), without)
    told = details or {}
    return StageNode(
        stage=known.stage,
        task_type=known.task_type,
        queue_name=known.queue_name,
        status=status,
        tasks=sum(counts.values()),
        completed=counts.get(COMPLETED, 0),
        failed=counts.get(FAILED, 0),
        running=counts.get(RUNNING, 0),
        waiting=sum(counts.get(one, 0) for one in UNFINISHED - {RUNNING}),
        total=told.get("steps_total") if told.get("step") == known.stage else None,
        started_at=known.started_at,
        completed_at=known.ended_at if status in FINAL else None,
        duration_ms=known.spent_ms,
        expected_ms=None if expected_ms is None else round(expected_ms, 3),
        wait_reason=known.wait_reason,
        error=known.error,
    )
