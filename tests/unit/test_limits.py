"""How many tasks of a type run at once: what a policy may say, and which tasks are counted together."""

from typing import Any

import pytest

from actors.definitions import Policy, actor
from actors.errors import DefinitionError
from actors.limits import limited
from actors.submission import Defaults, Order
from pipelines import flow
from pipelines.composition import Pipeline, stage
from tasks.values import NewTask

DEFAULTS = Defaults()


def key_of(path: str | None, **fields: Any) -> str | None:
    task = NewTask(task_type="send", queue_name="default", **fields)
    return limited(task, Policy(concurrency=2, concurrency_key=path)).concurrency_key


def test_tasks_of_a_type_without_a_limit_have_none() -> None:
    task = NewTask(task_type="send", queue_name="default")

    assert limited(task, Policy()) is task


def test_all_tasks_of_a_type_are_counted_together_unless_it_names_a_key() -> None:
    @actor(concurrency=3)
    def send(payload: Any) -> None: ...

    (task,) = send.tasks(Order(task_type="send", payload=[1]), DEFAULTS)

    assert (task.concurrency, task.concurrency_key) == (3, "send")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("user_id", {"user_id": "ann"}),
        ("project_id", {"project_id": "ann"}),
        ("kb_id", {"kb_id": "ann"}),
        ("payload", {"payload": "ann"}),
        ("payload.customer", {"payload": {"customer": "ann"}}),
        ("payload.order.customer-id", {"payload": {"order": {"customer-id": "ann"}}}),
    ],
)
def test_a_key_is_what_a_task_has_at_the_path(path: str, fields: dict[str, Any]) -> None:
    assert key_of(path, **fields) == 'send "ann"'


@pytest.mark.parametrize(
    "fields",
    [{}, {"payload": None}, {"payload": {"customer": None}}, {"payload": {"customer": ""}}, {"payload": [1]}],
)
def test_a_task_that_has_nothing_there_is_not_held_back(fields: dict[str, Any]) -> None:
    assert key_of("payload.customer", **fields) is None
    assert key_of("user_id", **fields) is None


def test_values_are_told_apart_by_their_type_and_not_by_the_order_of_their_fields() -> None:
    def key(value: Any) -> str | None:
        return key_of("payload.x", payload={"x": value})

    assert len({key(value) for value in (0, "0", False, 0.5, [0], {"a": 0})}) == 6
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_a_long_value_makes_a_short_key() -> None:
    one, other = (key_of("payload", payload="é" * 100_000 + end) for end in "ab")

    assert one is not None
    assert len(one) < 100
    assert one != other


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"concurrency": 0}, ">= 1"),
        ({"concurrency": True}, "Expected `int"),
        ({"concurrency": "3"}, "Expected `int"),
        ({"concurrency": 10**9}, "<= 1000000"),
        ({"concurrency_key": "user_id"}, "say how many with concurrency="),
        ({"concurrency": 1, "concurrency_key": "tags"}, "payload.customer.id, not 'tags'"),
        ({"concurrency": 1, "concurrency_key": "payload."}, "user_id, project_id, kb_id"),
        ({"concurrency": 1, "concurrency_key": "payload.a b"}, "a place in the payload"),
        ({"concurrency": 1, "concurrency_key": 7}, "Expected `str"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused_where_it_is_declared(
    policy: dict[str, Any], words: str
) -> None:
    with pytest.raises(DefinitionError, match=words) as refused:

        @actor(**policy)
        def send(payload: Any) -> None: ...

    assert "send" in str(refused.value)


def test_a_stage_has_the_limit_of_its_policy_counted_within_its_pipeline() -> None:
    @stage(concurrency=2, concurrency_key="kb_id")
    def chunk(text: str) -> str:
        return text

    pipeline = Pipeline("reading", chunk)
    run = NewTask(task_type="reading", queue_name="default", payload="a", is_run=True, kb_id="docs")

    (task,) = flow.begin(pipeline, run, DEFAULTS)

    assert (task.concurrency, task.concurrency_key) == (2, 'reading.chunk "docs"')
    assert run.concurrency is None
