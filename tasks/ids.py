"""Identifiers: UUID version 7, which sort by the time they were made."""

import os
import time
from collections import deque
from uuid import UUID

NOISE_BYTES, PIECES = 10, 256
_noise: deque[bytes] = deque()
os.register_at_fork(after_in_child=_noise.clear)  # else two processes would make the same ids


def new_id() -> UUID:
    """A new UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits."""
    return id_of(time.time_ns() // 1_000_000, noise())


def noise() -> bytes:
    """Ten random bytes, from the system, that nobody else gets.

    Fetched for many: to ask the system lets go of the GIL, and among busy threads it is long until it is had
    again, while the requests of an event loop that go into one commit come in the meantime to two.
    """
    while True:
        try:
            return _noise.pop()
        except IndexError:
            fresh = os.urandom(NOISE_BYTES * PIECES)
            _noise.extend(fresh[at : at + NOISE_BYTES] for at in range(0, len(fresh), NOISE_BYTES))


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
