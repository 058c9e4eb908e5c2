"""What this process is asked over HTTP, in numbers: with its heartbeat they reach all others."""

import bisect
import time
from collections import Counter
from typing import Any, Final

from falcon.asgi import Request, Response

from tasks.vitals import Traffic

#: The bounds of the histogram of durations, in seconds.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: What is found at no address, and other methods than these, are each counted together.
OTHER: Final = "other"


class _Asked:
    """What was asked of one address with one method."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.within = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0


class Requests:
    """Middleware that counts requests by route, method and class of their status, and how long they took.

    What streams is counted when it begins to. Everything happens on the event loop; `traffic` may be read on
    another thread.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], _Asked] = {}

    async def process_request(self, req: Request, resp: Response) -> None:
        """Remember when a request came."""
        req.context.came_at = time.perf_counter()

    async def process_response(self, req: Request, resp: Response, resource: Any, succeeded: bool) -> None:
        """Count a request that is answered."""
        took = time.perf_counter() - getattr(req.context, "came_at", time.perf_counter())
        method = req.method if req.method in METHODS else OTHER
        key = method, req.uri_template or OTHER
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked()
        asked.statuses[f"{resp.status_code // 100}xx"] += 1
        asked.within[bisect.bisect_left(BOUNDS, took)] += 1
        asked.seconds += took

    def traffic(self) -> list[Traffic]:
        """What was asked until now."""
        return [
            Traffic(method, route, dict(one.statuses), list(one.within), one.seconds)
            for (method, route), one in list(self._asked.items())
        ]
