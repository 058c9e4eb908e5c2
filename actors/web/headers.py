"""What headers of answers mean."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Nobody is waited for longer than this.
LONGEST_SECONDS = 86_400.0


def retry_after(text: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 if it is neither."""
    if text.strip().isdecimal():
        return min(float(text), LONGEST_SECONDS)
    try:
        seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), LONGEST_SECONDS)
