"""The record of callbacks: what is written when a task ends, for whom, and who may attempt it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks.callbacks import (
    shown_url,
)
from tasks.errors import Conflict
from tasks.ids import new_id
from tasks.ledger import Ledger, callbacks
from tasks.ledger.endings import Complete
from tasks.ledger.retention import Retention
from tasks.ledger.runs import Advance
from tasks.values import NewTask
from tests.support.callbacks import OOPS, URL, Record


@pytest.fixture
def record(database: PooledPostgresqlDatabase, database_url: str) -> Iterator[Record]:
    record = Record(database, database_url)
    yield record
    record.close()


def test_a_task_with_a_callback_url_has_a_delivery_as_soon_as_it_ends(record: Record) -> None:
    # Given a task that waits, one that failed but is tried again, and one without a callback_url
    waiting = record.submit(callback_url=URL)
    assert record.ledger.fail(record.claim(), OOPS, retry_in=600.0).result(10)
    silent = record.completed()
    # Then nobody is told about them
    assert record.deliveries(waiting) == record.deliveries(silent) == []
    # When tasks end in each of the ways, then there is one delivery for each
    assert record.ledger.cancel(waiting).result(10) == "cancelled"
    ended = {"cancelled": waiting, "completed": record.completed(callback_url=URL)}
    ended["failed"] = record.failed(callback_url=URL)
    for event, task_id in ended.items():
        (delivery,) = record.deliveries(task_id)
        assert (delivery.event, delivery.status, delivery.webhook_id) == (event, "pending", None)
        assert delivery.url == "https://hook.example/callbacks"
    assert len(record.take()) == 3


def test_what_ends_because_of_another_task_is_told_too(record: Record) -> None:
    # Given a task that depends on another one, and one that was running in a process that dies
    needed = record.submit()
    claim = record.claim()
    dependent = record.submit(depends_on=(needed,), callback_url=URL)
    assert record.ledger.fail(claim, OOPS, retry_in=None).result(10)
    assert record.ledger.unblock().result(10) >= 0
    lost = record.submit(callback_url=URL)
    for _ in range(3):
        record.claim()
        record.ledger.rescue(record.ledger.owner).result(10)
    # Then both have failed, and are to be told about
    assert [one.event for one in record.deliveries(dependent)] == ["failed"]
    assert [one.event for one in record.deliveries(lost)] == ["failed"]


def test_a_run_is_told_as_a_whole_and_its_stages_only_who_asks_for_them(record: Record) -> None:
    whole, with_stages = record.webhook(), record.webhook(stages=True)
    run_id, stage_id = new_id(), new_id()
    run = NewTask(id=run_id, task_type="flow", queue_name="default", is_run=True)
    stage = NewTask(
        id=stage_id, task_type="work", queue_name="default", run_id=run_id, stage="a", stage_index=0
    )
    record.ledger.submit([run, stage]).result(10)
    claim = record.claim()
    assert record.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
    assert record.ledger.advance(Advance(run_id, status="completed")).result(10)

    assert {one.webhook_id for one in record.deliveries(run_id)} == {whole, with_stages}
    assert [one.webhook_id for one in record.deliveries(stage_id)] == [with_stages]


@pytest.mark.parametrize(
    "filters",
    [
        {"task_type": "work"},
        {"queue_name": "default"},
        {"user_id": "ann"},
        {"kb_id": "kb"},
        {"project_id": "p"},
        {"tag": "b"},
        {"tag": "a", "task_type": "work", "kb_id": "kb"},
    ],
)
def test_a_webhook_hears_of_what_fits_its_filter(record: Record, filters: dict[str, str]) -> None:
    fields = {"user_id": "ann", "kb_id": "kb", "project_id": "p", "tags": ("a", "b")}
    webhook = record.webhook(**filters)
    record.webhook(**{**filters, "task_type": "other"})
    record.webhook("failed", "cancelled", **filters)

    assert [one.webhook_id for one in record.deliveries(record.completed(**fields))] == [webhook]


def test_a_webhook_of_a_user_hears_of_nothing_but_this_users_tasks(record: Record) -> None:
    # Given a webhook of Ann, and one of an administrator
    ann, admin = record.webhook(owner="ann"), record.webhook()
    # When tasks of two users end
    hers, his = record.completed(user_id="ann"), record.completed(user_id="bob", callback_url=URL)
    # Then each hears of what is theirs, and sees no other deliveries
    assert {one.webhook_id for one in record.deliveries(hers)} == {ann, admin}
    assert {one.webhook_id for one in record.deliveries(his)} == {None, admin}
    assert [one.webhook_id for one in record.deliveries(hers, "ann")] == [ann]
    assert [one.webhook_id for one in record.deliveries(his, "bob")] == [None]
    assert record.deliveries(his, "ann") == []
    # and webhooks are seen by their owner, and by administrators
    shown = record.callbacks.webhooks(owner="ann", limit=10, offset=0)
    assert ([one.webhook_id for one in shown[0]], shown[1]) == ([ann], 1)
    assert record.callbacks.webhooks(owner=None, limit=1, offset=0)[1] == 2
    assert record.callbacks.webhook(admin, owner="ann") is None


def test_a_task_that_ends_again_is_a_new_delivery_and_the_old_one_tells_what_was(record: Record) -> None:
    # Given a failed task that was retried and completed
    task_id = record.failed(callback_url=URL)
    assert record.ledger.retry(task_id).result(10) == "retried"
    claim = record.claim()
    assert record.ledger.complete(claim, Complete(claim.id, claim.token, {"a": 1})).result(10)
    # Then both ends are delivered, each as it was
    due = {one.event: one.ended for one in record.take()}
    assert set(due) == {"failed", "completed"}
    assert due["failed"].error == {"code": "actor_error", "message": "RuntimeError: oops"}
    assert (due["failed"].result, due["completed"].result) == (None, {"a": 1})
    assert (due["failed"].status, due["completed"].status) == ("failed", "completed")


def test_what_fails_and_is_retried_in_one_transaction_is_told_all_the_same(
    record: Record, database_url: str
) -> None:
    task_id = record.submit(callback_url=URL)
    claim = record.claim()
    # Given a ledger that commits both together, because it could not before
    ledger = Ledger(database_url)
    failed, retried = ledger.fail(claim, OOPS, retry_in=None), ledger.retry(task_id)
    ledger.start()
    assert (failed.result(10), retried.result(10)) == (True, "retried")
    ledger.close()

    assert [one.event for one in record.deliveries(task_id)] == ["failed"]


def test_a_delivery_that_is_taken_is_nobody_elses_until_its_lease_is_over(record: Record) -> None:
    task_id = record.completed(callback_url=URL)
    (first,) = record.take(lease=0.0)
    # When the lease is over, another process takes it, under the same id
    (second,) = record.take()
    assert (first.id, first.task_id) == (second.id, task_id)
    assert record.take() == []
    # Then what the first one says comes too late
    assert not record.attempted(first, "failed")
    assert record.attempted(second, "delivered")
    (delivery,) = record.deliveries(task_id)
    assert (delivery.status, len(delivery.attempts), delivery.next_attempt_at) == ("delivered", 1, None)
    assert record.take() == []


def test_a_delivery_that_failed_is_due_again_later(record: Record) -> None:
    task_id = record.completed(callback_url=URL)
    (due,) = record.take()
    assert record.attempted(due, "pending", due_in=60.0)
    assert record.take() == []
    (delivery,) = record.deliveries(task_id)
    assert delivery.next_attempt_at is not None
    assert 50 < (delivery.next_attempt_at - datetime.now(UTC)).total_seconds() < 61


def test_hosts_take_turns_and_a_busy_one_holds_up_no_other(record: Record) -> None:
    # Given fifty deliveries to one host, and one each to two others, one of which is written otherwise
    for _ in range(50):
        record.completed(callback_url="http://b.example:81/x")
    record.completed(callback_url="http://A.example?x")
    record.completed(callback_url="http://c.example/")
    # Then two of each host are taken at once
    assert [one.host for one in record.take(per_host=2, lease=0.0)] == [
        "a.example",
        "b.example:81",
        "b.example:81",
        "c.example",
    ]
    # and none of a host that is busy
    busy = {"b.example:81": 1, "a.example": 2}
    assert [one.host for one in record.take(per_host=2, busy=busy)] == ["b.example:81", "c.example"]
    # and who takes few at a time goes on with the next host
    taken = record.take_part(1, per_host=2, lease=0.0, after="a.example")
    assert (taken.due[0].host, taken.after) == ("b.example:81", "b.example:81")
    # and a host may be allowed more than others
    more = record.take(per_host=0, busy={"b.example:81": 1}, allowed={"b.example:81": 5})
    assert [one.host for one in more] == ["b.example:81"] * 4


def test_a_url_may_be_written_in_an_unusual_way(record: Record) -> None:
    record.completed(callback_url="HTTP://a.example/")
    assert [one.host for one in record.take(per_host=2)] == [""]


def test_a_redelivery_is_the_same_delivery_with_a_new_budget(record: Record) -> None:
    task_id = record.completed(callback_url=URL)
    (due,) = record.take()
    # Given one that is being sent: it is not sent twice at once
    assert record.ledger.redeliver(due.id).result(10) == "under way"
    assert record.take() == []
    assert record.attempted(due, "failed")
    # When it is asked for again
    assert record.ledger.redeliver(due.id).result(10) == "asked"
    # Then it is due, with all attempts before it
    (again,) = record.take()
    assert (again.id, again.tries) == (due.id, 0)
    assert again.claim != due.claim
    assert record.attempted(again, "delivered")
    (delivery,) = record.deliveries(task_id)
    assert (delivery.status, len(delivery.attempts)) == ("delivered", 2)
    assert record.ledger.redeliver(new_id()).result(10) == "missing"


def test_only_the_newest_attempts_are_kept(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = record.completed(callback_url=URL)
    for _ in range(callbacks.MOST_ATTEMPTS + 3):
        (due,) = record.take()
        assert record.attempted(due, "pending")
    (delivery,) = record.deliveries(task_id)
    assert len(delivery.attempts) == callbacks.MOST_ATTEMPTS


def test_deliveries_go_with_their_task(record: Record) -> None:
    deleted, expired = record.completed(callback_url=URL), record.completed(callback_url=URL)
    assert record.ledger.delete(deleted).result(10) == "deleted"
    assert record.deliveries(deleted) == []
    assert len(record.deliveries(expired)) == 1
    record.ledger.expire(Retention(others=0.0, failed=0.0)).result(10)
    assert record.deliveries(expired) == []


def test_a_webhook_that_is_gone_hears_no_more_and_leaves_no_secret(record: Record) -> None:
    webhook = record.webhook()
    before = record.completed()
    assert record.ledger.remove_webhook(webhook).result(10)
    after = record.completed()

    assert record.deliveries(after) == []
    (due,) = record.take()
    assert (due.task_id, due.webhook_id, due.secret) == (before, webhook, None)
    assert not record.ledger.remove_webhook(webhook).result(10)


def test_an_owner_has_a_bounded_number_of_webhooks(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "MOST_WEBHOOKS", 2)
    for _ in range(2):
        record.webhook(owner="ann")
    with pytest.raises(Conflict, match="2 webhooks already"):
        record.webhook(owner="ann")
    assert record.webhook(owner="bob")


def test_who_uses_neither_pays_for_no_look_at_tasks(record: Record) -> None:
    # Given tasks that have ended, and neither a webhook nor a callback_url
    ids = [record.completed() for _ in range(3)]
    # Then the look whether anybody is to hear of it reads no row of theirs
    sql = callbacks._IS_ANYBODY_TO_HEAR.replace("%s", "ARRAY['" + "','".join(map(str, ids)) + "']")
    plan = record.sql.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").fetchone()
    assert plan is not None
    scans = list(_scans(plan[0][0]["Plan"]))
    assert {name: rows for name, rows in scans if name in ("tasks", "task_state") and rows} == {}


def _scans(plan: dict[str, Any]) -> Iterator[tuple[str, float]]:
    if plan.get("Actual Loops") and "Relation Name" in plan:
        looked_at = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield plan["Relation Name"], looked_at
    for inner in plan.get("Plans", ()):
        yield from _scans(inner)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/b/c?d=e#f", "https://a.example/b/c"),
        ("http://user:password@a.example:81", "http://a.example:81"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
