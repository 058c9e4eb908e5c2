"""Documents from the web, fetched so that nobody reaches through us what only we can reach."""

import http.client
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import msgspec

from actors.web.addresses import Target, take_apart
from actors.web.connecting import Gate, MustNotBeReached
from pipelines.documents.errors import DocumentTooLarge, FetchFailed, FetchRefused

FETCH_SECONDS = 30.0
MOST_REDIRECTS = 5
_READ_BYTES = 64 * 1024
_OK = (200, 203)
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 429)
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "callboard", "Connection": "close"}


class Fetched(msgspec.Struct, frozen=True):
    """What came: its size in bytes, and the media type that its server declares, in small letters."""

    size: int
    media_type: str | None


class Fetcher:
    """Fetches by GET. Shared by threads; every fetch has connections of its own.

    Args:
      most_bytes: how large a document may be.
      gate: which hosts may be reached.
      seconds: how long a fetch may take, with all its redirects.
    """

    def __init__(self, most_bytes: int, gate: Gate, *, seconds: float = FETCH_SECONDS) -> None:
        self._most_bytes = most_bytes
        self._gate = gate
        self._seconds = seconds

    def check(self, url: str) -> None:
        """Refuse what is plain before anything is fetched; names are not resolved.

        Raises:
          ValueError: why; the message goes on after the name of a field, and does not repeat the URL.
        """
        self._gate.check(url)

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
    def _answer(self, target: Target, deadline: float) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET as soon as its head is there; what goes wrong inside is an error of ours."""
        try:
            with self._gate.connected(target, deadline) as line:
                connection = http.client.HTTPConnection(target.host, target.port)
                connection.sock = line
                connection.request("GET", target.path, headers={"Host": target.authority, **_HEADERS})
                with connection.getresponse() as answer:
                    line.head_is_over()
                    yield answer
        except MustNotBeReached as error:
            raise FetchRefused(
                f"{error.message} An intranet can be allowed by CALLBOARD_FETCH_ALLOW_PRIVATE."
            ) from None
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
