"""What the record can keep of the values that actors hand over."""

import re
from typing import Any

import msgspec

#: An escaped NUL in JSON; behind an odd number of backslashes it would be the text of an escape.
NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def storable(text: str) -> str:
    """Text without what Postgres cannot keep: NUL and lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def as_kept(value: Any, *, most_bytes: int | None = None) -> Any:
    """A value as JSON gives it back, which is how the record keeps it.

    Raises:
      ValueError: it cannot be kept; the message says why.
    """
    try:
        encoded = msgspec.json.encode(value)
        if NUL.search(encoded):
            raise ValueError("it holds a NUL character")
        if most_bytes is not None and len(encoded) > most_bytes:
            raise ValueError(f"it has {len(encoded)} bytes, and {most_bytes} are kept at most")
        return msgspec.json.decode(encoded)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"it cannot be kept as JSON: {error}") from error
