"""A load on an HTTP server that costs little itself: raw connections, each with one request at a time."""

import math
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

PIECE = 1 << 20
PATIENCE_SECONDS = 30.0
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


class UnexpectedAnswer(Exception):
    """An answer that is not what the benchmark counts; the message shows its beginning."""


@dataclass(frozen=True)
class Load:
    """What came of a load: how many requests were accepted, in which time, and how long each took, sorted."""

    accepted: int
    seconds: float
    took: Sequence[float]
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds

    def percentile(self, share: float) -> float:
        """How many milliseconds this share of the requests took at most."""
        return 1_000 * self.took[min(len(self.took) - 1, int(share * len(self.took)))]


class _Connection:
    """One request at a time, and its answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self._pieces: list[bytes] = []
        self._missing = 0

    def ask(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def read(self) -> bool:
        """Take what arrived; whether the answer is complete, and 202."""
        piece = self.socket.recv(PIECE)
        if not piece:
            raise UnexpectedAnswer("the server closed a connection")
        if self._missing:
            self._missing -= len(piece)
            return not self._missing
        self._pieces.append(piece)
        answer = piece if len(self._pieces) == 1 else b"".join(self._pieces)
        end = answer.find(_END_OF_HEAD)
        if end < 0:
            return False
        self._pieces.clear()
        head = answer[:end].lower()
        if not head.startswith(b"http/1.1 202") or (at := head.find(_LENGTH)) < 0:
            raise UnexpectedAnswer(answer[:500].decode(errors="replace"))
        length = int(head[at + len(_LENGTH) :].split(b"\r", 1)[0])
        self._missing = length - (len(answer) - end - len(_END_OF_HEAD))
        return not self._missing


def post(url: str, body: bytes) -> bytes:
    """The bytes of a POST request with a JSON body."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def drive(
    url: str, body: bytes, *, connections: int, seconds: float = math.inf, requests: float = math.inf
) -> Load:
    """Send a POST over and over on so many connections, for so long or so often, until all are answered.

    Raises:
      UnexpectedAnswer: one was not 202.
      TimeoutError: the server does not answer any more.
    """
    parts = urlsplit(url)
    request = post(url, body)
    open_ = [_Connection((parts.hostname or "", parts.port or 80)) for _ in range(connections)]
    by_number = {one.socket.fileno(): one for one in open_}
    poll = select.epoll()
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    took: list[float] = []
    for one in open_:
        one.ask(request)
    waiting = asked = len(open_)
    while waiting:
        ready = poll.poll(PATIENCE_SECONDS)
        if not ready:
            raise TimeoutError("the server does not answer any more")
        for number, _ in ready:
            one = by_number[number]
            if not one.read():
                continue
            now = time.perf_counter()
            took.append(now - one.began)
            if now < until and asked < requests:
                asked += 1
                one.ask(request)
            else:
                waiting -= 1
    load = Load(len(took), time.perf_counter() - began, sorted(took), time.process_time() - cpu)
    for one in open_:
        one.socket.close()
    poll.close()
    return load
