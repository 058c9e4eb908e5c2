"""Evaluating a plan: from what is on record of a run to what it has come to and which stages are due.

Nothing is kept beside the record: a part whose stages are all completed has the value that they say. Values
are read late, since most evaluations need few of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import msgspec

from pipelines.plan import (
    INNER_BITS,
    MOST_INNER,
    Choice,
    Each,
    Guarded,
    Leaf,
    Parallel,
    Part,
    Series,
    children,
    leaves,
    split,
)
from tasks.states import COMPLETED, FAILED, FINAL
from tasks.values import StageState

#: So many tasks of a map are under way; the next ones come into being when half of them are through.
WINDOW = 256
#: The key under which a `Done` is kept.
DONE = "$done"

Value = Callable[[], Any]


class Done(msgspec.Struct, frozen=True, rename={"value": DONE}):
    """Returned by a stage that knows the result already: its pipeline completes with ``value``."""

    value: Any


class Pending(msgspec.Struct, frozen=True):
    """Stages of the part are at work, or begin now."""


class Given(msgspec.Struct, frozen=True):
    """The part is through; ``value`` reads what it gives."""

    value: Value


class Ended(msgspec.Struct, frozen=True):
    """A stage is done with the whole pipeline that it is in; others of it may be ``at_work`` still."""

    value: Value
    at_work: bool = False


class Fallen(msgspec.Struct, frozen=True):
    """A stage failed for good; others of the part may be ``at_work`` still."""

    stage: StageState
    at_work: bool = False


Came = Pending | Given | Ended | Fallen
PENDING = Pending()


class Due(msgspec.Struct, frozen=True):
    """A task to begin: the stage, its scope, and what it gets."""

    leaf: Leaf
    scope: int
    payload: Any


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage of ``on_failure`` gets: which stage failed, why, and what the guarded part was given."""

    stage: str
    code: str
    message: str
    input: Any = None


