"""Everything a process can run: actors and pipelines, collected from the built-ins and the user's modules."""

from collections.abc import Iterable, Sequence
from typing import Any

from actors.builtin import ACTORS
from actors.definitions import Actor
from actors.errors import DefinitionError
from actors.registry import Registry, actors_of, load_module, members
from actors.submission import Submittable
from pipelines.composition import Pipeline
from tasks.values import TaskType


class Catalogue:
    """Whole task types: actors that can be asked for, and pipelines."""

    def __init__(self, actors: Iterable[Actor[..., Any]], pipelines: Iterable[Pipeline]) -> None:
        self.actors = Registry(actors)
        self.pipelines: dict[str, Pipeline] = {}
        for pipeline in pipelines:
            if pipeline.name in self.pipelines or pipeline.name in self.actors:
                raise DefinitionError(f"two task types are named {pipeline.name!r}: rename one of them")
            self.pipelines[pipeline.name] = pipeline
        self._by_stage = {
            pipeline.type_of(step.name): pipeline
            for pipeline in self.pipelines.values()
            for step in pipeline.stages
        }

    def get(self, name: str) -> Submittable | None:
        """What can be asked for by this name: an actor or a pipeline; None if it is not known here."""
        return self.actors.get(name) or self.pipelines.get(name)

    def runnable(self) -> Registry:
        """All that a worker executes: the actors, and the stages of all pipelines under their full names."""
        stages = [actor for pipeline in self.pipelines.values() for actor in pipeline.actors()]
        return Registry([*self.actors, *stages])

    def pipeline_of(self, task_type: str) -> Pipeline | None:
        """The pipeline of a run, by its type, or of a stage, by ``<pipeline>.<stage>``."""
        return self.pipelines.get(task_type) or self._by_stage.get(task_type)

    def types(self) -> list[TaskType]:
        """What to declare in the record's catalogue."""
        plain = [TaskType(one.name, one.policy.queue) for one in self.actors]
        return plain + [TaskType(one.name, one.queue, True) for one in self.pipelines.values()]


def collect(modules: Sequence[str], own: Iterable[Pipeline] = ()) -> Catalogue:
    """The built-in actors, ``own`` pipelines, and what the user's modules define at their top level.

    Raises:
      DefinitionError: a module cannot be imported, or two types have the same name.
    """
    actors: list[Actor[..., Any]] = list(ACTORS)
    pipelines = list(own)
    for name in modules:
        module = load_module(name)
        actors += actors_of(module)
        pipelines += members(module, Pipeline)
    return Catalogue(actors, pipelines)
