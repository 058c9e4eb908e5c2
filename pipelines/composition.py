"""Composing pipelines: ``Pipeline("name", validate | convert | embed.map(batch=64) | store)``.

A stage is an actor. ``|`` chains: what one stage returns, the next one takes. ``.map()`` fans out: each item
(or batch) of the list that the stage before returned is a task of its own; the stage after gets the list of
their results. Types are checked here, when stages are composed.
"""

from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, Union, get_args, get_origin, overload

import msgspec

from actors.definitions import DEFAULT_QUEUE, Actor, convert, make_policy
from actors.submission import Defaults, Order, task_of
from pipelines import flow
from pipelines.errors import CompositionError
from pipelines.steps import Step, start
from tasks.values import Advance, Claimed, NewTask, RunState

P = ParamSpec("P")
R = TypeVar("R")


class Done(msgspec.Struct, frozen=True, rename={"value": "$done"}):
    """Returned by a stage that knows the run's result already: the run completes with ``value``."""

    value: Any


class Chain:
    """Steps one after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            _check(before, after)

    def __or__(self, other: "Chain | Stage[..., Any]") -> "Chain":
        """This chain, then ``other``."""
        return Chain(self.steps + _chain(other).steps)


class Stage(Actor[P, R], Generic[P, R]):
    """An actor that can be composed."""

    is_whole = False

    def __or__(self, other: "Chain | Stage[..., Any]") -> Chain:
        """This stage, then ``other``."""
        return _chain(self) | other

    def map(self, *, batch: int = 0) -> Chain:
        """Run for each item of the input list; with ``batch`` for each so many items, as a list.

        Raises:
          CompositionError: ``batch`` is negative.
        """
        if batch < 0:
            raise CompositionError(f"{self.name}.map(batch={batch}): a batch has at least one item")
        return Chain([Step(self, self.name, batch)])


class Pipeline:
    """A named chain of stages: a type of task that runs them durably, one task a stage."""

    def __init__(
        self,
        name: str,
        chain: "Chain | Stage[..., Any]",
        *,
        queue: str = DEFAULT_QUEUE,
    ) -> None:
        self.name = name
        self.queue = queue
        self.steps = _chain(chain).steps
        names = [step.name for step in self.steps]
        twice = next((one for one in names if names.count(one) > 1), None)
        if twice is not None:
            raise CompositionError(
                f"the pipeline {name} has two stages named {twice}: rename one with name=…"
            )

    @property
    def first(self) -> Step:
        """The stage that gets the payload."""
        return self.steps[0]

    def parse(self, payload: Any) -> Any:
        """The payload as what the first stage takes: a list of it, if that stage is mapped.

        Raises:
          InvalidField: it does not fit; the field is named below ``payload``.
        """
        return self.fit(0, payload, "payload")

    def fit(self, place: int, value: Any, field: str) -> Any:
        """``value`` as what the stage at ``place`` takes, or a list of it if that stage is mapped.

        Raises:
          InvalidField: it does not fit; the place is named below ``field``.
        """
        step = self.steps[place]
        taken = step.actor.payload_type
        wanted = list[taken] if step.batch == 0 else taken  # type: ignore[valid-type]
        return convert(value, wanted, field)

    def tasks(self, order: Order, defaults: Defaults) -> list[NewTask]:
        """The run of an order, then the tasks of its first stage.

        Raises:
          InvalidField: the payload does not fit the first stage.
        """
        self.parse(order.payload)
        run = task_of(order, defaults, self.queue, is_run=True)
        return [run, *start(self, run, 0, run.payload, defaults)[0]]

    def after(self, finished: Claimed, result: Any, defaults: Defaults) -> flow.Next:
        """What follows a stage that finished with ``result`` (see `pipelines.flow`)."""
        return flow.after(self, finished, result, defaults)

    def settle(
        self, run: RunState, outputs: Callable[[str], list[Any]], defaults: Defaults
    ) -> Advance | None:
        """What a run needs now, or None if its stages are still at work (see `pipelines.flow`)."""
        return flow.settle(self, run, outputs, defaults)

    def type_of(self, stage: str) -> str:
        """The task type of a stage: ``<pipeline>.<stage>``."""
        return f"{self.name}.{stage}"

    def position(self, stage: str) -> int:
        """Where a stage stands; the first is 0.

        Raises:
          CompositionError: the pipeline has no such stage (any more).
        """
        for place, step in enumerate(self.steps):
            if step.name == stage:
                return place
        raise CompositionError(f"the pipeline {self.name} has no stage {stage}")

    def actors(self) -> list[Actor[..., Any]]:
        """The stages as actors of this pipeline, with their full type names."""
        return [Actor(step.actor.function, self.type_of(step.name), step.actor.policy) for step in self.steps]


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


def _chain(part: "Chain | Stage[..., Any]") -> Chain:
    return part if isinstance(part, Chain) else Chain([Step(part, part.name)])


def _check(before: Step, after: Step) -> None:
    given = _without_done(before.actor.result_type)
    given = given if before.batch is None else list[given]  # type: ignore[valid-type]
    taken = after.actor.payload_type
    if after.batch is not None:
        if given is not Any and get_origin(given) not in (list, tuple):
            raise CompositionError(
                f"{after.name}.map() fans out over a list, but {before.name} returns {_spell(given)}"
            )
        given = _item(given) if after.batch == 0 else list[_item(given)]  # type: ignore[misc]
    if not _fits(given, taken):
        raise CompositionError(
            f"these cannot be chained: {before.name} gives {_spell(given)},"
            f" but {after.name} takes {_spell(taken)}"
        )


def _without_done(kind: Any) -> Any:
    """What goes to the next stage of a result type such as ``Validated | Done``."""
    if _is_union(kind):
        return Union[tuple(one for one in get_args(kind) if one is not Done)]  # noqa: UP007 - made at run time
    return kind


def _item(listed: Any) -> Any:
    return (get_args(listed) or (Any,))[0] if listed is not Any else Any


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _fits(given: Any, taken: Any) -> bool:
    """Whether every value of type ``given`` can be one of ``taken``, as far as types can tell."""
    given, taken = _bare(given), _bare(taken)
    if Any in (given, taken) or given == taken:
        return True
    if _is_union(given):
        return all(_fits(one, taken) for one in get_args(given))
    if _is_union(taken):
        return any(_fits(given, one) for one in get_args(taken))
    one, other = get_origin(given) or given, get_origin(taken) or taken
    if one in (list, tuple) and other in (list, tuple):  # JSON knows one kind of list
        return _fits(_item(given), _item(taken))
    if not (isinstance(one, type) and isinstance(other, type)):
        return False
    arguments = zip(get_args(given), get_args(taken), strict=False)
    return _is_kind_of(one, other) and all(_fits(*pair) for pair in arguments)


def _is_kind_of(one: type, other: type) -> bool:
    try:
        return issubclass(one, other) or (one, other) == (int, float)
    except TypeError:  # a TypedDict or a protocol: seen only when it runs
        return True


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _spell(kind: Any) -> str:
    return getattr(kind, "__name__", None) if isinstance(kind, type) and not get_args(kind) else str(kind)  # type: ignore[return-value]
