"""Submitting: from an order to the tasks on record."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors import submission as module
from actors.builtin import ACTORS
from actors.definitions import actor
from actors.submission import Check, Defaults, Order, Submission
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline, stage
from tasks.catalogue import declare
from tasks.errors import InvalidField
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.values import TaskType


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    copies: int = 1


@actor(queue="mail", max_retries=7, timeout=9.5, backoff={"kind": "fixed", "base": 2})
def send(letter: Letter) -> None: ...


@stage(queue="text", retries=5)
def split(text: str) -> list[str]:
    return text.split()


@stage
def measure(word: str) -> int:
    return len(word)


PIPELINES = [Pipeline("words", split | measure.map(), queue="runs"), Pipeline("lengths", measure.map())]


class Office:
    """A submission on an empty record."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.database = database
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.submission = self.with_checks({})

    def with_checks(self, checks: dict[str, Check]) -> Submission:
        catalogue = Catalogue([*ACTORS, send], PIPELINES)
        return Submission(catalogue, self.ledger, self.queries, Defaults(3, 300.0), checks)

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture
def office(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Office]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE tasks, task_state, attempts, events, queues, task_types")
    opened = Office(shared, url)
    yield opened
    opened.close()


def refused(submission: Submission, **order: Any) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        submission.prepare(Order(**order))
    return caught.value


def test_an_order_becomes_a_task_with_the_policy_of_its_type(office: Office) -> None:
    (task,) = office.submission.prepare(Order(task_type="send", payload={"to": "ann"}))

    assert (task.queue_name, task.max_retries, task.timeout) == ("mail", 7, 9.5)
    assert task.backoff == {"kind": "fixed", "base": 2}
    assert task.payload == {"to": "ann"}


def test_what_an_order_says_goes_before_the_policy(office: Office) -> None:
    order = Order(
        task_type="send",
        payload={"to": "ann"},
        queue_name="express",
        max_retries=0,
        timeout=1.5,
        backoff={"kind": "quadratic"},
    )

    (task,) = office.submission.prepare(order)

    assert (task.queue_name, task.max_retries, task.timeout) == ("express", 0, 1.5)
    assert task.backoff == {"kind": "quadratic"}


def test_what_neither_says_is_left_to_the_settings(office: Office) -> None:
    (task,) = office.submission.prepare(Order(task_type="test"))

    assert (task.queue_name, task.max_retries, task.timeout, task.backoff) == ("default", 3, 300.0, None)


def test_everything_else_of_an_order_is_recorded_as_it_is(office: Office) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    order = Order(
        task_type="test",
        payload={"a": [1]},
        id=new_id(),
        priority=9,
        run_at=at,
        user_id="ann",
        project_id="p1",
        kb_id="kb_1",
        created_by="user:ann",
        tags=("red", "blue"),
    )

    (accepted,) = office.submission.record([office.submission.prepare(order)]).result(10)

    task = office.queries.task(order.id)
    assert task is not None
    assert (accepted.id, accepted.status, accepted.run_at) == (order.id, "scheduled", at)
    assert (task.payload, task.priority, task.run_at) == ({"a": [1]}, 9, at)
    assert (task.user_id, task.project_id, task.kb_id) == ("ann", "p1", "kb_1")
    assert (task.created_by, task.tags) == ("user:ann", ["red", "blue"])


def test_an_order_of_a_pipeline_becomes_a_run_and_its_first_stage(office: Office) -> None:
    order = Order(task_type="words", payload="a bc", user_id="ann", kb_id="kb_1", tags=("red",), priority=8)

    accepted = office.submission.record([office.submission.prepare(order)]).result(10)

    run = office.queries.run(order.id)
    assert run is not None
    (first,) = run.stages
    assert [one.id for one in accepted] == [order.id, first.id]
    assert (run.task_type, run.task.queue_name, first.stage) == ("words", "runs", "split")
    task = office.queries.task(first.id)
    assert task is not None
    assert (task.task_type, task.queue_name, task.payload) == ("words.split", "text", "a bc")
    assert (task.max_retries, task.priority, task.user_id) == (5, 8, "ann")


def test_a_pipeline_that_begins_with_a_map_takes_a_list(office: Office) -> None:
    run, *stages = office.submission.prepare(Order(task_type="lengths", payload=["a", "bc"]))

    assert run.is_run
    assert [one.payload for one in stages] == ["a", "bc"]
    ((field, said),) = refused(office.submission, task_type="lengths", payload="a").errors
    assert (field, said) == ("payload", "Expected `array`, got `str`")


def test_nothing_is_recorded_by_preparing(office: Office) -> None:
    (task,) = office.submission.prepare(Order(task_type="test"))

    assert office.queries.task(task.id) is None


