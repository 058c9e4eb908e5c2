"""Defining actors: names, policies, and payloads that become the type a function asks for."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

from actors.definitions import DEFAULT_QUEUE, Actor, Policy, actor
from actors.errors import DefinitionError
from actors.registry import Registry, load_module, members
from tasks.errors import InvalidField


class Item(msgspec.Struct, forbid_unknown_fields=True):
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Order(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item]
    due: datetime | None = None
    labels: dict[str, str] = {}


@actor
def ship(order: Order) -> int:
    """Ship an order."""
    return sum(item.count for item in order.items)


# --- names and policies ------------------------------------------------------------------------------


def test_a_plain_actor_is_named_after_its_function_and_has_the_default_policy() -> None:
    assert ship.name == "ship"
    assert ship.policy == Policy()
    assert ship.policy.queue == DEFAULT_QUEUE
    assert ship.__doc__ == "Ship an order."


def test_a_policy_is_given_with_the_decorator() -> None:
    @actor(
        name="shop.ship",
        queue="shipping",
        max_retries=5,
        timeout=30,
        backoff="fixed",
        retry_on=(OSError,),
        isolated=True,
    )
    def ship_by_sea(order: Order) -> None: ...

    assert ship_by_sea.name == "shop.ship"
    assert ship_by_sea.policy == Policy(
        queue="shipping",
        max_retries=5,
        timeout=30,
        backoff={"kind": "fixed"},
        retry_on=(OSError,),
        isolated=True,
    )


def test_an_actor_called_directly_is_just_its_function() -> None:
    assert ship(Order([Item("a", 2), Item("b", 3)])) == 5


@pytest.mark.parametrize("name", ["a", "shop.ship", "ship-2", "shop:ship", "7zip", "a" * 100])
def test_a_name_has_letters_digits_and_some_punctuation(name: str) -> None:
    assert Actor(lambda: None, name, Policy()).name == name


@pytest.mark.parametrize("name", ["", " ship", "ship it", "-ship", ".ship", "schön", "a" * 101, "ship\n"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="cannot name a task type"):
        Actor(lambda: None, name, Policy())


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(DefinitionError, match="'<lambda>' cannot name"):
        actor(lambda payload: None)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"backoff": "linear"}, "backoff"),
        ({"backoff": {"kind": "fixed", "base": -1}}, "backoff.base"),
        ({"priority": 3}, "priority"),
        ({"queue": ""}, "queue"),
        ({"queue": 7}, "queue"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": "many"}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "1 minute"}, "timeout"),
        ({"retry_on": (OSError, "TimeoutError")}, "retry_on"),
        ({"retry_on": OSError}, "retry_on"),
        ({"isolated": "yes"}, "isolated"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_a_policy_that_cannot_be_used_is_refused_when_the_actor_is_defined(
    policy: dict[str, Any], said: str
) -> None:
    def mail(payload: Any) -> None: ...

    define: Any = actor
    with pytest.raises(DefinitionError, match=r"^the policy of mail cannot be used: ") as caught:
        define(**policy)(mail)

    assert said in caught.value.message


# --- signatures --------------------------------------------------------------------------------------


def test_a_function_with_two_arguments_is_no_actor() -> None:
    with pytest.raises(DefinitionError, match="add takes 2 arguments: an actor takes its payload alone"):

        @actor
        def add(one: int, other: int) -> int:
            return one + other


def test_a_function_that_takes_its_argument_by_name_alone_is_no_actor() -> None:
    with pytest.raises(DefinitionError, match="shout"):

        @actor
        def shout(*, text: str) -> None: ...


def test_an_annotation_that_cannot_be_found_is_refused() -> None:
    def lost(payload: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match=r"a type that lost mentions cannot be found: .*Nowhere"):
        actor(lost)


def test_a_function_without_arguments_runs_whatever_the_payload_is() -> None:
    @actor
    def tick() -> str:
        return "tock"

    assert tick.run({"anything": 1}) == "tock"


def test_a_function_without_annotations_gets_the_payload_as_it_is() -> None:
    @actor
    def echo(payload):  # type: ignore[no-untyped-def]
        return payload

    assert echo.run({"a": [1, None, "x"]}) == {"a": [1, None, "x"]}


# --- payloads ----------------------------------------------------------------------------------------


def test_a_payload_becomes_what_the_function_asks_for() -> None:
    order = ship.parse({"items": [{"sku": "a"}], "due": "2026-01-02T03:04:05Z"})

    assert isinstance(order, Order)
    assert order.items == [Item("a", 1)]
    assert order.due is not None
    assert order.due.year == 2026
    assert ship.run({"items": [{"sku": "a", "count": 4}]}) == 4


def test_an_id_in_a_payload_becomes_an_id() -> None:
    @actor
    def find(task_id: UUID) -> str:
        return task_id.hex

    assert find.run("0190c0de-0000-7000-8000-000000000001") == "0190c0de000070008000000000000001"


def test_limits_on_the_payload_itself_are_kept() -> None:
    @actor
    def wait(seconds: Annotated[int, msgspec.Meta(ge=0)]) -> int:
        return seconds

    with pytest.raises(InvalidField, match="payload: Expected `int` >= 0"):
        wait.parse(-1)


@pytest.mark.parametrize(
    ("payload", "field", "said"),
    [
        ([], "payload", "Expected `object`, got `array`"),
        (None, "payload", "Expected `object`, got `null`"),
        ({}, "payload.items", "is required"),
        ({"items": 3}, "payload.items", "Expected `array`, got `int`"),
        ({"items": [{"sku": "a"}, {"sku": 7}]}, "payload.items[1].sku", "Expected `str`, got `int`"),
        ({"items": [{}]}, "payload.items[0].sku", "is required"),
        ({"items": [{"sku": "a", "count": 0}]}, "payload.items[0].count", ">= 1"),
        ({"items": [], "itmes": []}, "payload.itmes", "is not known here"),
        ({"items": [], "due": "tomorrow"}, "payload.due", "Invalid RFC3339"),
        ({"items": [], "labels": {"a": 1}}, "payload.labels[...]", "Expected `str`, got `int`"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_by_the_place_where_it_does_not(
    payload: Any, field: str, said: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        ship.parse(payload)

    ((name, message),) = caught.value.errors
    assert name == field
    assert said in message


# --- the registry ------------------------------------------------------------------------------------


def test_a_registry_knows_its_actors_by_name_with_their_queues() -> None:
    @actor(queue="mail")
    def greet() -> None: ...

    registry = Registry([ship, greet])

    assert registry.names == ["greet", "ship"]
    assert registry.queues == ["default", "mail"]
    assert registry.get("greet") is greet
    assert registry.get("leave") is None
    assert "ship" in registry


def test_two_actors_with_one_name_are_refused_but_the_same_one_twice_is_no_harm() -> None:
    impostor = Actor(lambda: None, "ship", Policy())
    registry = Registry([ship, ship])

    with pytest.raises(DefinitionError, match="two actors are named 'ship'"):
        registry.add(impostor)

    assert registry.get("ship") is ship


def test_a_module_of_actors_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"CALLBOARD_ACTORS names 'no\.such\.module'"):
        load_module("no.such.module")


def test_the_actors_of_a_module_are_found_once_each() -> None:
    module = load_module("actors.builtin")

    assert sorted(one.name for one in members(module, Actor)) == [
        "benchmark",
        "fail",
        "report_generation",
        "sleep",
        "test",
    ]
