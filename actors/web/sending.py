"""Sending a body to a URL that a user named: one POST, bounded in time, to a host that may be reached."""

import http.client
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from actors.web.connecting import Gate, Line, MustNotBeReached
from actors.web.headers import retry_after

#: For everything: resolving the name, connecting, sending, and the head of the answer.
SEND_SECONDS = 10.0
#: So much of an answer is read, for so long, and thrown away: that it came at all is what counts.
MOST_READ_BYTES, MOST_READ_SECONDS = 1_024, 0.5
_LONGEST_REASON = 100


class Sent(msgspec.Struct, frozen=True):
    """What came of a POST: the status of the answer, or why there is none.

    ``retry_after`` is how many seconds the receiver wants to be left alone, 0 if it did not say.
    """

    status: int | None
    error: str | None
    retry_after: float = 0.0


class Sender:
    """Sends by POST. Shared by threads; every body has a connection of its own. Redirects are not followed.

    Args:
      gate: which hosts may be reached.
      seconds: how long one POST may take in all.
    """

    def __init__(self, gate: Gate, *, seconds: float = SEND_SECONDS) -> None:
        self._gate = gate
        self._seconds = seconds

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Sent:
        """Send a body; whatever goes wrong is told by the answer, without the path and query of the URL."""
        deadline = time.monotonic() + self._seconds
        try:
            target = self._gate.check(url)
        except ValueError as error:
            return Sent(None, f"the URL {error}")
        try:
            with self._gate.connected(target, deadline) as line:
                connection = http.client.HTTPConnection(target.host, target.port)
                connection.sock = line
                own = {"Host": target.authority, "User-Agent": "callboard", "Connection": "close"}
                connection.request("POST", target.path, body=body, headers={**own, **headers})
                return _answer(connection, line)
        except MustNotBeReached:
            return Sent(None, "its host must not be reached: it is not on the public internet")
        except ssl.SSLCertVerificationError as error:
            return Sent(None, f"its certificate is not valid: {error.verify_message[:_LONGEST_REASON]}")
        except TimeoutError:
            return Sent(None, f"there was no answer within {self._seconds:g} s")
        except ConnectionResetError:
            return Sent(None, "it broke the connection off")
        except http.client.HTTPException:
            return Sent(None, "what it answers is not HTTP")
        except OSError as error:
            reason = str(error.strerror or type(error).__name__)
            return Sent(None, f"its host cannot be reached: {reason[:_LONGEST_REASON]}")


def _answer(connection: http.client.HTTPConnection, line: Line) -> Sent:
    with connection.getresponse() as answer:
        line.head_is_over()
        line.hurry(MOST_READ_SECONDS)
        # A receiver that is cut off in the middle of its answer might take that for a failure.
        with suppress(OSError, http.client.HTTPException):
            answer.read(MOST_READ_BYTES)
        return Sent(answer.status, None, retry_after(str(answer.headers.get("Retry-After") or "")))
