"""What operators watch, read by the client."""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from api.client.answers import read
from api.client.requests import Requests
from tasks.figures import ProcessStats, QueueTotals
from tasks.records import QueueStats

T = TypeVar("T")
_PAGE = 100


class _Workers(msgspec.Struct):
    workers: list[ProcessStats]


class _Queues(msgspec.Struct):
    queues: list[QueueStats]
    totals: QueueTotals


class Stats(Requests):
    """The figures of a deployment."""

    def workers(self) -> list[ProcessStats]:
        """Return all living processes, with what they run; administrators only."""
        return [one for page in self._pages("/stats/workers", _Workers) for one in page.workers]

    def stats_of_queues(self) -> tuple[list[QueueStats], QueueTotals]:
        """Return the figures of all queues, and what is in them together; administrators only."""
        pages = list(self._pages("/stats/queues", _Queues))
        return [one for page in pages for one in page.queues], pages[-1].totals

    def _pages(self, path: str, kind: type[T]) -> Iterator[T]:
        cursor = None
        while True:
            answer = self._get(path, {"limit": _PAGE, "cursor": cursor})
            yield read(answer, kind)
            cursor = answer.json().get("next_cursor")
            if cursor is None:
                return
