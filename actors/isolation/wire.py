"""What a worker and the process that runs a task for it say to each other, over a pair of sockets.

A message is its length, four bytes, and that many bytes of JSON. The child says `Ready` once. The worker
sends a `Run`; the child answers with `Begun`, any number of `Progress`, `Line`, `Item` and `Save`, and one
verdict. A `Save` gets a `Saved`.
"""

import select
import socket
import struct
import threading
from typing import Any, Final

import msgspec

from actors.attempt import Judged
from tasks.values import Claimed, Json

LENGTH: Final = struct.Struct(">I")
MOST_AT_ONCE: Final = 1 << 20


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The child is there and knows its actors."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """A task to run; its ``state`` travels beside it, since raw JSON cannot be optional."""

    claim: Claimed
    state: Json

    @classmethod
    def of(cls, claim: Claimed) -> "Run":
        """The message for a claim."""
        return cls(msgspec.structs.replace(claim, state=None), claim.state or Json(b"null"))

    def claimed(self) -> Claimed:
        """The claim as it was."""
        return msgspec.structs.replace(self.claim, state=self.state)


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The child has the task: if it dies from now on, the task is to blame."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far the attempt that holds ``token`` is."""

    token: int
    percent: float
    phase: str | None
    message: str | None
    details: dict[str, Any]


class Line(msgspec.Struct, frozen=True, tag=True):
    """What the attempt that holds ``token`` logged."""

    token: int
    level: str
    logger: str
    message: str


class Save(msgspec.Struct, frozen=True, tag=True):
    """A state that the attempt that holds ``token`` wants to be saved."""

    token: int
    version: int
    state: Json


class Saved(msgspec.Struct, frozen=True, tag=True):
    """What became of a `Save`: done, or the token was stale, or an error with its code."""

    token: int
    version: int
    done: bool = False
    error: tuple[str, str] | None = None


class Item(msgspec.Struct, frozen=True, tag=True):
    """What the attempt that holds ``token`` has yielded."""

    token: int
    item: Json


Message = Ready | Run | Begun | Progress | Line | Save | Saved | Item | Judged


class Wire:
    """One end of the pair. Any thread may send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._received = bytearray()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
          OSError: the other end is gone.
          TypeError, ValueError: JSON cannot hold the message; nothing was sent.
        """
        body = msgspec.json.encode(message)
        with self._sending:
            self._socket.sendall(LENGTH.pack(len(body)) + body)

    def receive(self, seconds: float | None = None) -> Message | None:
        """The next message; None if nothing, or only a part of it, came within ``seconds``.

        Raises:
          EOFError, OSError: the other end is gone.
          msgspec.MsgspecError: this is no message.
        """
        message = self._next()
        while message is None:
            if not self._poll.poll(None if seconds is None else seconds * 1_000):
                return None
            received = self._socket.recv(MOST_AT_ONCE)
            if not received:
                raise EOFError("the other end is gone")
            self._received += received
            message = self._next()
        return message

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _next(self) -> Message | None:
        """Take a message from what was received, if it is complete."""
        if len(self._received) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(self._received)[0]
        if len(self._received) < end:
            return None
        body = bytes(self._received[LENGTH.size : end])
        del self._received[:end]
        message: Message = msgspec.json.decode(body, type=Message)
        return message
