"""The pipelines that this process knows."""

from falcon.asgi import Request, Response

from api.desk import Desk
from api.media import render
from api.parameters import part, read_query
from api.schemas.common import Paged
from api.schemas.tasks import PipelineShape, PipelineStage
from pipelines import plan
from pipelines.composition import Pipeline
from tasks.errors import NotFound


class Pipelines:
    """``/pipelines`` and ``/pipelines/{name}``."""

    def __init__(self, desk: Desk) -> None:
        self._known = desk.kit.catalogue.pipelines

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the pipelines by name."""
        asked = part(read_query(req, Paged))
        names = sorted(self._known)[asked.offset : asked.offset + asked.limit]
        render(
            resp,
            asked.answer("pipelines", [_shape(self._known[name]) for name in names], len(self._known)),
        )

    async def on_get_one(self, req: Request, resp: Response, name: str) -> None:
        """The stages of a pipeline."""
        pipeline = self._known.get(name)
        if pipeline is None:
            raise NotFound(f"There is no pipeline {name[:100]}: see GET /api/v1/pipelines.")
        render(resp, _shape(pipeline))


def _shape(pipeline: Pipeline) -> PipelineShape:
    stages = [
        PipelineStage(
            one.name,
            pipeline.type_of(one.name),
            one.actor.policy.queue,
            plan.batch_of(pipeline.plan, one.name),
        )
        for one in pipeline.stages
    ]
    return PipelineShape(
        pipeline.name, pipeline.number, pipeline.queue, stages, list(plan.links(pipeline.plan))
    )
