"""Types as far as composing needs them: what may follow what, and how a type is spelled to people."""

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin


def without(kind: Any, left_out: type) -> Any:
    """A type without one member of its union: what goes on of ``Validated | Done``."""
    if _is_union(kind):
        return union_of([one for one in get_args(kind) if one is not left_out])
    return kind


def union_of(kinds: Sequence[Any]) -> Any:
    """The type of a value that is of one of these types."""
    return Any if Any in kinds else Union[tuple(kinds)]  # noqa: UP007 - made at run time


def is_list(kind: Any) -> bool:
    """Whether a type is a list, as far as it says."""
    return kind is Any or (get_origin(kind) or kind) in (list, tuple)


def item_of(listed: Any) -> Any:
    """The type of the items of a list or a tuple."""
    items = [one for one in get_args(listed) if one is not ...] if listed is not Any else []
    return union_of(items) if items else Any


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def fits(given: Any, taken: Any) -> bool:
    """Whether every value of type ``given`` can be one of ``taken``, as far as types can tell."""
    given, taken = _bare(given), _bare(taken)
    if Any in (given, taken) or given == taken:
        return True
    if _is_union(given):
        return all(fits(one, taken) for one in get_args(given))
    if _is_union(taken):
        return any(fits(given, one) for one in get_args(taken))
    one, other = get_origin(given) or given, get_origin(taken) or taken
    if one in (list, tuple) and other in (list, tuple):  # JSON knows one kind of list
        places, wanted = _places(given), _places(taken)
        if places and wanted:
            return len(places) == len(wanted) and all(map(fits, places, wanted))
        return fits(item_of(given), item_of(taken))
    if not (isinstance(one, type) and isinstance(other, type)):
        return False
    arguments = zip(get_args(given), get_args(taken), strict=False)
    return _is_kind_of(one, other) and all(fits(*pair) for pair in arguments)


def _places(kind: Any) -> tuple[Any, ...]:
    """The types of a tuple whose length is known."""
    arguments = get_args(kind)
    return () if get_origin(kind) is not tuple or ... in arguments else arguments


def _is_kind_of(one: type, other: type) -> bool:
    try:
        return issubclass(one, other) or (one, other) == (int, float)
    except TypeError:  # a TypedDict or a protocol: seen only when it runs
        return True


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def spell(kind: Any) -> str:
    """A type as people write it."""
    if _is_union(kind):
        return " | ".join(map(spell, get_args(kind)))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
