"""Everything a process can run: actors and pipelines, collected from the built-ins and the user's modules."""

from collections.abc import Iterable, Sequence
from typing import Any

from actors.builtin import ACTORS
from actors.definitions import Actor
from actors.errors import DefinitionError
from actors.registry import Registry, actors_of, load_module, members
from actors.submission import Submittable
from pipelines.composition import Pipeline
from tasks.values import TaskType, announced, plan_of


class Catalogue:
    """Whole task types: actors that can be asked for, and pipelines in their versions."""

    def __init__(self, actors: Iterable[Actor[..., Any]], pipelines: Iterable[Pipeline]) -> None:
        self.actors = Registry(actors)
        #: Of each name the pipeline that new runs go by, and all that runs may still go by.
        self.pipelines: dict[str, Pipeline] = {}
        self._versions: dict[str, dict[str, Pipeline]] = {}
        self._names_by_stage: dict[str, str] = {}
        for pipeline in sorted(pipelines, key=lambda one: one.number):
            self._add(pipeline)
        self.stages = self._stages()

    def _add(self, pipeline: Pipeline) -> None:
        name = pipeline.name
        older = self.pipelines.get(name)
        if name in self.actors or (older is not None and older.number == pipeline.number):
            raise DefinitionError(
                f"two task types are named {name!r}: rename one of them, or give the newer pipeline a version"
            )
        self.pipelines[name] = pipeline
        self._versions.setdefault(name, {})[plan_of(pipeline.version)] = pipeline
        for leaf in pipeline.stages:
            self._names_by_stage[pipeline.type_of(leaf.name)] = name

    def _stages(self) -> list[Actor[..., Any]]:
        """The stages of all versions. Those of one name are the same in all of them."""
        stages: dict[str, Actor[..., Any]] = {}
        for pipeline in self._every_pipeline():
            for one in pipeline.actors():
                known = stages.setdefault(one.name, one)
                if known.function is not one.function:
                    raise DefinitionError(
                        f"{one.name} is another function in version {pipeline.number}: a stage that does"
                        " something else gets a name of its own, as the runs of all versions share stages"
                    )
        return list(stages.values())

    def _every_pipeline(self) -> Iterable[Pipeline]:
        """Every version of every pipeline, the newest ones first."""
        for versions in self._versions.values():
            yield from reversed(versions.values())

    @property
    def versions(self) -> list[str]:
        """Which plans of which pipelines are known, as processes announce it."""
        return sorted(announced(one.name, one.version) for one in self._every_pipeline())

    def get(self, name: str) -> Submittable | None:
        """What can be asked for by this name: an actor or a pipeline; None if it is not known here."""
        return self.actors.get(name) or self.pipelines.get(name)

    def runnable(self) -> Registry:
        """All that a worker executes: the actors, and the stages of all pipelines under their full names."""
        return Registry([*self.actors, *self.stages])

    def pipeline_of(self, task_type: str, version: str | None = None) -> Pipeline | None:
        """The pipeline of a run, by its type, or of a stage, by ``<pipeline>.<stage>``.

        With the ``version`` that is on record it is the one with the plan of that version, or None.
        """
        name = task_type if task_type in self.pipelines else self._names_by_stage.get(task_type)
        if name is None:
            return None
        if version is None:  # it began before versions were on record
            return self.pipelines[name]
        return self._versions[name].get(plan_of(version))

    def types(self) -> list[TaskType]:
        """What to declare in the record's catalogue."""
        plain = [
            TaskType(one.name, policy.queue, False, policy.concurrency, policy.concurrency_key)
            for one in self.actors
            for policy in [one.policy]
        ]
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
