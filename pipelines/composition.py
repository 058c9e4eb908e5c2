"""Composing pipelines: ``Pipeline("name", validate | convert | embed.map(batch=64) | store)``.

A stage is an actor, and any actor can be one. ``|`` chains: what one part returns, the next one takes.
``.map()`` fans out: each item (or batch) of the list that the part before returned is a task of its own; the
part after gets the list of their results. ``gather(a, b)`` runs side by side, ``when(test, a, b)`` chooses,
``.on_failure(stage)`` stands in for what fails, and a pipeline is a part of another one. Types are checked
here, when parts are composed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, overload

import msgspec

from actors.definitions import DEFAULT_QUEUE, Actor, convert, make_policy
from actors.handing import Opening
from actors.submission import Defaults, Order, task_of
from pipelines import flow, handing, plan, typing_rules
from pipelines.errors import CompositionError
from pipelines.evaluation import Done, Failure
from pipelines.pace import Pace
from pipelines.plan import Choice, Each, Guarded, Leaf, Parallel, Part, Series
from tasks.values import VERSION, Advance, Claimed, NewTask, RunState

__all__ = ["Chain", "Composable", "Done", "Failure", "Pipeline", "Stage", "gather", "stage", "when"]

P = ParamSpec("P")
R = TypeVar("R")


class Composable(ABC):
    """What can be a part of a pipeline."""

    @abstractmethod
    def part(self) -> Part:
        """Its place in a plan."""

    def __or__(self, other: "Composable | Actor[..., Any]") -> "Chain":
        """This, then ``other``."""
        return Chain(Series(_parts(self) + _parts(other)))

    def __ror__(self, other: Actor[..., Any]) -> "Chain":
        """``other``, an actor, then this."""
        return Chain(Series(_parts(other) + _parts(self)))

    def map(self, *, batch: int = 0, key: str | Callable[[Any], Any] | None = None) -> "Chain":
        """Run for each item of the input list, and give the list of what came of them.

        With ``batch`` it runs for each so many items, as a list. With ``key``, a field of the items or a pure
        function of one, it runs for each group of items of one key, as a list (of at most ``batch``).

        Raises:
          CompositionError: ``batch`` is negative.
        """
        if batch < 0:
            name = next(plan.leaves(self.part())).name
            raise CompositionError(f"{name}.map(batch={batch}): a batch has at least one item")
        return Chain(Each(self.part(), batch, key))

    def on_failure(self, handler: "Composable | Actor[..., Any]") -> "Chain":
        """If a stage of this fails for good, run ``handler``: what it returns takes the place of the output.

        The handler gets a `Failure`. If it fails too, so does the run. It begins when nothing of this is at
        work any more.

        Raises:
          CompositionError: the handler is not one stage, or its types do not fit.
        """
        leaf = _part(handler)
        if not isinstance(leaf, Leaf):
            raise CompositionError("on_failure takes one stage: make what it does a pipeline of its own")
        return Chain(Guarded(self.part(), leaf))


class Chain(Composable):
    """Parts that were composed."""

    def __init__(self, part: Part) -> None:
        self._part = part
        typing_rules.check(part)

    def part(self) -> Part:
        """Its place in a plan."""
        return self._part


class Stage(Actor[P, R], Composable, Generic[P, R]):
    """An actor that can be composed."""

    is_whole = False

    def part(self) -> Part:
        """Its place in a plan."""
        return Leaf(self, self.name)


def gather(*parts: Composable | Actor[..., Any]) -> Chain:
    """Run parts side by side with the same input; together they give the list of their outputs, in order.

    Raises:
      CompositionError: there are fewer than two parts.
    """
    if len(parts) < 2:
        raise CompositionError("gather takes two parts or more: with one there is nothing side by side")
    return Chain(Parallel(tuple(map(_part, parts))))


def when(
    test: Callable[[Any], Any],
    then: Composable | Actor[..., Any],
    otherwise: Composable | Actor[..., Any] | None = None,
    *,
    name: str | None = None,
) -> Chain:
    """Run ``then`` if ``test`` of the input is true, else ``otherwise``; without that the input goes on.

    The test is a stage too: it is asked once, and its answer is on record. It is named after its function.
    """
    asked = test if isinstance(test, Actor) else stage(name=name or _name_of(test))(test)
    return Chain(
        Choice(Leaf(asked, name or asked.name), _part(then), None if otherwise is None else _part(otherwise))
    )


class Pipeline(Composable):
    """A named plan of stages: a type of task that runs them durably, one task a stage.

    A run ends on the plan on which it began. Where a plan changes, keep the old one, with a lower
    ``version``, beside the new one until its runs are over: new runs go by the highest version.
    """

    #: Whether it can be asked for.
    is_whole: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        parts: Composable | Actor[..., Any],
        *,
        queue: str = DEFAULT_QUEUE,
        version: int = 1,
    ) -> None:
        if version < 1:
            raise CompositionError(f"the version of the pipeline {name} is {version}: versions begin at 1")
        self.name = name
        self.queue = queue
        self.number = version
        self.plan = Series(_parts(parts), whole=True)
        self.stages = tuple(plan.leaves(self.plan))
        #: Its number, and the fingerprint of its plan: runs go on with the plan that they began with.
        self.version = f"{version}-{plan.fingerprint(self.plan)}"
        plan.check_names(self.plan, name)
        typing_rules.check(self.plan)

    def part(self) -> Part:
        """As a part of another pipeline, with its name before the names of its stages."""
        return plan.renamed(self.plan, f"{self.name}.")

    def parse(self, payload: Any) -> Any:
        """The payload as what the first stage takes: a list of it, if that stage is mapped.

        Raises:
          InvalidField: it does not fit; the field is named below ``payload``.
        """
        return convert(payload, typing_rules.taken_by(self.plan), "payload")

    def fit_output(self, stage: str, output: Any, field: str) -> None:
        """Check that the part after a stage can take what is to be its output.

        Raises:
          InvalidField: it cannot; the place is named below ``field``.
        """
        following = typing_rules.taken_after(flow.find(self, stage))
        if following is not None:
            convert(output, following, field)

    def tasks(self, order: Order, defaults: Defaults) -> list[NewTask]:
        """The run of an order, then the tasks of its first stage.

        Raises:
          InvalidField: the payload does not fit the first stage.
        """
        self.parse(order.payload)
        run = task_of(order, defaults, self.queue, is_run=True)
        run = msgspec.structs.replace(run, overrides=(run.overrides or {}) | {VERSION: self.version})
        return [run, *flow.begin(self, run, defaults)]

    def after(
        self, finished: Claimed, result: Any, defaults: Defaults, pace: Pace = flow.NO_PACE
    ) -> flow.Next:
        """What follows a stage that finished with ``result`` (see `pipelines.flow`)."""
        return flow.after(self, finished, result, defaults, pace)

    def opening(self, claim: Claimed) -> Opening | None:
        """The map that a stage can hand out to while it runs (see `pipelines.handing`)."""
        return handing.opening(self, claim.stage or "")

    def handed(self, claim: Claimed, index: int, value: Any, defaults: Defaults) -> list[NewTask]:
        """The first tasks of that map for what is handed out (see `pipelines.handing`)."""
        return handing.handed(self, claim, index, value, defaults)

    def settle(
        self,
        run: RunState,
        outputs: Callable[[str], dict[int, Any]],
        defaults: Defaults,
        pace: Pace = flow.NO_PACE,
    ) -> Advance | None:
        """What a run needs now, or None if its stages are still at work (see `pipelines.flow`)."""
        return flow.settle(self, run, outputs, defaults, pace)

    def type_of(self, stage: str) -> str:
        """The task type of a stage: ``<pipeline>.<stage>``."""
        return f"{self.name}.{stage}"

    def actors(self) -> list[Actor[..., Any]]:
        """The stages as actors of this pipeline, with their full type names."""
        return [Actor(one.actor.function, self.type_of(one.name), one.actor.policy) for one in self.stages]


@overload
def stage(function: Callable[P, R], /) -> Stage[P, R]: ...


@overload
def stage(
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    retries: int | None = None,
    timeout: float | None = None,
    backoff: str | dict[str, Any] | None = None,
    retry_on: tuple[type[BaseException], ...] = (Exception,),
    isolated: bool = False,
    cache: float | None = None,
    code_version: str | None = None,
    concurrency: int | None = None,
    concurrency_key: str | None = None,
) -> Callable[[Callable[P, R]], Stage[P, R]]: ...


def stage(
    function: Callable[P, R] | Actor[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int | None = None,
    **policy: Any,
) -> Stage[P, R] | Callable[[Callable[P, R]], Stage[P, R]]:
    """Make a function (or an actor) a stage: ``@stage``, or ``@stage(queue="convert", retries=3)``.

    Raises:
      DefinitionError: the name or a part of the policy cannot be used.
    """

    def define(function: Callable[P, R]) -> Stage[P, R]:
        own_name = name or function.__name__
        return Stage(function, own_name, make_policy(own_name, max_retries=retries, **policy))

    if isinstance(function, Actor):
        return Stage(function.function, name or function.name, function.policy)
    return define(function) if function is not None else define


def _name_of(test: Callable[[Any], Any]) -> str:
    name = getattr(test, "__name__", "")
    return name if name.isidentifier() else "when"


def _part(one: Composable | Actor[..., Any]) -> Part:
    if isinstance(one, Composable):
        return one.part()
    if isinstance(one, Actor):
        return Leaf(one, one.name)
    raise CompositionError(f"{one!r} is no stage: make it one with @stage")


def _parts(one: Composable | Actor[..., Any]) -> tuple[Part, ...]:
    part = _part(one)
    return part.parts if isinstance(part, Series) and not part.whole else (part,)
