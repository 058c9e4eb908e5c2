"""The desk: what every resource works with."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from api.draining import Draining
from pipelines.bootstrap import Kit

P = ParamSpec("P")
T = TypeVar("T")


class Desk:
    """The kit of the process, and a way to use it without holding up the event loop."""

    def __init__(self, kit: Kit, draining: Draining | None = None) -> None:
        self.kit = kit
        self.draining = draining or Draining()
        # As many threads as connections: one more could only wait for a connection.
        self._threads = ThreadPoolExecutor(kit.settings.db_pool, "callboard-api")

    async def ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks, in a thread."""
        call = partial(question, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def committed(self, verb: Future[T]) -> T:
        """Wait for a verb of the ledger; verbs of concurrent requests share a commit.

        A client that goes away takes back its request, not the verb: that is in a group with others.
        """
        return await asyncio.shield(asyncio.wrap_future(verb))

    def close(self) -> None:
        """Let the threads finish what they do."""
        self._threads.shutdown(wait=True, cancel_futures=True)
