"""Names that people give: which ones can be kept everywhere they go."""

import re
from urllib.parse import urlsplit

from tasks.errors import InvalidField

QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")
#: RabbitMQ keeps ``amq.`` for itself; the dead letters and the delays of a queue have these endings.
KEPT_PREFIX = "amq."
KEPT_ENDINGS = (".XQ", ".DQ")
#: No spaces, no control characters; "$" would also match before a last line break.
VISIBLE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
LONGEST_KEY = 255
LONGEST_URL = 2_048


def check_queue(name: str, *, field: str = "queue_name") -> str:
    """The name of a queue, if it can be one.

    Raises:
      InvalidField: it cannot; the message says why.
    """
    if not QUEUE.fullmatch(name):
        raise InvalidField.of(field, "must be 1 to 100 letters, digits and _ . : -")
    if name.startswith(KEPT_PREFIX) or name.endswith(KEPT_ENDINGS):
        raise InvalidField.of(
            field, f"must not begin with {KEPT_PREFIX} nor end with {' or '.join(KEPT_ENDINGS)}"
        )
    return name


def check_unique_key(key: str, *, field: str = "unique_key") -> str:
    """A unique key, if it can be one.

    Raises:
      InvalidField: it cannot; the message says why.
    """
    if len(key) > LONGEST_KEY or not VISIBLE.fullmatch(key):
        raise InvalidField.of(field, f"must be 1 to {LONGEST_KEY} visible characters, without spaces")
    return key


def check_callback_url(url: str, *, field: str = "callback_url") -> str:
    """An address to call, if it can be one. Messages do not repeat it: it may hold a secret.

    Raises:
      InvalidField: it cannot; the message says why.
    """
    if len(url) > LONGEST_URL or not VISIBLE.fullmatch(url):
        raise InvalidField.of(field, f"must be a URL of at most {LONGEST_URL} characters, without spaces")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        is_address = False
    if not is_address:
        raise InvalidField.of(field, "must be an http:// or https:// URL with a host")
    return url
