"""What a worker and its child say to each other: whole messages, in order, or the end."""

import socket
import struct
import threading
from collections.abc import Iterator

import msgspec
import pytest

from actors.attempt import Completed, Failed, GivenUp
from actors.isolation.wire import Begun, Message, Progress, Ready, Run, Save, Saved, Wire
from tasks.values import Json, TaskError
from tests.support.claims import a_claim


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def wires(ends: tuple[socket.socket, socket.socket]) -> tuple[Wire, Wire]:
    return Wire(ends[0]), Wire(ends[1])


@pytest.mark.parametrize(
    "message",
    [
        Ready(),
        Begun(),
        Progress(7, 12.5, "pages", "under way", {"steps_done": 1}),
        Saved(7, 2, done=True),
        Saved(7, 3, error=("unavailable", "Postgres cannot be reached")),
        Completed({"numbers": [1, 2.5, None], "text": "ä"}),
        Failed(TaskError("actor_error", "RuntimeError: no", "Traceback …", "RuntimeError"), 1.5),
        Failed(TaskError("actor_error", "no"), None),
        GivenUp(hand_back=True),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(wires: tuple[Wire, Wire], message: Message) -> None:
    wires[0].send(message)
    assert wires[1].receive() == message


@pytest.mark.parametrize("state", [None, b"null", b'{"made":3}'], ids=str)
def test_a_claim_arrives_with_its_payload_and_its_state(
    wires: tuple[Wire, Wire], state: bytes | None
) -> None:
    claim = a_claim(state=None if state is None else Json(state), snapshot=4, suspect=True)
    wires[0].send(Run.of(claim))
    run = wires[1].receive()
    assert isinstance(run, Run)
    arrived = run.claimed()
    assert bytes(arrived.payload) == bytes(claim.payload)
    assert bytes(arrived.state or b"") == (state or b"null")
    plain = {"payload": Json(b""), "state": None}
    assert msgspec.structs.replace(arrived, **plain) == msgspec.structs.replace(claim, **plain)


def test_a_state_travels_as_the_json_that_it_is(wires: tuple[Wire, Wire]) -> None:
    wires[0].send(Save(7, 1, Json(b'{"made": 3}')))
    save = wires[1].receive()
    assert isinstance(save, Save)
    assert msgspec.json.decode(save.state) == {"made": 3}


def test_messages_arrive_whole_and_in_order_however_large_they_are(wires: tuple[Wire, Wire]) -> None:
    # Given messages of which one is much larger than what a socket holds
    sent = [Completed("a"), Completed("b" * 5_000_000), Completed("c")]
    sender = threading.Thread(target=lambda: [wires[0].send(message) for message in sent])
    sender.start()
    # When they are received, then nothing is missing
    assert [wires[1].receive() for _ in sent] == sent
    sender.join()


def test_several_threads_may_send_at_once(wires: tuple[Wire, Wire]) -> None:
    def send(letter: str) -> None:
        for _ in range(50):
            wires[0].send(Completed(letter * 50_000))

    senders = [threading.Thread(target=send, args=(letter,)) for letter in "abc"]
    for sender in senders:
        sender.start()
    received = [wires[1].receive() for _ in range(150)]
    for sender in senders:
        sender.join()
    texts = [message.result for message in received if isinstance(message, Completed)]
    assert sorted({(text[0], len(text), len(set(text))) for text in texts}) == [
        ("a", 50_000, 1),
        ("b", 50_000, 1),
        ("c", 50_000, 1),
    ]


def test_waiting_for_a_message_ends_in_time_also_in_the_middle_of_one(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    wire = Wire(ends[1])
    assert wire.receive(0.01) is None
    ends[0].sendall(struct.pack(">I", 100) + b"only a part")
    assert wire.receive(0.01) is None


def test_a_message_that_json_cannot_hold_is_not_sent_at_all(wires: tuple[Wire, Wire]) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        wires[0].send(Progress(7, 1.0, None, "\ud800", {}))
    wires[0].send(Ready())
    assert wires[1].receive() == Ready()


def test_who_receives_learns_that_the_other_end_is_gone(wires: tuple[Wire, Wire]) -> None:
    wires[0].send(Ready())
    wires[0].close()
    assert wires[1].receive() == Ready()
    with pytest.raises(EOFError):
        wires[1].receive()
    with pytest.raises(OSError, match="pipe"):
        wires[1].send(Ready())


@pytest.mark.parametrize("body", [b"\xff", b"{}", b'{"type":"Hello"}', b'{"type":"Progress"}'], ids=str)
def test_what_is_no_message_is_an_error(ends: tuple[socket.socket, socket.socket], body: bytes) -> None:
    ends[0].sendall(struct.pack(">I", len(body)) + body)
    with pytest.raises(msgspec.MsgspecError):
        Wire(ends[1]).receive()
