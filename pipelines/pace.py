"""The pace of a pipeline: how far a run is, by what its stages took in earlier runs."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pipelines.plan import Leaf
from tasks.records import Spent


class Paced(Protocol):
    """A pipeline, as far as its pace matters."""

    @property
    def name(self) -> str:
        """The type of its runs."""

    @property
    def stages(self) -> Sequence[Leaf]:
        """Its stages in their order."""

    def type_of(self, stage: str) -> str:
        """The task type of a stage."""


class Pace(msgspec.Struct, frozen=True):
    """What the tasks of each type took so far; nothing is known of types that are not there."""

    spent: Mapping[str, Spent] = {}

    def expected(self, pipeline: Paced, stage: str) -> float | None:
        """What all tasks of a stage take in one run, in milliseconds; None if no run has completed yet."""
        runs = self.spent.get(pipeline.name)
        tasks = self.spent.get(pipeline.type_of(stage))
        return None if runs is None or tasks is None else tasks.duration_ms / runs.count

    def reached(self, pipeline: Paced, stage: str, share: float = 0.0) -> float:
        """How far a run is, 0-100, when a ``share`` (0-1) of a stage is done and all before it are.

        A stage of which nothing is known takes as long as the others do on average.
        """
        names = [one.name for one in pipeline.stages]
        expected = [self.expected(pipeline, name) for name in names]
        known = [one for one in expected if one is not None]
        usual = sum(known) / len(known) if known else 0.0
        weights = [(usual if one is None else one) + 1.0 for one in expected]  # no stage takes no time
        place = names.index(stage)
        return 100.0 * (sum(weights[:place]) + share * weights[place]) / sum(weights)

    def within(self, pipeline: Paced, stages: Sequence[str], share: float) -> float:
        """How far a run is, 0-100, when a ``share`` (0-1) of what lies in these stages is done."""
        begin, end = self.reached(pipeline, stages[0]), self.reached(pipeline, stages[-1], 1.0)
        return begin + share * (end - begin)


def steps(stage: str, done: int, total: int) -> dict[str, object]:
    """How far a mapped stage is, as the details of a run tell it."""
    return {"step": stage, "steps_done": done, "steps_total": total}
