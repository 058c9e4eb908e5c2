"""Executors: objects with a type and ``execute(task)``, and results that are set instead of returned."""

import sys
from typing import Any

import pytest

from actors import current_task, register
from actors.attempt import Attempts, Completed, Judged
from actors.context import CurrentTask, Resources
from actors.definitions import Actor, Policy, actor
from actors.errors import DefinitionError
from actors.interrupts import Interrupts
from actors.registry import Registry, actors_of, load_module
from tasks.values import Json
from tests.support.claims import a_claim

HERE = __name__


class Doubler:
    """Doubles a number."""

    type = "doubler"

    def execute(self, task: CurrentTask) -> None:
        task.result = {"number": task.payload["number"] * 2}


class Tripler:
    def get_type(self) -> str:
        return "tripler"

    def execute(self, task: CurrentTask) -> dict[str, int]:
        return {"number": task.payload["number"] * 3}


register(Doubler(), queue="sums", max_retries=1)
tripler = register(Tripler())


def verdict(one: Actor[..., Any], payload: bytes = b'{"number":7}') -> Judged:
    """What a task of an actor comes to."""
    attempts = Attempts(Registry([one]), Resources(), Interrupts(), lambda *_: None, lambda *_: None)  # type: ignore[arg-type, return-value]
    return attempts.run(a_claim(task_type=one.name, payload=Json(payload)))


def find(name: str) -> Actor[..., Any]:
    return next(one for one in actors_of(sys.modules[HERE]) if one.name == name)


def test_what_a_module_registers_is_served_whether_it_has_a_name_there_or_not() -> None:
    names = [one.name for one in actors_of(sys.modules[HERE])]

    assert sorted(names) == ["doubler", "tripler"]
    assert find("tripler") is tripler


def test_another_module_does_not_serve_it() -> None:
    assert "doubler" not in [one.name for one in actors_of(load_module("actors.builtin"))]


def test_an_executor_has_the_policy_it_was_registered_with() -> None:
    assert find("doubler").policy == Policy(queue="sums", max_retries=1)
    assert find("doubler").__doc__ == "Doubles a number."


def test_a_result_that_is_set_is_the_tasks_result() -> None:
    assert verdict(find("doubler")) == Completed({"number": 14})


def test_a_result_that_is_returned_is_too() -> None:
    assert verdict(tripler) == Completed({"number": 21})


def test_any_actor_may_set_its_result_and_what_it_returns_goes_before() -> None:
    @actor
    def sets() -> None:
        current_task().result = {"count": 100}

    @actor
    def sets_and_returns() -> str:
        current_task().result = "set"
        return "returned"

    assert verdict(sets) == Completed({"count": 100})
    assert verdict(sets_and_returns) == Completed("returned")


def test_an_executor_without_a_type_or_without_execute_is_refused() -> None:
    class Nameless:
        def execute(self, task: CurrentTask) -> None: ...

    class Idle:
        type = "idle"

    with pytest.raises(DefinitionError, match="Nameless does not say its type"):
        register(Nameless())
    with pytest.raises(DefinitionError, match="idle has no method execute"):
        register(Idle())  # type: ignore[arg-type]
