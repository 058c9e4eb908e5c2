"""Signatures of callbacks: how they are made, and how a receiver finds out whether one is genuine.

A receiver needs nothing of Callboard but this:

    from actors.web.signatures import verify

    if not verify(secret, request.headers["X-Callboard-Signature"], request.body):
        return 400
"""

import hashlib
import hmac
import re
import time

SIGNATURE_HEADER = "X-Callboard-Signature"
#: How old a callback may be, or how far the clocks of sender and receiver may differ.
TOLERANCE_SECONDS = 300.0
_HEADER = re.compile(r"t=([0-9]{1,12})((?:,v1=[0-9a-f]{64})+)")


def sign(secret: str, body: bytes, at: float | None = None) -> str:
    """The value of the header for a body that is sent at a Unix time, now by default."""
    seconds = int(time.time() if at is None else at)
    return f"t={seconds},v1={_digest(secret, seconds, body)}"


def verify(
    secret: str,
    header: str | None,
    body: bytes,
    tolerance: float = TOLERANCE_SECONDS,
    *,
    now: float | None = None,
) -> bool:
    """Whether a callback comes from who knows the secret, and was sent just now.

    Args:
      secret: that of the webhook, or ``CALLBOARD_CALLBACK_SECRET`` for a task's callback_url.
      header: what came as ``X-Callboard-Signature``; None if it did not come.
      body: the bytes that came, as they came.
      tolerance: how many seconds ago it may have been signed: older ones may be sent again by anybody
        who has seen them.
      now: the Unix time to compare with, instead of the present.
    """
    found = _HEADER.fullmatch(header or "")
    if found is None or not secret:
        return False
    seconds = int(found[1])
    if abs((time.time() if now is None else now) - seconds) > tolerance:
        return False
    expected = _digest(secret, seconds, body)
    given = found[2].split(",v1=")[1:]
    return any([hmac.compare_digest(one, expected) for one in given])


def _digest(secret: str, seconds: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
