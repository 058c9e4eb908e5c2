"""The plan of a pipeline: its stages in their places. Pure data; what follows what can be asked of it.

A stage has one task for each *scope* that it runs in. Outside of all maps there is one scope, 0. The items
of a map are scopes 0, 1, 2 …, those of a map inside of a map have the outer item's number in their upper
bits.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec

from actors.definitions import Actor
from pipelines.errors import CompositionError
from tasks.records import StageEdge

#: The items of an inner map are told apart by so many bits.
INNER_BITS = 16
MOST_INNER = 1 << INNER_BITS
MOST_OUTER = 1 << (31 - INNER_BITS)
MOST_ITEMS = 1_000_000


class Leaf(msgspec.Struct, frozen=True):
    """A stage in its place."""

    actor: Actor[..., Any]
    name: str


class Series(msgspec.Struct, frozen=True):
    """Parts one after the other. A ``whole`` one is a pipeline: what is done in it ends it alone."""

    parts: "tuple[Part, ...]"
    whole: bool = False


class Parallel(msgspec.Struct, frozen=True):
    """Parts side by side, all with the same input; together they give the list of their outputs."""

    parts: "tuple[Part, ...]"


class Choice(msgspec.Struct, frozen=True):
    """``then`` if the stage ``test`` says so, else ``otherwise``; without that the input goes on as it is."""

    test: Leaf
    then: "Part"
    otherwise: "Part | None"


class Each(msgspec.Struct, frozen=True):
    """A part for each item of a list; with ``batch`` for each so many, with ``key`` for each group."""

    part: "Part"
    batch: int = 0
    key: str | Callable[[Any], Any] | None = None

    @property
    def takes_lists(self) -> bool:
        """Whether the part gets a list of items."""
        return bool(self.batch) or self.key is not None


class Guarded(msgspec.Struct, frozen=True):
    """A part, and the stage that takes its place when it fails."""

    part: "Part"
    handler: Leaf


Part: TypeAlias = Leaf | Series | Parallel | Choice | Each | Guarded


class Step(msgspec.Struct, frozen=True):
    """A place on the way from the whole plan to a stage: ``part`` holds what comes next on that way."""

    part: Part
    place: int


def leaves(part: Part) -> Iterator[Leaf]:
    """The stages of a part in their order."""
    if isinstance(part, Leaf):
        yield part
    for one in children(part):
        yield from leaves(one)


def children(part: Part) -> Sequence[Part]:
    """The parts of a part, in their order."""
    match part:
        case Leaf():
            return ()
        case Series() | Parallel():
            return part.parts
        case Choice():
            return (part.test, part.then, *([part.otherwise] if part.otherwise is not None else []))
        case Each():
            return (part.part,)
        case Guarded():
            return (part.part, part.handler)


def way_to(part: Part, name: str) -> list[Step] | None:
    """The way to a stage, from the outside in; None if it is not there."""
    if isinstance(part, Leaf):
        return [] if part.name == name else None
    for place, one in enumerate(children(part)):
        way = way_to(one, name)
        if way is not None:
            return [Step(part, place), *way]
    return None


def batch_of(part: Part, name: str) -> int | None:
    """How many items a task of a stage gets; 0: one by itself; None: the stage is not mapped."""
    maps = [step.part for step in way_to(part, name) or [] if isinstance(step.part, Each)]
    return maps[-1].batch if maps else None


def following(way: Sequence[Step]) -> set[str]:
    """The names of the stages that come after the stage at the end of a way: they need what it gives."""
    names: set[str] = set()
    for step in way:
        if isinstance(step.part, Series | Guarded) or (isinstance(step.part, Choice) and step.place == 0):
            later = children(step.part)[step.place + 1 :]
            names.update(leaf.name for part in later for leaf in leaves(part))
    return names


def handlers(part: Part) -> set[str]:
    """The names of the stages that stand in for what fails."""
    own = {part.handler.name} if isinstance(part, Guarded) else set()
    return own.union(*(handlers(one) for one in children(part)))


def depth(part: Part) -> int:
    """How many maps lie inside each other."""
    return max([depth(one) for one in children(part)], default=0) + isinstance(part, Each)


def renamed(part: Part, prefix: str) -> Part:
    """A part whose stages have a prefix to their names: a pipeline in another one."""
    match part:
        case Leaf():
            return _leaf(part, prefix)
        case Series():
            return Series(tuple(renamed(one, prefix) for one in part.parts), part.whole)
        case Parallel():
            return Parallel(tuple(renamed(one, prefix) for one in part.parts))
        case Choice():
            otherwise = None if part.otherwise is None else renamed(part.otherwise, prefix)
            return Choice(_leaf(part.test, prefix), renamed(part.then, prefix), otherwise)
        case Each():
            return Each(renamed(part.part, prefix), part.batch, part.key)
        case Guarded():
            return Guarded(renamed(part.part, prefix), _leaf(part.handler, prefix))


def split(each: Each, listed: Any) -> list[Any]:
    """What the tasks of a map get, from the list that it was given.

    Raises:
      TypeError: it is no list, has too many items, or an item has no such key.
    """
    name = next(leaves(each)).name
    if not isinstance(listed, list):
        raise TypeError(f"{name}.map() needs a list, but the stage before returned {type(listed).__name__}")
    size = each.batch or len(listed) or 1
    groups = [listed] if each.key is None else _grouped(each.key, listed, name)
    parts = (
        [part[at : at + size] for part in groups for at in range(0, len(part), size)]
        if each.takes_lists
        else listed
    )
    most = MOST_OUTER if depth(each) > 1 else MOST_ITEMS
    if len(parts) > most:
        raise TypeError(f"{name}.map() can have {most} tasks, not {len(parts)}: use a larger batch")
    return list(parts)


def _grouped(key: str | Callable[[Any], Any], listed: list[Any], name: str) -> list[list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in listed:
        try:
            found = item[key] if isinstance(key, str) else key(item)
            groups.setdefault(found, []).append(item)
        except Exception as error:
            raise TypeError(f"{name}.map() cannot tell the key of an item: {error!r}") from error
    return list(groups.values())


def links(part: Part) -> Iterator[StageEdge]:
    """How the stages of a part follow each other."""
    for one in children(part):
        yield from links(one)
    match part:
        case Series():
            for before, after in pairwise(part.parts):
                yield from _between(before, after, "map" if isinstance(after, Each) else "next")
        case Choice():
            yield from _between(part.test, part.then, "then")
            if part.otherwise is not None:
                yield from _between(part.test, part.otherwise, "otherwise")
        case Guarded():
            for leaf in leaves(part.part):
                yield StageEdge(leaf.name, part.handler.name, "failure")
        case Leaf() | Parallel() | Each():
            pass


def _between(before: Part, after: Part, kind: str) -> Iterator[StageEdge]:
    for source in _last(before):
        for target in _first(after):
            yield StageEdge(source, target, kind)


def _first(part: Part) -> list[str]:
    """The stages with which a part begins."""
    match part:
        case Leaf():
            return [part.name]
        case Parallel():
            return [name for one in part.parts for name in _first(one)]
        case Series() | Choice() | Each() | Guarded():
            return _first(children(part)[0])


def _last(part: Part) -> list[str]:
    """The stages with which a part ends."""
    match part:
        case Leaf():
            return [part.name]
        case Series():
            return _last(part.parts[-1])
        case Parallel() | Guarded():
            return [name for one in children(part) for name in _last(one)]
        case Choice():
            return _last(part.then) + _last(part.test if part.otherwise is None else part.otherwise)
        case Each():
            return _last(part.part)


def passed_by(part: Part, begun: Collection[str], *, is_over: bool) -> set[str]:
    """The stages that have not begun and never will: a choice went the other way, or nothing failed."""
    if isinstance(part, Leaf):
        return {part.name} if is_over and part.name not in begun else set()
    parts = children(part)
    going = [any(leaf.name in begun for leaf in leaves(one)) for one in parts]
    found: set[str] = set()
    for place, one in enumerate(parts):
        left = isinstance(part, Series) and any(going[place + 1 :])
        other = isinstance(part, Choice) and place > 0 and any(going[1:]) and not going[place]
        found |= passed_by(one, begun, is_over=is_over or left or other)
    return found


def fingerprint(part: Part) -> str:
    """What tells two plans apart: their stages by name, and how they hang together."""
    return hashlib.sha256(msgspec.json.encode(_shape(part))).hexdigest()[:8]


def _shape(part: Part) -> Any:
    parts = [_shape(one) for one in children(part)]
    match part:
        case Leaf():
            return part.name
        case Each():
            key = part.key if part.key is None or isinstance(part.key, str) else "function"
            return ["each", part.batch, key, *parts]
        case Series():
            return ["whole" if part.whole else "series", *parts]
        case Parallel() | Choice() | Guarded():
            return [type(part).__name__.lower(), *parts]


def check_names(part: Part, pipeline: str) -> None:
    """Refuse two stages of one name.

    Raises:
      CompositionError: there are such.
    """
    names = [leaf.name for leaf in leaves(part)]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise CompositionError(
            f"the pipeline {pipeline} has two stages named {twice}: rename one with name=…"
        )
    if depth(part) > 2:
        raise CompositionError(
            f"the pipeline {pipeline} has maps three deep: a map may hold another one, and no more"
        )


def _leaf(leaf: Leaf, prefix: str) -> Leaf:
    return Leaf(leaf.actor, prefix + leaf.name)
