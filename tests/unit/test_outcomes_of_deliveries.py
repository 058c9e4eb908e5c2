"""An outcome that cannot be recorded is replaced by another one, once; only what is recorded is acted on."""

import gc
import weakref
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from actors.delivery import Delivery, message_for
from tests.support.claims import a_claim


class Case:
    """A delivery whose outcome is being recorded, and what is recorded instead of it."""

    def __init__(self) -> None:
        claim = a_claim()
        self.delivery = Delivery(message_for(claim), claim)
        self.first: Future[Any] = Future()
        self.second: Future[Any] = Future()
        self.asked: list[BaseException] = []
        self.acted: list[str] = []
        self.delivery.recorded = self.first

    def instead(self, error: BaseException) -> "Future[Any] | None":
        self.asked.append(error)
        return None if isinstance(error, TimeoutError) else self.second

    def act_when_recorded(self) -> None:
        self.delivery.when_recorded(lambda: self.acted.append("acknowledged"))


@pytest.mark.parametrize("acting_comes", ["before the error", "after the error"])
def test_what_is_recorded_instead_is_waited_for_and_asked_for_once(acting_comes: str) -> None:
    case = Case()
    case.delivery.or_instead(case.instead)
    if acting_comes == "before the error":
        case.act_when_recorded()
    case.first.set_exception(ValueError("it cannot be kept"))
    if acting_comes == "after the error":
        case.act_when_recorded()
    assert case.acted == []
    case.second.set_result(True)
    assert case.acted == ["acknowledged"]
    assert len(case.asked) == 1


def test_whoever_sees_the_error_before_it_is_replaced_replaces_it() -> None:
    # Given one who acts and hears of the error first
    case = Case()
    case.act_when_recorded()
    case.delivery.or_instead(case.instead)
    # When it comes, then he waits for what is recorded instead
    case.first.set_exception(ValueError("it cannot be kept"))
    case.second.set_result(True)
    assert case.acted == ["acknowledged"]
    assert len(case.asked) == 1


def test_without_a_record_nothing_is_acted_on() -> None:
    # Given nothing to record instead, as when Postgres is away, or an error of that too
    for first, second in [(TimeoutError("away"), None), (ValueError("wrong"), ValueError("wrong again"))]:
        case = Case()
        case.delivery.or_instead(case.instead)
        case.act_when_recorded()
        case.first.set_exception(first)
        if second is not None:
            case.second.set_exception(second)
        assert (case.acted, len(case.asked)) == ([], 1)


def _nothing_instead_of(delivery: Delivery, error: BaseException) -> None:
    return None


def test_what_is_recorded_is_freed_at_once() -> None:
    # Given a delivery whose outcome is being recorded, and nobody who looks for cyclic garbage
    gc.disable()
    try:
        delivery = Case().delivery
        delivery.or_instead(partial(_nothing_instead_of, delivery))
        delivery.when_recorded(lambda: None)
        recorded = delivery.recorded
        # When it is, and nobody uses the delivery any more
        assert recorded is not None
        recorded.set_result(True)
        seen = weakref.ref(delivery)
        del delivery, recorded
        # Then it is gone
        assert seen() is None
    finally:
        gc.enable()
