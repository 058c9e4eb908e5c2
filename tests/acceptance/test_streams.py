"""Following tasks on the real server: over SSE and WebSocket nobody misses an event, or sees one twice."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from playhouse.pool import PooledPostgresqlDatabase
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from api.client import Client, StillUnfinished
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.queries import Queries
from tasks.settings import Settings
from tasks.values import Claimed, NewTask
from tests.support.api import served
from tests.support.streams import Told, told_by
from tests.support.waiting import eventually

HURRIED = """
from api import websockets
from api.resources import sockets
sockets.MOST_SOCKETS = 3
websockets.PatientSocket.ping_seconds = 0.1
websockets.PatientSocket.pong_seconds = 2.0
websockets.PatientSocket.write_seconds = 0.5
"""


class Stage:
    """A record, a ledger that works on it as a worker would, and the address of the API."""

    def __init__(self, url: str, ledger: Ledger, queries: Queries) -> None:
        self.url = url
        self.ledger = ledger
        self.queries = queries
        self.http = httpx.Client(base_url=f"{url}/api/v1/tasks", timeout=20)

    def begun(self) -> Claimed:
        """A task that runs."""
        queue = f"q{new_id().hex}"
        self.ledger.submit([NewTask(task_type="work", queue_name=queue)]).result(10)
        (claim,) = self.ledger.fetch([queue], ["work"], 1).result(10)
        return claim

    def report(self, claim: Claimed, done: int, total: int = 100) -> None:
        details = {"step": "climb", "steps_done": done, "steps_total": total}
        assert self.ledger.report(claim, 100 * done / total, "climb", f"step {done}", details).result(10)

    def flood(self, claim: Claimed) -> None:
        """Report more than the buffers between two sockets hold."""
        for step in range(1, 101):
            details = {"steps_done": step, "steps_total": 100, "filler": "x" * 150_000}
            reported = self.ledger.report(claim, step, "flood", None, details)
        assert reported.result(20)

    def finish(self, claim: Claimed) -> None:
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)

    def history(self, task_id: UUID) -> list[int]:
        return [event.event_id for event in self.queries.history(task_id)]

    @contextmanager
    def stream(self, task_id: UUID, after: int | None = None) -> Iterator[Iterator[Told]]:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self.http.stream("GET", f"/{task_id}/stream", headers=headers) as answer:
            assert answer.status_code == 200
            yield told_by(answer)

    def socket(self, *ids: UUID, **options: Any) -> ClientConnection:
        query = "&".join(f"task_id={one}" for one in ids)
        return connect(f"{self.url.replace('http', 'ws')}/ws?{query}", **options)


@contextmanager
def a_stage(
    url: str, database: PooledPostgresqlDatabase, folder: Path, preamble: str = ""
) -> Iterator[Stage]:
    with served(Settings(database_url=url, data_dir=folder, port=0), preamble) as (address, _):
        ledger = Ledger(url).start()
        yield Stage(address, ledger, Queries(database))
        ledger.close()


@pytest.fixture(scope="module")
def board(
    url: str, shared: PooledPostgresqlDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    with a_stage(url, shared, tmp_path_factory.mktemp("streams")) as board:
        yield board


@pytest.fixture(scope="module")
def hurried(
    url: str, shared: PooledPostgresqlDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A server whose patience is short, and which takes three sockets."""
    with a_stage(url, shared, tmp_path_factory.mktemp("hurried"), HURRIED) as board:
        yield board


# --- SSE -----------------------------------------------------------------------------------------


