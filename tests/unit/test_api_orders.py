"""From the body of POST /tasks to an order."""

from datetime import UTC, datetime
from typing import Any

import pytest

from api.caller import ANYBODY, Caller
from api.orders import read_order
from tasks.errors import InvalidField


def refusals(body: dict[str, Any], prefix: str = "") -> dict[str, str]:
    with pytest.raises(InvalidField) as refused:
        read_order(body, ANYBODY, prefix=prefix)
    return dict(refused.value.errors)


def test_a_type_is_enough() -> None:
    order = read_order({"task_type": "test"}, ANYBODY)

    assert (order.task_type, order.payload, order.priority, order.queue_name) == ("test", {}, 5, None)
    assert order.created_by == "user:anonymous"


def test_every_field_is_carried_over() -> None:
    order = read_order(
        {
            "type": "test",
            "params": [1],
            "retry_limit": 0,
            "queue_name": "mail",
            "priority": "critical",
            "backoff": "fixed",
            "timeout": 1.5,
            "run_at": "2030-01-01T02:00:00+02:00",
            "kb_id": "kb_1",
            "user_id": "u1",
            "project_id": "p1",
            "tags": ["a", "b"],
        },
        ANYBODY,
    )

    assert (order.payload, order.max_retries, order.queue_name, order.priority) == ([1], 0, "mail", 10)
    assert (order.backoff, order.timeout) == ({"kind": "fixed"}, 1.5)
    assert order.run_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert (order.kb_id, order.user_id, order.project_id, order.tags) == ("kb_1", "u1", "p1", ("a", "b"))


@pytest.mark.parametrize(
    ("word", "number"), [("low", 2), ("normal", 5), ("high", 8), ("critical", 10), (0, 0)]
)
def test_a_priority_is_a_word_or_a_number(word: object, number: int) -> None:
    assert read_order({"type": "test", "priority": word}, ANYBODY).priority == number


def test_null_is_as_good_as_leaving_a_field_out_but_a_payload_may_be_null() -> None:
    order = read_order({"type": "test", "priority": None, "tags": None, "payload": None}, ANYBODY)

    assert (order.priority, order.tags, order.payload) == (5, (), None)


def test_all_wrong_fields_are_named_together() -> None:
    found = refusals({"priority": 11, "max_retries": "3", "tag": ["a"], "timeout": 0, "tags": ["a", ""]})

    assert set(found) == {"task_type", "priority", "max_retries", "tag", "timeout", "tags[1]"}
    assert "is not known here" in found["tag"]
    assert found["task_type"] == "is required"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_type", ""),
        ("task_type", "a b"),
        ("task_type", "test\n"),
        ("task_type", "x" * 101),
        ("queue_name", "ä"),
        ("priority", -1),
        ("priority", 5.5),
        ("priority", True),
        ("priority", "urgent"),
        ("max_retries", 101),
        ("backoff", "linear"),
        ("timeout", 86_401),
        ("delay", -1),
        ("delay", 367 * 86_400),
        ("run_at", "2030-01-01T00:00:00"),
        ("run_at", "0001-01-01T00:00:00+14:00"),
        ("kb_id", "x" * 201),
        ("user_id", 7),
        ("tags", ["a"] * 51),
        ("tags", "a"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    assert list(refusals({"task_type": "test", field: value})) == [field]


def test_two_spellings_of_one_field_are_refused() -> None:
    assert "means the same as task_type" in refusals({"task_type": "test", "type": "test"})["type"]


def test_delay_and_run_at_are_refused_together() -> None:
    body = {"type": "test", "delay": 1, "run_at": "2030-01-01T00:00:00Z"}

    assert "together with delay" in refusals(body)["run_at"]


def test_the_fields_of_an_item_are_named_with_its_index() -> None:
    assert list(refusals({"type": "test", "priority": 99}, "tasks[3].")) == ["tasks[3].priority"]
    assert list(refusals({"type": "test", "backoff": "x"}, "tasks[3].")) == ["tasks[3].backoff"]


def test_only_an_admin_submits_for_somebody_else() -> None:
    body = {"type": "test", "user_id": "bob"}

    assert read_order(body, Caller("alice")).user_id == "alice"
    assert read_order(body, Caller("alice", is_admin=True)).user_id == "bob"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    order = read_order({"task_type": "test", "priority": 7.0, "max_retries": 2.0, "payload": 1.0}, ANYBODY)
    assert (order.priority, order.max_retries) == (7, 2)
    # The payload is its actor's: nothing in it is changed
    assert isinstance(order.payload, float)
