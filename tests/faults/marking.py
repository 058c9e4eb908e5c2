"""Lets every actor leave marks in the sink, the ready-made ones too: named in ``CALLBOARD_ACTORS``, it is
imported by all processes that run actors."""

from typing import Any

from actors.definitions import Actor
from tests.faults.sink import mark

_run = Actor.run


def marked_run(self: Actor[..., Any], payload: Any) -> Any:
    mark("start")
    result = _run(self, payload)
    mark("end")
    return result


Actor.run = marked_run  # type: ignore[method-assign]
