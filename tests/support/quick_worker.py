"""A module for ``CALLBOARD_ACTORS``: workers that embed by words alone, in stages that take a moment.

So that a kill that answers one of the marks in the sink hits the stage before, amid or after its effects.
"""

from typing import Any

from actors.definitions import Actor
from tests.faults import marking
from tests.support.actors_for_tests import nap
from tests.support.word_vectors import take_the_place_of_e5

MOMENT = 0.02


def _unhurried_run(self: Actor[..., Any], payload: Any) -> Any:
    nap(MOMENT)
    result = marking.marked_run(self, payload)
    nap(MOMENT)
    return result


take_the_place_of_e5(setattr)
Actor.run = _unhurried_run  # type: ignore[method-assign]
