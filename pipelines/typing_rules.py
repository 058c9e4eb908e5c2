"""What parts take and give: checked when they are composed."""

from collections.abc import Sequence
from typing import Any

from pipelines.errors import CompositionError
from pipelines.evaluation import Done, Failure
from pipelines.plan import Choice, Each, Guarded, Leaf, Parallel, Part, Series, Step, leaves
from pipelines.types import fits, is_list, item_of, spell, union_of, without


def check(part: Part) -> None:
    """Refuse parts that cannot follow each other.

    Raises:
      CompositionError: it names both stages and their types.
    """
    _through(part, Any, "the input")


def taken_by(part: Part) -> Any:
    """The type that a part takes."""
    match part:
        case Leaf():
            return part.actor.payload_type
        case Series():
            return taken_by(part.parts[0])
        case Parallel():  # all of them must take it, and types cannot be intersected
            return next((kind for kind in map(taken_by, part.parts) if kind is not Any), Any)
        case Choice():
            return taken_by(part.test) if taken_by(part.test) is not Any else taken_by(part.then)
        case Each():
            taken = taken_by(part.part)
            return taken if part.takes_lists else list[taken]  # type: ignore[valid-type]
        case Guarded():
            return taken_by(part.part)


def taken_after(way: Sequence[Step]) -> Any:
    """The type that the part takes that comes after the stage at the end of a way; None at a ``gather``."""
    for step in reversed(way):
        part = step.part
        if isinstance(part, Series) and step.place + 1 < len(part.parts):
            return taken_by(part.parts[step.place + 1])
        if isinstance(part, Parallel) or (isinstance(part, Choice) and step.place == 0):
            return None
    return None


def _through(part: Part, given: Any, giver: str) -> Any:
    """The type that a part gives for what it is given."""
    match part:
        case Leaf():
            _fit(part, given, giver)
            return without_done(part)
        case Series():
            for one in part.parts:
                given = _through(one, given, giver)
                giver = _giver(one)
            return Any if part.whole and _may_be_done(part) else given
        case Parallel():
            every = tuple(_through(one, given, giver) for one in part.parts)
            return tuple[every]  # type: ignore[valid-type]
        case Choice():
            _fit(part.test, given, giver)
            then = _through(part.then, given, giver)
            return union_of(
                [then, given if part.otherwise is None else _through(part.otherwise, given, giver)]
            )
        case Each():
            return list[_through(part.part, _item(part, given, giver), giver)]  # type: ignore[misc]
        case Guarded():
            came = _through(part.part, given, giver)
            _fit(part.handler, Failure, f"{_giver(part.part)}.on_failure()")
            return union_of([came, without_done(part.handler)])


def without_done(leaf: Leaf) -> Any:
    """What goes on of what a stage returns."""
    return without(leaf.actor.result_type, Done)


def _may_be_done(part: Part) -> bool:
    """Whether a stage may end all of it with a value of its own, of which no type tells."""
    return any(leaf.actor.result_type != without_done(leaf) for leaf in leaves(part))


def _item(each: Each, given: Any, giver: str) -> Any:
    if not is_list(given):
        name = next(leaves(each)).name
        raise CompositionError(f"{name}.map() fans out over a list, but {giver} returns {spell(given)}")
    item = item_of(given)
    return list[item] if each.takes_lists else item  # type: ignore[valid-type]


def _giver(part: Part) -> str:
    return list(leaves(part))[-1].name


def _fit(leaf: Leaf, given: Any, giver: str) -> None:
    taken = leaf.actor.payload_type
    if not fits(given, taken):
        raise CompositionError(
            f"these cannot be chained: {giver} gives {spell(given)}, but {leaf.name} takes {spell(taken)}"
        )