def test_a_stream_begins_with_a_snapshot_and_ends_with_the_final_event(board: Stage) -> None:
    # Given a task that runs, and somebody who follows it
    claim = board.begun()
    board.report(claim, 1)
    with board.http.stream("GET", f"/{claim.id}/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        told = told_by(answer)
        # Then the first event shows how far it is
        first = next(told)
        assert (first.id, first.event) == (3, "snapshot")
        assert first.data["task_id"] == str(claim.id)
        assert (first.data["status"], first.data["progress"]) == ("running", 1.0)
        # When it goes on and logs and ends, then each of that is told, and the stream ends
        board.report(claim, 2)
        logged = board.ledger.log(claim, "info", "the.logger", "nearly there")
        assert logged is not None
        assert logged.result(10)
        board.finish(claim)
        rest = list(told)
    assert [(one.id, one.event) for one in rest] == [(4, "progress"), (5, "log"), (6, "state")]
    assert rest[0].data["data"]["steps_done"] == 2
    assert (rest[1].data["message"], rest[1].data["data"]["logger"]) == ("nearly there", "the.logger")
    assert rest[2].data["status"] == "completed"


def test_a_stream_that_is_cut_and_resumed_twenty_times_shows_every_event_once(board: Stage) -> None:
    # Given a task that reports a hundred steps
    claim = board.begun()
    go_on = threading.Semaphore(0)

    def climb() -> None:
        for step in range(1, 101):
            go_on.acquire()
            board.report(claim, step)
        board.finish(claim)

    climbing = threading.Thread(target=climb)
    climbing.start()
    # When its stream is cut off after every few events, and resumed
    seen: list[Told] = []
    last: int | None = 0
    for cut in range(21):
        go_on.release(5)
        with board.stream(claim.id, last) as told:
            snapshot = next(told)
            assert (snapshot.id, snapshot.event) == (last, "snapshot")
            for one in told:
                seen.append(one)
                if cut < 20 and len(seen) % 5 == 0:
                    break
        last = seen[-1].id
    climbing.join()
    # Then every event of its history was seen once, in order, and the end last
    assert [one.id for one in seen] == board.history(claim.id)
    assert seen[-1].data["status"] == "completed"


def test_who_comes_after_the_end_gets_what_is_missing_and_is_not_kept(board: Stage) -> None:
    # Given a task that is over
    claim = board.begun()
    board.report(claim, 50)
    board.finish(claim)
    # Then a new reader sees a snapshot of it, and no more
    with board.stream(claim.id) as told:
        (only,) = list(told)
    assert (only.id, only.event, only.data["status"]) == (4, "snapshot", "completed")
    # And one who missed some gets these
    with board.stream(claim.id, 2) as told:
        assert [(one.id, one.event) for one in told] == [(2, "snapshot"), (3, "progress"), (4, "state")]
    # And one who has seen the end need not come again
    for last in ("4", "5", "4000000000"):
        answer = board.http.get(f"/{claim.id}/stream", headers={"Last-Event-ID": last})
        assert (answer.status_code, answer.content) == (204, b"")
    assert board.http.get(f"/{claim.id}/stream", params={"last_event_id": 4}).status_code == 204


@pytest.mark.parametrize("last", ["one", "-1", "1.5", "9" * 40])
def test_a_last_event_id_that_is_no_number_is_refused_by_name(board: Stage, last: str) -> None:
    claim = board.begun()
    for answer in (
        board.http.get(f"/{claim.id}/stream", headers={"Last-Event-ID": last}),
        board.http.get(f"/{claim.id}/stream", params={"last_event_id": last}),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "last_event_id"


@pytest.mark.parametrize("task_id", ["0b8f8a52-4a4e-7c11-9d3e-5b1f7a2c9e10", "nonsense"])
def test_a_task_that_is_not_there_cannot_be_followed(board: Stage, task_id: str) -> None:
    answer = board.http.get(f"/{task_id}/stream")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_reader_that_is_slow_loses_nothing(board: Stage) -> None:
    # Given a reader that does not read while a task says far more than fits on the way
    claim = board.begun()
    with board.stream(claim.id) as told:
        assert next(told).event == "snapshot"
        board.flood(claim)
        board.finish(claim)
        # When it reads again, then it gets everything
        assert [one.id for one in told] == board.history(claim.id)[2:]


def test_the_python_client_follows_and_waits(board: Stage) -> None:
    # Given a task that runs, and the client
    claim = board.begun()
    with Client(board.url) as client:
        # When it is followed from its first event on while it goes on
        following = client.follow(claim.id, after=0)
        assert next(following).event == "snapshot"
        board.report(claim, 50)
        with pytest.raises(StillUnfinished):
            client.wait(claim.id, timeout=0.2)
        board.finish(claim)
        # Then its whole history is seen, and waiting is over
        seen = list(following)
        assert [one.id for one in seen] == board.history(claim.id)
        assert seen[-1].is_final
        assert client.wait(claim.id, timeout=10).status == "completed"


def test_when_the_server_stops_its_streams_and_sockets_end(board: Stage, url: str, tmp_path: Path) -> None:
    # Given a stream and a socket on a server
    claim = board.begun()
    with served(Settings(database_url=url, data_dir=tmp_path, port=0)) as (address, process):
        where = f"{address}/api/v1/tasks/{claim.id}/stream"
        with (
            httpx.stream("GET", where, timeout=20) as answer,
            connect(f"{address.replace('http', 'ws')}/ws?task_id={claim.id}") as socket,
        ):
            told = told_by(answer)
            assert next(told).event == "snapshot"
            assert frame(socket)["event"] == "snapshot"
            # When it is stopped, then both end, the socket with the code that says "come again"
            process.terminate()
            assert list(told) == []
            assert closed(socket) == 1012
        assert process.wait(20) == 0


# --- WebSocket -----------------------------------------------------------------------------------


def frame(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(socket.recv(10))
    return found


def closed(socket: ClientConnection) -> int | None:
    """The code with which the server closes."""
    try:
        while True:
            socket.recv(10)
    except ConnectionClosed as closing:
        return None if closing.rcvd is None else closing.rcvd.code


def test_a_socket_follows_several_tasks_and_others_later(board: Stage) -> None:
    # Given a socket that follows two tasks
    one, two, three = (board.begun() for _ in range(3))
    with board.socket(one.id, two.id) as socket:
        firsts = [frame(socket), frame(socket)]
        assert [(first["id"], first["event"]) for first in firsts] == [(2, "snapshot")] * 2
        assert [first["task_id"] for first in firsts] == [str(one.id), str(two.id)]
        # When one moves, then that is told
        board.report(one, 10)
        told = frame(socket)
        assert (told["id"], told["event"], told["task_id"]) == (3, "progress", str(one.id))
        assert told["data"]["progress"] == 10.0
        # When it follows another one from its first event on, and one of the others no more
        socket.send(json.dumps({"subscribe": [str(three.id)], "after": {str(three.id): 1}}))
        assert (told := frame(socket))["event"] == "snapshot"
        assert told["id"] == 1
        assert (told := frame(socket))["data"]["status"] == "running"
        socket.send(json.dumps({"unsubscribe": [str(one.id)]}))
        socket.send(json.dumps({"subscribe": [str(two.id)]}))  # the answer shows that both were done
        assert frame(socket)["event"] == "snapshot"
        # Then it hears of these alone
        board.report(one, 20)
        board.finish(one)
        board.finish(three)
        board.finish(two)
        ends = sorted((frame(socket), frame(socket)), key=lambda end: end["task_id"])
        assert [(end["task_id"], end["data"]["status"]) for end in ends] == [
            (str(two.id), "completed"),
            (str(three.id), "completed"),
        ]


def test_a_task_that_is_not_there_gets_an_error_of_its_own(board: Stage) -> None:
    claim, nobody = board.begun(), new_id()
    with board.socket(nobody, claim.id) as socket:
        error = frame(socket)
        assert (error["event"], error["task_id"], error["data"]["code"]) == (
            "error",
            str(nobody),
            "not_found",
        )
        assert frame(socket)["event"] == "snapshot"
        socket.send('{"subscribe": ["nonsense"]}')
        error = frame(socket)
        assert (error["event"], error["task_id"]) == ("error", None)
        assert "nonsense" in error["data"]["detail"]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "nonsense",
        "[]",
        '{"subscribe": 1}',
        '{"other": []}',
        '{"after": {"x": -1}}',
        b"{}",
        r'"\ud83d"',
    ],
)
def test_what_is_not_understood_is_told_and_too_much_of_it_ends_the_connection(
    board: Stage, message: str | bytes
) -> None:
    with board.socket() as socket:
        socket.send(message)
        error = frame(socket)
        assert (error["event"], error["data"]["code"]) == ("error", "unparsable")
        for _ in range(9):
            socket.send(message)
        assert closed(socket) == 1008


def test_a_message_that_is_too_long_ends_the_connection(board: Stage) -> None:
    with board.socket() as socket:
        socket.send(json.dumps({"subscribe": ["x" * 600]}))
        assert closed(socket) == 1009


def test_a_socket_may_follow_so_many_tasks_and_no_more(board: Stage) -> None:
    # Given a socket that follows two hundred tasks
    tasks = [NewTask(task_type="work", queue_name="nobody") for _ in range(201)]
    board.ledger.submit(tasks).result(10)
    with board.socket(*(task.id for task in tasks[:80])) as socket:
        for task in tasks[80:200]:
            socket.send(json.dumps({"subscribe": [str(task.id)]}))
        assert {frame(socket)["event"] for _ in range(200)} == {"snapshot"}
        # When it wants one more, then it is told that it has enough
        last = str(tasks[200].id)
        socket.send(json.dumps({"subscribe": [last]}))
        assert frame(socket)["data"]["code"] == "too_many_subscriptions"
        # And when it gives one up, there is room
        socket.send(json.dumps({"unsubscribe": [str(tasks[0].id)], "subscribe": [last]}))
        assert frame(socket)["event"] == "snapshot"


def test_there_is_no_socket_at_another_address(board: Stage) -> None:
    with pytest.raises(Exception, match="403"):
        connect(f"{board.url.replace('http', 'ws')}/nothing")


def test_sockets_beyond_the_limit_are_asked_to_come_later(hurried: Stage) -> None:
    with ExitStack() as three:
        for _ in range(3):
            three.enter_context(hurried.socket())
        with hurried.socket() as one_too_many:
            assert closed(one_too_many) == 1013
    eventually(lambda: has_room_for_three(hurried))


def has_room_for_three(board: Stage) -> bool:
    """Whether no socket is open any more."""
    with ExitStack() as three:
        sockets = [three.enter_context(board.socket()) for _ in range(3)]
        for one in sockets:
            with suppress(ConnectionClosed):
                one.send("nonsense")
        answers = [answer(one) for one in sockets]
    return None not in answers


def answer(one: ClientConnection) -> dict[str, Any] | None:
    """What comes next; None if the server closes."""
    try:
        return frame(one)
    except ConnectionClosed:
        return None


@contextmanager
def silent_socket(board: Stage, task_id: UUID) -> Iterator[socket.socket]:
    """A client that sends its handshake and nothing else, not even answers to pings."""
    host, port = board.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as silent:
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        silent.sendall(f"GET /ws?task_id={task_id} HTTP/1.1\r\nHost: x\r\n{upgrade}{key}\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += silent.recv(1)
        yield silent


def all_of(silent: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := silent.recv(1 << 20):
            received += piece
    return received


def test_who_answers_pings_stays_and_who_does_not_is_cut_off(hurried: Stage) -> None:
    claim = hurried.begun()
    # Given two clients, of which one cannot answer because nobody reads for it
    with hurried.socket(claim.id) as alive, silent_socket(hurried, claim.id) as silent:
        assert frame(alive)["event"] == "snapshot"
        # Then the silent one is cut off, and the other one goes on
        assert b"snapshot" in all_of(silent)
        hurried.finish(claim)
        assert frame(alive)["data"]["status"] == "completed"


def test_who_does_not_read_is_dropped_with_a_code_of_its_own(hurried: Stage) -> None:
    # Given a task that has said more than fits on the way
    claim = hurried.begun()
    hurried.flood(claim)
    # When a client wants all of it and does not read
    with silent_socket(hurried, claim.id) as silent:
        wish = json.dumps({"subscribe": [str(claim.id)], "after": {str(claim.id): 0}}).encode()
        silent.sendall(bytes([0x81, 0x80 | len(wish), 0, 0, 0, 0]) + wish)
        # Then it is dropped, and finds the reason behind what was sent
        eventually(lambda: has_room_for_three(hurried))
        assert (4008).to_bytes(2, "big") + b"too slow" in all_of(silent)[-200:]
