"""What a stage can hand out to while it runs: the map that comes right after it. Pure functions."""

from typing import Any

from actors.handing import Opening
from actors.submission import Defaults
from pipelines import flow
from pipelines.evaluation import WINDOW
from pipelines.plan import Each, Leaf, Part, Series, children, leaves
from tasks.values import Claimed, NewTask


def opening(pipeline: flow.Composed, stage: str) -> Opening | None:
    """The map that a stage can hand out to; None if none follows, or one that needs the whole list first.

    A stage inside of a map hands nothing out, and neither do items go by a key or into another map at once.
    """
    each = _map_after(pipeline, stage)
    if each is None or each.key is not None or not _begins_with_stages(each.part):
        return None
    return Opening(tuple(leaf.name for leaf in leaves(each)), each.batch or 1, WINDOW)


def handed(
    pipeline: flow.Composed, claim: Claimed, index: int, value: Any, defaults: Defaults
) -> list[NewTask]:
    """The first tasks of the map after a stage for what is handed out as number ``index``."""
    each = _map_after(pipeline, claim.stage or "")
    assert each is not None, "nothing is handed out but to a map"
    return flow.begin_item(pipeline, claim, each.part, index, value, defaults)


def _map_after(pipeline: flow.Composed, stage: str) -> Each | None:
    way = flow.find(pipeline, stage)
    last = way[-1]
    if any(isinstance(step.part, Each) for step in way) or not isinstance(last.part, Series):
        return None
    following = last.part.parts[last.place + 1 : last.place + 2]
    return following[0] if following and isinstance(following[0], Each) else None


def _begins_with_stages(part: Part) -> bool:
    """Whether its first stages get what the part is given, as it is: an inner map would take it apart."""
    if isinstance(part, Leaf | Each):
        return isinstance(part, Leaf)
    return _begins_with_stages(children(part)[0])