@pytest.mark.parametrize(
    ("task_type", "payload", "field", "said"),
    [
        ("send", {}, "payload.to", "is required"),
        ("send", {"to": 7}, "payload.to", "Expected `str`, got `int`"),
        ("send", {"to": "ann", "cc": "bob"}, "payload.cc", "is not known here"),
        ("sleep", {"seconds": -1}, "payload.seconds", ">= 0"),
        ("words", {"text": "a"}, "payload", "Expected `str`, got `object`"),
    ],
)
def test_a_payload_that_its_type_cannot_use_is_refused_at_once(
    office: Office, task_type: str, payload: Any, field: str, said: str
) -> None:
    ((name, message),) = refused(office.submission, task_type=task_type, payload=payload).errors

    assert name == field
    assert said in message


def test_a_type_that_nobody_has_ever_declared_is_refused(office: Office) -> None:
    error = refused(office.submission, task_type="unheard_of")

    assert error.code == "unknown_task_type"
    assert error.errors[0][0] == "task_type"


def test_a_stage_is_no_type_that_can_be_asked_for(office: Office) -> None:
    assert refused(office.submission, task_type="words.split").code == "unknown_task_type"


def test_a_type_that_only_other_processes_know_goes_to_its_queue_unchecked(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a type that was unknown a moment ago
    refused(office.submission, task_type="elsewhere")
    declare(office.database, [TaskType("elsewhere", "far")])
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)

    # When it is asked for again
    (task,) = office.submission.prepare(Order(task_type="elsewhere", payload=[1, "x"]))

    # Then it is found.
    assert (task.queue_name, task.payload) == ("far", [1, "x"])


def test_a_type_that_only_other_processes_know_keeps_its_limit(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(office.database, [TaskType("narrow", "far", concurrency=2, concurrency_key="payload.customer")])
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)

    (task,) = office.submission.prepare(Order(task_type="narrow", payload={"customer": 7}))
    (other,) = office.submission.prepare(Order(task_type="narrow", payload={}))

    assert (task.concurrency, task.concurrency_key) == (2, "narrow 7")
    assert other.concurrency is None


def test_a_pipeline_that_only_other_processes_know_is_a_run_without_stages(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(office.database, [TaskType("far_pipeline", "far", is_pipeline=True)])
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)

    (run,) = office.submission.prepare(Order(task_type="far_pipeline", payload=[1], max_retries=7))

    assert (run.is_run, run.queue_name, run.overrides) == (True, "far", {"max_retries": 7})


def test_limits_of_an_order_are_for_the_stages_of_a_pipeline_and_else_for_the_task(office: Office) -> None:
    asked: dict[str, Any] = {"max_retries": 0, "timeout": 1.5, "backoff": {"kind": "fixed"}}
    run, stage = office.submission.prepare(Order(task_type="words", payload="a", **asked))
    (plain,) = office.submission.prepare(Order(task_type="test", **asked))

    assert run.version is not None
    assert run.overrides == stage.overrides == asked | {"version": run.version}
    assert (stage.max_retries, stage.timeout, stage.backoff) == (0, 1.5, {"kind": "fixed"})
    assert plain.overrides is None


def test_a_key_a_callback_and_a_parent_are_the_runs_and_not_its_stages(office: Office) -> None:
    asked: dict[str, Any] = {"unique_key": "k", "callback_url": "http://a.b/", "parent_id": new_id()}

    run, stage = office.submission.prepare(Order(task_type="words", payload="a", **asked))

    assert {name: getattr(run, name) for name in asked} == asked
    assert {getattr(stage, name) for name in asked} == {None}


@pytest.mark.parametrize(
    ("field", "value"), [("unique_key", "a b"), ("unique_key", ""), ("callback_url", "mailto:secret@x")]
)
def test_a_key_or_a_callback_that_cannot_be_kept_is_refused(office: Office, field: str, value: str) -> None:
    ((name, message),) = refused(office.submission, task_type="test", **{field: value}).errors

    assert name == field
    assert "secret" not in message


def test_a_check_sees_the_order_and_may_complete_its_payload(office: Office) -> None:
    submission = office.with_checks({"send": lambda order: {**order.payload, "to": order.user_id}})

    (task,) = submission.prepare(Order(task_type="send", payload={"copies": 2}, user_id="ann"))

    assert task.payload == {"copies": 2, "to": "ann"}


def test_a_check_may_refuse_an_order(office: Office) -> None:
    def check(order: Order) -> Any:
        raise InvalidField.of("payload.to", "has moved away")

    error = refused(office.with_checks({"send": check}), task_type="send", payload={"to": "ann"})

    assert error.errors == (("payload.to", "has moved away"),)
