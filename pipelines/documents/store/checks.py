"""What the store accepts as names, and how it makes text fit for Postgres."""

import re

from tasks.errors import InvalidField

KB_ID = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")
LONGEST_NAME = 200
LONGEST_DOCUMENT_NAME = 1000  # a path may be its name
MOST_DIMENSIONS = 4000  # the most that pgvector can index as halfvec


def checked_kb_id(kb_id: str) -> str:
    """``kb_id`` itself, or `InvalidField`."""
    if not KB_ID.match(kb_id):
        raise InvalidField.of("kb_id", "must be 1 to 100 of the characters A-Z a-z 0-9 . _ -")
    return kb_id


def checked_name(name: str, *, longest: int = LONGEST_NAME) -> str:
    """``name`` without outer space, or `InvalidField`."""
    name = storable(name).strip()
    if not 1 <= len(name) <= longest:
        raise InvalidField.of("name", f"must have 1 to {longest} characters")
    return name


def checked_dim(dim: int) -> int:
    """``dim`` itself, or `InvalidField`."""
    if not 1 <= dim <= MOST_DIMENSIONS:
        raise InvalidField.of(
            "dim", f"must be 1 to {MOST_DIMENSIONS}, the dimensions of the embedder's vectors"
        )
    return dim


def storable(text: str) -> str:
    """``text`` with U+FFFD for what Postgres cannot store (NUL, lone surrogates); offsets stay."""
    return _UNSTORABLE.sub("\ufffd", text)


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
