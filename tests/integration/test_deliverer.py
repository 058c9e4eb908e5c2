"""Delivering: again until it arrives, whatever receivers and deliverers do, and at nobody else's cost."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.deliverer import CallbackBody, Deliverer
from actors.web.connecting import Gate
from actors.web.sending import Sender, Sent
from actors.web.signatures import verify
from tasks.callbacks import Delivery
from tasks.ledger import Ledger
from tasks.values import Complete
from tests.support.callbacks import SECRET, Record
from tests.support.waiting import eventually
from tests.support.web import Posted, Site, answer, hang, in_turn, site

OWN_SECRET = "the secret of this installation"
Start = Callable[..., Deliverer]


@pytest.fixture
def record(database: PooledPostgresqlDatabase, database_url: str) -> Iterator[Record]:
    record = Record(database, database_url)
    yield record
    record.close()


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as running:
        running.answers["/"] = answer(200)
        yield running


@pytest.fixture
def start(record: Record) -> Iterator[Start]:
    """Starts deliverers that are impatient."""
    with ExitStack() as ending:

        def begin(*, gate: Gate | None = None, seconds: float = 5.0, **how: Any) -> Deliverer:
            sender = Sender(gate or Gate(allow_private=True), seconds=seconds)
            given = {"ledger": record.ledger, "sender": sender, "secret": OWN_SECRET, **how}
            deliverer = Deliverer(queries=record.queries, **{"pauses": (0.05,) * 7, **given}).start()
            ending.callback(deliverer.close)
            return deliverer

        yield begin


def settled(record: Record, task_id: UUID, timeout: float = 10.0) -> Delivery:
    """The one delivery about a task, as soon as it is delivered or given up."""

    def found() -> Delivery | None:
        (delivery,) = record.deliveries(task_id)
        return delivery if delivery.status != "pending" else None

    delivery = eventually(found, timeout)
    assert delivery is not None
    return delivery


def has_heard(web: Site, task_id: UUID) -> bool:
    return any(str(task_id).encode() in one.body for one in web.posted)


def is_genuine(posted: Posted, secret: str) -> bool:
    return verify(secret, posted.headers["X-Callboard-Signature"], posted.body)


def test_a_receiver_that_fails_three_times_gets_a_verifiable_delivery(
    record: Record, web: Site, start: Start
) -> None:
    # Given a receiver that fails three times, each time otherwise
    web.answers["/"] = in_turn(
        answer(500), lambda handler: handler.connection.close(), answer(302, Location="/x"), answer(204)
    )
    start()
    # When a task ends
    task_id = record.completed({"answer": 42}, callback_url=f"http://{web.address}/", user_id="ann")
    delivery = settled(record, task_id)
    # Then all attempts are of one delivery, and each is signed
    assert delivery.status == "delivered"
    assert len(web.posted) == 4
    assert {one.headers["X-Callboard-Delivery"] for one in web.posted} == {str(delivery.delivery_id)}
    assert all(is_genuine(one, OWN_SECRET) for one in web.posted)
    assert not is_genuine(web.posted[0], SECRET)
    # and the body is the task as it ended
    (text,) = {one.body for one in web.posted}
    body = msgspec.json.decode(text, type=CallbackBody)
    assert (body.event, body.delivery_id) == ("completed", delivery.delivery_id)
    assert body.task == record.queries.task(task_id)
    assert list(msgspec.json.decode(text)) == ["event", "delivery_id", "task"]
    # and there is a log of the attempts
    assert [one.status_code for one in delivery.attempts] == [500, None, 302, 204]
    assert delivery.attempts[1].error == "it broke the connection off"
    assert all(one.duration_ms > 0 for one in delivery.attempts)
    assert [one.at for one in delivery.attempts] == sorted(one.at for one in delivery.attempts)


def test_one_that_hangs_costs_nobody_else_anything(record: Record, web: Site, start: Start) -> None:
    # Given fifty deliveries to a receiver that hangs, and few threads
    web.answers["/"] = hang(web)
    start(threads=4, seconds=60.0)
    stuck = [record.completed(callback_url=f"http://{web.address}/") for _ in range(50)]
    eventually(lambda: len(web.asked) == 2)
    # When others are to be told
    with site() as other:
        other.answers["/"] = answer(200)
        began = time.monotonic()
        ids = [record.completed(callback_url=f"http://{other.address}/") for _ in range(20)]
        for task_id in ids:
            assert settled(record, task_id).status == "delivered"
        # Then they are told long before the others have waited for long enough
        assert time.monotonic() - began < 20.0
    assert len(web.asked) == 2
    assert all(record.deliveries(task_id)[0].status == "pending" for task_id in stuck)


def test_many_that_hang_do_not_hold_up_who_answers_well(record: Record, web: Site, start: Start) -> None:
    # Given a receiver that has taken what it was sent
    start(threads=8, seconds=60.0)
    settled(record, record.completed(callback_url=f"http://{web.address}/"))
    with ExitStack() as house:
        # and five others that hang, with more to do than there are threads
        others = [house.enter_context(site()) for _ in range(5)]
        for other in others:
            other.answers["/"] = hang(other)
            for _ in range(3):
                record.completed(callback_url=f"http://{other.address}/")
        eventually(lambda: sum(len(other.asked) for other in others) == 6)
        # When it is to be sent more, then it gets it at once
        for _ in range(5):
            settled(record, record.completed(callback_url=f"http://{web.address}/"))


def test_who_answers_well_gets_more_at_once(record: Record, web: Site, start: Start) -> None:
    # Given a receiver that takes a while for each
    under_way, most, lock = [0], [0], threading.Lock()

    def slow(handler: Any) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        answer(200)(handler)

    web.answers["/"] = slow
    start(threads=16)
    # When it takes all it is sent, then it gets up to half of the threads
    ids = [record.completed(callback_url=f"http://{web.address}/") for _ in range(60)]
    eventually(lambda: len(web.posted) == len(ids), 20)
    assert 2 < most[0] <= 8


def test_a_dead_receiver_is_given_up_and_its_task_knows_nothing(
    record: Record, start: Start, web: Site
) -> None:
    with site() as gone:
        address = gone.address
    start(pauses=(0.01, 0.01))
    task_id = record.completed(callback_url=f"http://{address}/")
    before = record.queries.task(task_id)

    delivery = settled(record, task_id)
    assert (delivery.status, delivery.next_attempt_at) == ("failed", None)
    assert [one.error for one in delivery.attempts] == ["its host cannot be reached: Connection refused"] * 3
    assert record.queries.task(task_id) == before
    # When it is to be sent again, it has as many attempts as before
    assert record.ledger.redeliver(delivery.delivery_id).result(10) == "asked"
    eventually(lambda: len(record.deliveries(task_id)[0].attempts) == 6)
    assert settled(record, task_id).delivery_id == delivery.delivery_id


def test_who_is_gone_for_good_is_not_asked_again(record: Record, web: Site, start: Start) -> None:
    web.answers["/"] = answer(410)
    start()
    delivery = settled(record, record.completed(callback_url=f"http://{web.address}/"))
    assert (delivery.status, len(web.posted)) == ("failed", 1)


def test_who_wants_to_be_left_alone_is(record: Record, web: Site, start: Start) -> None:
    web.answers["/"] = answer(503, Retry_After="3600")
    start()
    task_id = record.completed(callback_url=f"http://{web.address}/")
    eventually(lambda: record.deliveries(task_id)[0].attempts)
    (delivery,) = record.deliveries(task_id)
    assert delivery.next_attempt_at is not None
    assert 3_500 < (delivery.next_attempt_at - delivery.created_at).total_seconds() < 3_700
    assert len(web.posted) == 1


def test_a_webhook_has_a_secret_of_its_own_and_hears_how_it_was(
    record: Record, web: Site, start: Start
) -> None:
    # Given a task that failed, was retried and completed before anybody was told
    record.webhook("failed", "completed", url=f"http://{web.address}/")
    task_id = record.failed()
    assert record.ledger.retry(task_id).result(10) == "retried"
    claim = record.claim()
    assert record.ledger.complete(claim, Complete(claim.id, claim.token, "done")).result(10)
    # When both are told
    start()
    eventually(lambda: len(web.posted) == 2)
    # Then each tells of its own end
    assert all(is_genuine(one, SECRET) for one in web.posted)
    bodies = [msgspec.json.decode(one.body, type=CallbackBody) for one in web.posted]
    failed, completed = sorted(bodies, key=lambda body: body.event, reverse=True)
    assert (failed.event, failed.task.status, failed.task.result) == ("failed", "failed", None)
    assert failed.task.error == {"code": "actor_error", "message": "RuntimeError: oops"}
    assert (completed.event, completed.task.status, completed.task.result) == (
        "completed",
        "completed",
        "done",
    )


def test_without_a_secret_nothing_is_signed(record: Record, web: Site, start: Start) -> None:
    start(secret=None)
    settled(record, record.completed(callback_url=f"http://{web.address}/"))
    assert "X-Callboard-Signature" not in web.posted[0].headers


def test_a_deleted_webhook_is_not_called(record: Record, web: Site, start: Start) -> None:
    webhook = record.webhook(url=f"http://{web.address}/")
    task_id = record.completed()
    assert record.ledger.remove_webhook(webhook).result(10)
    start()
    delivery = settled(record, task_id)
    assert (delivery.status, delivery.attempts[0].error) == ("failed", "its webhook was deleted")
    assert web.posted == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]", "[::1]", "localhost"]
)
def test_this_machine_is_not_called_unless_it_may_be(
    record: Record, web: Site, start: Start, host: str
) -> None:
    start(gate=Gate(), pauses=())
    delivery = settled(record, record.completed(callback_url=f"http://{host}:{web.port}/"))
    assert delivery.status == "failed"
    assert "must not be reached" in str(delivery.attempts[0].error)
    assert web.asked == []


def test_many_deliverers_send_each_delivery_once(record: Record, start: Start, database_url: str) -> None:
    # Given three deliverers, each with a ledger of its own as in a process, and receivers on several ports
    with ExitStack() as house:
        webs = [house.enter_context(site()) for _ in range(3)]
        for web in webs:
            web.answers["/"] = answer(200)
        for _ in range(3):
            ledger = Ledger(database_url).start()
            house.callback(ledger.close)
            house.callback(start(threads=8, ledger=ledger).close)
        # When a hundred tasks end
        ids = [record.completed(callback_url=f"http://{webs[n % 3].address}/") for n in range(100)]
        for task_id in ids:
            settled(record, task_id)
        # Then each was told once
        told = [one.headers["X-Callboard-Delivery"] for web in webs for one in web.posted]
    assert len(told) == len(set(told)) == 100


def test_a_deliverer_survives_a_postgres_that_was_away(record: Record, web: Site, start: Start) -> None:
    start()
    settled(record, record.completed(callback_url=f"http://{web.address}/"))
    # When all connections break, again and again
    for _ in range(3):
        record.sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        # Then what ends afterwards is told all the same
        told = record.completed(callback_url=f"http://{web.address}/")
        eventually(partial(has_heard, web, told))


class Clumsy(Sender):
    """A sender that does not even come to send."""

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Sent:
        raise LookupError("secret")


def test_what_cannot_even_be_tried_is_given_up_too(record: Record, web: Site, start: Start) -> None:
    start(sender=Clumsy(Gate()), pauses=(0.01,))
    delivery = settled(record, record.completed(callback_url=f"http://{web.address}/"))
    assert delivery.status == "failed"
    assert [one.error for one in delivery.attempts] == ["it could not be sent (LookupError)"] * 2


def test_a_deliverer_that_stops_ends_what_it_has_begun(record: Record, web: Site, start: Start) -> None:
    let_go = threading.Event()

    def late(handler: Any) -> None:
        let_go.wait(10)
        answer(200)(handler)

    web.answers["/"] = late
    deliverer = start()
    task_id = record.completed(callback_url=f"http://{web.address}/")
    eventually(lambda: web.posted)
    threading.Timer(0.3, let_go.set).start()
    deliverer.close()
    assert record.deliveries(task_id)[0].status == "delivered"
    assert len(web.posted) == 1


def test_what_is_logged_holds_no_path_and_no_payload(
    record: Record, web: Site, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    web.answers["/hidden?token=secret"] = answer(410)
    with caplog.at_level("DEBUG"):
        start()
        task_id = record.completed(
            {"password": "hidden"}, callback_url=f"http://{web.address}/hidden?token=secret"
        )
        settled(record, task_id)
        eventually(lambda: "callboard.callbacks" in {one.name for one in caplog.records})
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text
