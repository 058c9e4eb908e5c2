"""Identifiers: UUID version 7, which sort by the time they were made."""

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """A new UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits."""
    return id_of(time.time_ns() // 1_000_000, os.urandom(10))


def id_of(milliseconds: int, noise: bytes) -> UUID:
    """The UUIDv7 of a moment, with ten bytes for its other bits; the same of the same."""
    number = (milliseconds << 80) | int.from_bytes(noise, "big")
    number = number & ~(0xF << 76) | (0x7 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=number)


def parse_id(text: str) -> UUID | None:
    """The id that ``text`` spells, or None: a malformed id is simply the id of nothing."""
    try:
        return UUID(text)
    except ValueError:
        return None