class Evaluation:
    """One look at a run. ``output(stage, scope)`` reads what a task gave; ``due`` is what begins now.

    ``totals`` says of maps that were looked at, by their first stage, how many items they have.
    """

    def __init__(self, stages: Sequence[StageState], output: Callable[[str, int], Any]) -> None:
        self._states = {(one.stage, one.index): one for one in stages}
        self._scopes: dict[str, list[int]] = {}
        for one in stages:
            self._scopes.setdefault(one.stage, []).append(one.index)
        for scopes in self._scopes.values():
            scopes.sort()
        self._output = output
        self.due: list[Due] = []
        self.totals: dict[str, int] = {}

    def came_to(self, part: Part, given: Value, scope: int = 0, inner: bool = False) -> Came:
        """What a part has come to in a scope; what it needs is added to ``due``.

        Raises:
          TypeError: a map was given something that it cannot use.
        """
        match part:
            case Leaf():
                return self._leaf(part, given, scope)
            case Series():
                return self._series(part, given, scope, inner)
            case Parallel():
                every = [self.came_to(one, given, scope, inner) for one in part.parts]
                return _joined(every, lambda: [one.value() for one in every if isinstance(one, Given)])
            case Choice():
                return self._choice(part, given, scope, inner)
            case Each():
                return self._each(part, given, scope, inner)
            case Guarded():
                return self._guarded(part, given, scope, inner)

    def _leaf(self, leaf: Leaf, given: Value, scope: int) -> Came:
        state = self._states.get((leaf.name, scope))
        if state is None:
            self.due.append(Due(leaf, scope, given()))
            return PENDING
        if state.status == FAILED:
            return Fallen(state)
        if state.status != COMPLETED:
            return PENDING
        return Given(cache(lambda: self._output(leaf.name, scope)))

    def _series(self, series: Series, given: Value, scope: int, inner: bool) -> Came:
        """Only the last part that has begun matters: all before it are through."""
        places = reversed(range(len(series.parts)))
        place = next((one for one in places if self._has_begun(series.parts[one], scope, inner)), 0)
        if place and self._is_handing_out(series.parts[place - 1], scope):
            return self._while_handing_out(series.parts[place - 1], series.parts[place], scope)
        value: Value = given if place == 0 else lambda: self._value_before(series, place, given, scope, inner)
        for part in series.parts[place:]:
            came = _done_or(self.came_to(part, value, scope, inner), part)
            if not isinstance(came, Given):
                if series.whole and isinstance(came, Ended):
                    return PENDING if came.at_work else Given(came.value)
                return came
            value = came.value
        return Given(value)

    def _is_handing_out(self, part: Part, scope: int) -> bool:
        """Whether a stage has given work to the part after it, and is not through itself."""
        state = self._states.get((part.name, scope)) if isinstance(part, Leaf) else None
        return state is not None and state.status != COMPLETED

    def _while_handing_out(self, source: Part, taker: Part, scope: int) -> Came:
        assert isinstance(source, Leaf)
        state = self._states[source.name, scope]
        if state.status != FAILED:
            return PENDING
        names = {leaf.name for leaf in leaves(taker)}
        at_work = any(one.stage in names and one.status not in FINAL for one in self._states.values())
        return Fallen(state, at_work)

    def _value_before(self, series: Series, place: int, given: Value, scope: int, inner: bool) -> Any:
        """What the part at ``place`` was given, which has begun."""
        value = given
        for part in series.parts[:place]:
            came = self.came_to(part, value, scope, inner)
            assert isinstance(came, Given), "a part began before the one before it was through"
            value = came.value
        return value()

    def _choice(self, choice: Choice, given: Value, scope: int, inner: bool) -> Came:
        test = self.came_to(choice.test, given, scope, inner)
        if not isinstance(test, Given):
            return test
        if test.value():
            return self.came_to(choice.then, given, scope, inner)
        return (
            Given(given) if choice.otherwise is None else self.came_to(choice.otherwise, given, scope, inner)
        )

    def _each(self, each: Each, given: Value, scope: int, inner: bool) -> Came:
        listed = split(each, given())
        if inner and len(listed) > MOST_INNER:
            raise TypeError(f"a map in a map can have {MOST_INNER} tasks: use a larger batch")
        if not inner:
            self.totals[next(leaves(each)).name] = len(listed)
        base = scope << INNER_BITS if inner else 0
        items: list[Came] = []
        at_work, is_over = 0, False
        for number, item in enumerate(listed):
            scope_of_item = base + number
            if (is_over or at_work >= WINDOW) and not self._has_begun(each.part, scope_of_item, True):
                return _joined(items, list) if is_over else PENDING
            came = self.came_to(each.part, partial(_same, item), scope_of_item, True)
            is_over = is_over or isinstance(came, Fallen | Ended)
            at_work += isinstance(came, Pending)
            items.append(came)
        return _joined(items, lambda: [one.value() for one in items if isinstance(one, Given)])

    def _guarded(self, guarded: Guarded, given: Value, scope: int, inner: bool) -> Came:
        came = self.came_to(guarded.part, given, scope, inner)
        if not isinstance(came, Fallen):
            return came
        if came.at_work:
            return PENDING
        return self.came_to(guarded.handler, lambda: failure(came.stage, given()), scope, inner)

    def _has_begun(self, part: Part, scope: int, inner: bool) -> bool:
        if isinstance(part, Leaf):
            return (part.name, scope) in self._states
        if not isinstance(part, Each):
            return any(self._has_begun(one, scope, inner) for one in children(part))
        low = scope << INNER_BITS if inner else 0
        high = low + MOST_INNER if inner else 1 << 31
        return any(self._is_within(leaf.name, low, high) for leaf in leaves(part))

    def _is_within(self, name: str, low: int, high: int) -> bool:
        scopes = self._scopes.get(name, [])
        place = bisect_left(scopes, low)
        return place < len(scopes) and scopes[place] < high


def failure(stage: StageState, given: Any) -> Any:
    """What the stage of ``on_failure`` gets, as JSON."""
    error = error_of(stage)
    code, message = str(error["code"]), str(error["message"])
    return msgspec.to_builtins(Failure(stage=stage.stage, code=code, message=message, input=given))


def error_of(stage: StageState) -> dict[str, Any]:
    """Why a stage failed: ``code``, ``message`` and whatever else is on record."""
    return {"code": "actor_error", "message": "the stage failed"} | (stage.error or {})


def is_done(result: Any) -> bool:
    """Whether a stage's result (as it is kept) is a `Done`."""
    return isinstance(result, dict) and set(result) == {DONE}


def _same(value: Any) -> Any:
    return value


def _done_or(came: Came, part: Part) -> Came:
    """What a part came to, or that a stage of it is done with the whole. Joins look for themselves."""
    if isinstance(came, Given) and not isinstance(part, Each | Parallel) and is_done(came.value()):
        return _ended(came)
    return came


def _ended(came: Given) -> Ended:
    return Ended(lambda: came.value()[DONE])


def _joined(every: Sequence[Came], value: Value) -> Came:
    """What parts side by side have come to. Their values are not read before all of them are through."""
    at_work = any(isinstance(one, Pending) or getattr(one, "at_work", False) for one in every)
    fallen = next((one for one in every if isinstance(one, Fallen)), None)
    if fallen is not None:
        return Fallen(fallen.stage, at_work)
    ended = next((one for one in every if isinstance(one, Ended)), None)
    if ended is None and not at_work:
        ended = next((_ended(one) for one in every if isinstance(one, Given) and is_done(one.value())), None)
    if ended is not None:
        return Ended(ended.value, at_work)
    return PENDING if at_work else Given(cache(value))
