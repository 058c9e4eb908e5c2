"""What callers send about queues."""

from typing import Annotated

import msgspec
from msgspec import Meta

from actors.requests import DAY, Name

#: Far more than anybody waits for; the room is counted up to it.
MOST_WAITING = 1_000_000


class RateLimitRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate limit: ``limit`` starts in ``per_seconds``, and ``burst`` (by default ``limit``) at once."""

    limit: Annotated[int, Meta(ge=1, le=1_000_000)]
    per_seconds: Annotated[float, Meta(gt=0, le=DAY)] = 1.0
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


Concurrency = Annotated[int, Meta(ge=1, le=100_000)] | None
MaxSize = Annotated[int, Meta(ge=1, le=MOST_WAITING)] | None


class QueueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /queues``; what is left out stays as it is, and is the default in a new queue."""

    name: Name
    concurrency: Concurrency = None
    rate_limit: RateLimitRequest | None = None
    max_size: MaxSize = None


class QueueChange(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``PATCH /queues/{name}``; what is left out stays as it is, null takes a limit away."""

    concurrency: Concurrency = None
    rate_limit: RateLimitRequest | None = None
    max_size: MaxSize = None
