"""What the client does with queues."""

from typing import Any
from urllib.parse import quote

from api.client.answers import read
from api.client.requests import Requests
from tasks.records import Queue, QueueStats


class QueueCalls(Requests):
    """Looking at queues, and steering them."""

    def queues(self) -> list[Queue]:
        """Return all queues, by name."""
        return list(self._all("/queues", "queues", Queue))

    def queue(self, name: str) -> Queue:
        """Return one queue."""
        return read(self._get(_path(name)), Queue)

    def queue_stats(self, name: str) -> QueueStats:
        """Return how much there is in a queue, and what became of its newest tasks."""
        return read(self._get(_path(name, "/stats")), QueueStats)

    def define_queue(self, name: str, **settings: Any) -> Queue:
        """Make a queue or change it: ``concurrency``, ``rate_limit``, ``max_size``; None leaves one alone."""
        given = {key: value for key, value in settings.items() if value is not None}
        return read(self._post("/queues", {"name": name, **given}), Queue)

    def change_queue(self, name: str, **settings: Any) -> Queue:
        """Change a queue that is there: as `define_queue`, but None takes a limit away."""
        return read(self._send("PATCH", _path(name), json=settings), Queue)

    def pause_queue(self, name: str) -> Queue:
        """Let no more tasks of a queue start; those that run finish."""
        return read(self._post(_path(name, "/pause")), Queue)

    def resume_queue(self, name: str) -> Queue:
        """Let the tasks of a paused queue start again."""
        return read(self._post(_path(name, "/resume")), Queue)

    def delete_queue(self, name: str) -> None:
        """Delete a queue in which nothing is unfinished and nothing is dead."""
        self._send("DELETE", _path(name))


def _path(name: str, below: str = "") -> str:
    return f"/queues/{quote(name, safe='')}{below}"
