"""Connections to hosts that users name, made so that nobody reaches through us what only we can reach.

A host is resolved once, every address it has is checked, and the connection is made to one that was checked.
"""

import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from actors.errors import ActorsError
from actors.web.addresses import Target, literal, may_reach, take_apart

MOST_HEAD_BYTES = 64 * 1024

Resolver = Callable[[str, int], Sequence[str]]


class MustNotBeReached(ActorsError):
    """A host has an address that is not on the public internet, or no address."""

    code = "address_refused"


def resolve(host: str, port: int) -> list[str]:
    """Return every IP address of a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Gate:
    """Lets connections out to hosts that may be reached. Shared by threads.

    Args:
      allow_private: whether hosts of an intranet and this machine may be reached.
      resolver: gives the addresses of a host.
      reachable: says of an address whether it may be reached; by default `may_reach`.
      tls: makes the context of a TLS connection.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolver: Resolver = resolve,
        reachable: Callable[[str], bool] | None = None,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._allow_private = allow_private
        self._resolver = resolver
        self._reachable = reachable or (lambda address: may_reach(address, allow_private=allow_private))
        self._tls = tls

    def check(self, url: str) -> Target:
        """Take a URL apart, and refuse what is plain before anything is sent; names are not resolved.

        Raises:
          ValueError: why; the message goes on after the name of a field, and does not repeat the URL.
        """
        target = take_apart(url)
        address = literal(target.host)
        own = target.host.rstrip(".")
        is_own = not self._allow_private and (own == "localhost" or own.endswith(".localhost"))
        if is_own or (address is not None and not self._reachable(address)):
            raise ValueError("names a host that must not be reached: it is not on the public internet")
        return target

    @contextmanager
    def connected(self, target: Target, deadline: float) -> Iterator["Line"]:
        """A connection to the host of a target, until ``deadline`` on the monotonic clock.

        Raises:
          MustNotBeReached: the host may not be reached.
          OSError: it cannot be reached. TimeoutError: not in time. ssl.SSLError: it cannot be trusted.
        """
        with closing(self._connect(target, deadline)) as raw:
            yield Line(raw, deadline)

    def _connect(self, target: Target, deadline: float) -> socket.socket:
        addresses = self._resolved(target, deadline)
        if not addresses or not all(map(self._reachable, addresses)):
            raise MustNotBeReached(
                f"The host of {target.shown} must not be reached: it is not on the public internet."
            )
        raw = _first_connected(addresses, target.port, deadline)
        try:
            if target.scheme == "https":
                raw.settimeout(_left(deadline))
                return self._tls().wrap_socket(raw, server_hostname=target.host.rstrip("."))
            return raw
        except BaseException:
            raw.close()
            raise

    def _resolved(self, target: Target, deadline: float) -> Sequence[str]:
        """The addresses of the host. A resolver cannot be interrupted, so it is left behind if it is slow."""
        found: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                found.put(self._resolver(target.host, target.port))
            except Exception as error:
                found.put(error)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            answer = found.get(timeout=_left(deadline))
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(answer, Exception):
            raise answer
        return answer


class Line:
    """A socket for ``http.client`` that keeps a deadline, and a limit on the bytes before the body."""

    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline
        self._head_left: int | None = MOST_HEAD_BYTES

    def sendall(self, data: bytes) -> None:
        """Send everything. Raises TimeoutError."""
        self._raw.settimeout(_left(self._deadline))
        self._raw.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What is received, as a file."""
        return io.BufferedReader(_Received(self))

    def receive_into(self, buffer: Any) -> int:
        """Receive something: how many bytes. Raises TimeoutError; LineTooLong if the head has no end."""
        self._raw.settimeout(_left(self._deadline))
        size = self._raw.recv_into(buffer)
        if self._head_left is not None:
            self._head_left -= size
            if self._head_left < 0:
                raise http.client.LineTooLong("head")
        return size

    def head_is_over(self) -> None:
        """From now on the body is read, whose size others limit."""
        self._head_left = None

    def hurry(self, seconds: float) -> None:
        """Wait for what is still to come for ``seconds`` at most."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def close(self) -> None:
        """Stay open: ``http.client`` closes before it reads the body. Who opened the socket closes it."""


class _Received(io.RawIOBase):
    def __init__(self, line: Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.receive_into(buffer)


def _first_connected(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first of the addresses that takes one; each has its share of the time."""
    failure: OSError = OSError("no address")
    for tried, address in enumerate(addresses):
        try:
            share = _left(deadline) / (len(addresses) - tried)
            return socket.create_connection((address, port), timeout=share)
        except OSError as error:
            failure = error
    raise failure


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
