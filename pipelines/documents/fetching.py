"""Documents from the web, fetched so that nobody reaches through us what only we can reach.

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
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec

from pipelines.documents.addresses import Target, literal, may_reach, take_apart
from pipelines.documents.errors import DocumentTooLarge, FetchFailed, FetchRefused

FETCH_SECONDS = 30.0
MOST_REDIRECTS = 5
MOST_HEAD_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_OK = (200, 203)
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 429)
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "callboard", "Connection": "close"}

Resolver = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Return every IP address of a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Fetched(msgspec.Struct, frozen=True):
    """What came: its size in bytes, and the media type that its server declares, in small letters."""

    size: int
    media_type: str | None


class Fetcher:
    """Fetches by GET. Shared by threads; every fetch has connections of its own.

    Args:
      most_bytes: how large a document may be.
      allow_private: whether hosts of an intranet and this machine may be reached.
      seconds: how long a fetch may take, with all its redirects.
      resolver: gives the addresses of a host.
      reachable: says of an address whether it may be reached; by default `may_reach`.
      tls: makes the context of a TLS connection.
    """

    def __init__(
        self,
        most_bytes: int,
        *,
        allow_private: bool = False,
        seconds: float = FETCH_SECONDS,
        resolver: Resolver = resolve,
        reachable: Callable[[str], bool] | None = None,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._resolver = resolver
        self._reachable = reachable or (lambda address: may_reach(address, allow_private=allow_private))
        self._allow_private = allow_private
        self._tls = tls

    def check(self, url: str) -> None:
        """Refuse what is plain before anything is fetched; names are not resolved.

        Raises:
          ValueError: why; the message goes on after the name of a field, and does not repeat the URL.
        """
        host = take_apart(url).host
        address = literal(host)
        own = host.rstrip(".")
        is_own = not self._allow_private and (own == "localhost" or own.endswith(".localhost"))
        if is_own or (address is not None and not self._reachable(address)):
            raise ValueError("names a host that must not be reached: it is not on the public internet")

    def fetch(self, url: str, into: Path) -> Fetched:
        """Write the document at ``url`` to the file ``into``.

        Raises:
          FetchRefused: the URL or one that it redirects to must not be fetched, or has no document.
          DocumentTooLarge: it is larger than allowed.
          FetchFailed: it cannot be had now.
        """
        deadline = time.monotonic() + self._seconds
        target = _target(url)
        for _ in range(MOST_REDIRECTS + 1):
            with self._answer(target, deadline) as answer:
                location = _judged(answer, target)
                if location is None:
                    return self._body(answer, target, into)
            before, target = target, _target(location)
            if before.scheme == "https" and target.scheme == "http":
                raise FetchRefused(f"{before.shown} redirects from https to http. Send the URL of the file.")
        raise FetchRefused(
            f"There are more than {MOST_REDIRECTS} redirects. Send the URL of the file itself."
        )

    @contextmanager
    def _connected(self, target: Target, deadline: float) -> Iterator["_Line"]:
        with closing(self._connect(target, deadline)) as raw:
            yield _Line(raw, deadline)

    @contextmanager
    def _answer(self, target: Target, deadline: float) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET as soon as its head is there; what goes wrong inside is an error of ours."""
        try:
            with self._connected(target, deadline) as line:
                connection = http.client.HTTPConnection(target.host, target.port)
                connection.sock = line
                connection.request("GET", target.path, headers={"Host": target.authority, **_HEADERS})
                with connection.getresponse() as answer:
                    line.head_is_over()
                    yield answer
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message
            raise FetchRefused(f"The certificate of {target.shown} is not valid: {reason}.") from None
        except TimeoutError:
            raise FetchFailed(
                f"{target.shown} did not send it within {self._seconds:g} s in all. Try again later."
            ) from None
        except (http.client.IncompleteRead, ConnectionError):
            raise FetchFailed(f"{target.shown} broke the connection off. Try again later.") from None
        except http.client.HTTPException:
            raise FetchRefused(f"{target.shown} does not speak HTTP as it should. Check the URL.") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FetchFailed(f"{target.shown} cannot be reached: {reason}. Try again later.") from None

    def _connect(self, target: Target, deadline: float) -> socket.socket:
        addresses = self._resolved(target, deadline)
        if not addresses or not all(map(self._reachable, addresses)):
            raise FetchRefused(
                f"The host of {target.shown} must not be reached: it is not on the public internet. "
                "An intranet can be allowed by CALLBOARD_FETCH_ALLOW_PRIVATE."
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

    def _body(self, answer: http.client.HTTPResponse, target: Target, into: Path) -> Fetched:
        packed = _words(answer, "Content-Encoding") - {"identity"}
        if packed or _words(answer, "Transfer-Encoding") - {"chunked"}:
            raise FetchRefused(
                f"{target.shown} sends it packed, which was not asked for. Upload the document."
            )
        expected, size = answer.length, 0
        if expected is not None and expected > self._most_bytes:
            raise self._too_large()
        with into.open("wb") as file:
            while piece := answer.read(_READ_BYTES):
                size += len(piece)
                if size > self._most_bytes:
                    raise self._too_large()
                file.write(piece)
        if expected is not None and size < expected:
            raise FetchFailed(f"{target.shown} sent {size} of {expected} bytes only. Try again later.")
        declared = str(answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        return Fetched(size, declared or None)

    def _too_large(self) -> DocumentTooLarge:
        return DocumentTooLarge(f"The document has more than the {self._most_bytes} bytes that are allowed.")


class _Line:
    """A socket for ``http.client`` that keeps a deadline, and a limit on the bytes before the body."""

    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline
        self._head_left: int | None = MOST_HEAD_BYTES

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(_left(self._deadline))
        self._raw.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self))

    def receive_into(self, buffer: Any) -> int:
        self._raw.settimeout(_left(self._deadline))
        size = self._raw.recv_into(buffer)
        if self._head_left is not None:
            self._head_left -= size
            if self._head_left < 0:
                raise http.client.LineTooLong("head")
        return size

    def head_is_over(self) -> None:
        self._head_left = None

    def close(self) -> None:
        """Stay open: ``http.client`` closes before it reads the body. Who opened the socket closes it."""


class _Received(io.RawIOBase):
    def __init__(self, line: _Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.receive_into(buffer)


def _target(url: str) -> Target:
    try:
        return take_apart(url)
    except ValueError as error:
        raise FetchRefused(f"The URL, or one that it redirects to, {error}.") from None


def _judged(answer: http.client.HTTPResponse, target: Target) -> str | None:
    """Where the answer redirects to, or None for a document."""
    if answer.status in _OK:
        return None
    location = str(answer.headers.get("Location") or "").strip()
    if answer.status in _REDIRECTS and location:
        # Many servers send it as it is, in UTF-8, although it should be percent-encoded.
        location = location.encode("latin-1").decode("utf-8", "replace").replace(" ", "%20")
        return urljoin(f"{target.shown}{target.path}", location)
    if answer.status >= 500 or answer.status in _TEMPORARY:
        raise FetchFailed(f"{target.shown} answered {answer.status}. Try again later.")
    raise FetchRefused(f"{target.shown} answered {answer.status} and no document. Check the URL.")


def _words(answer: http.client.HTTPResponse, header: str) -> set[str]:
    """The words of a header that may be given several times."""
    values = ",".join(map(str, answer.headers.get_all(header) or []))
    return {word for one in values.split(",") if (word := one.strip().lower())}


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
