"""Messages that are not ours among the dead letters: seen, replayed and discarded like the others."""

from typing import Any

import msgspec
import pika
import pytest
from dramatiq import Message
from falcon.testing import TestClient

from actors.rabbitmq.foreign import kept
from pipelines.bootstrap import Kit
from tasks.settings import Settings

LETTERS = "/api/v1/dead-letters"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a RabbitMQ, though nobody connects to it: what goes back is sent by the janitor of a clock."""
    return msgspec.structs.replace(settings, broker_urls=("amqp://127.0.0.1:1/",))


def arrived(kit: Kit, body: bytes, **properties: Any) -> str:
    """The id of the dead letter of a message that the janitor found."""
    found = kept("default", pika.BasicProperties(**properties), body)
    kit.ledger.keep_foreign(found).result(10)
    return str(found.dead_letter)


def call_of(actor: str, *arguments: Any) -> bytes:
    return Message("default", actor, arguments, {}, {}, message_id="m-1").encode()


def test_a_foreign_message_is_listed_and_shown_as_it_came(client: TestClient, kit: Kit) -> None:
    # Given a message that nobody can decode, one of bytes that are no text, and one with script in it
    letter = arrived(kit, b"not for us", app_id="billing", headers={"x": 1})
    binary = arrived(kit, b"\xff\x00")
    # Then both are dead letters of a kind of their own, in a cluster of their own
    listed = client.simulate_get(LETTERS).json["dead_letters"]
    assert {(one["dead_letter_id"], one["kind"], one["task_id"]) for one in listed} == {
        (letter, "foreign", None),
        (binary, "foreign", None),
    }
    kit.ledger.mark_letters().result(10)
    (cluster,) = client.simulate_get(f"{LETTERS}/clusters").json["clusters"]
    assert (cluster["error_class"], cluster["count"]) == ("ForeignMessage", 2)
    # and each shows its message
    shown = client.simulate_get(f"{LETTERS}/{letter}").json
    assert shown["payload"] == {
        "body": "not for us",
        "encoding": "utf-8",
        "size_bytes": 10,
        "properties": {"app_id": "billing", "headers": {"x": 1}},
    }
    assert client.simulate_get(f"{LETTERS}/{binary}").json["payload"]["body"] == "/wA="


def test_one_that_calls_a_type_of_ours_is_replayed_as_a_task_once(client: TestClient, kit: Kit) -> None:
    letter = arrived(kit, call_of("test", {"number": 7}))
    # When it is replayed, then there is a task with its argument
    answer = client.simulate_post(f"{LETTERS}/{letter}/replay")
    assert answer.status_code == 202
    assert (answer.json["task_type"], answer.json["payload"]) == ("test", {"number": 7})
    # and the letter names it, and who wanted it
    shown = client.simulate_get(f"{LETTERS}/{letter}").json
    assert (shown["resolution"], shown["resolved_by"]) == ("replayed", "user:anonymous")
    assert shown["task"]["task_id"] == shown["task_id"] == answer.json["task_id"]
    # When it is replayed again, then nothing happens
    assert client.simulate_post(f"{LETTERS}/{letter}/replay").status_code == 409
    assert client.simulate_get("/api/v1/tasks").json["total"] == 1


def test_the_keywords_of_a_call_are_the_payload_of_its_task(client: TestClient, kit: Kit) -> None:
    body = Message("default", "sleep", (), {"seconds": 1.5}, {}, message_id="m-2").encode()
    answer = client.simulate_post(f"{LETTERS}/{arrived(kit, body)}/replay")
    assert (answer.status_code, answer.json["payload"]) == (202, {"seconds": 1.5})


def test_any_other_goes_back_to_its_queue_as_it_was(client: TestClient, kit: Kit) -> None:
    letter = arrived(kit, b"not for us")
    changed = client.simulate_post(f"{LETTERS}/{letter}/replay", json={"payload": 1})
    assert (changed.status_code, changed.json["errors"][0]["field"]) == (422, "payload")
    assert client.simulate_post(f"{LETTERS}/{letter}/replay").status_code == 204
    assert [one.body for one in kit.strays.owed("default", 10)] == [b"not for us"]
    assert client.simulate_post(f"{LETTERS}/{letter}/replay").status_code == 409


def test_a_call_that_no_task_can_be_made_of_is_refused_and_may_be_discarded(
    client: TestClient, kit: Kit
) -> None:
    letter = arrived(kit, call_of("test", 1, 2))
    refused = client.simulate_post(f"{LETTERS}/{letter}/replay")
    assert (refused.status_code, "2 arguments" in refused.json["detail"]) == (409, True)
    assert client.simulate_delete(f"{LETTERS}/{letter}").status_code == 204
    assert client.simulate_get(LETTERS).json["total"] == 0
    assert client.simulate_get(LETTERS, params={"status": "discarded"}).json["total"] == 1


def test_a_bulk_replay_leaves_them_alone_and_says_so(client: TestClient, kit: Kit) -> None:
    arrived(kit, b"not for us")
    body = {"filter": {"error_class": "ForeignMessage"}, "dry_run": True}
    survey = client.simulate_post(f"{LETTERS}/replay", json=body).json
    assert survey == {"eligible": 0, "ineligible": 1, "reasons": {"foreign": 1}}
