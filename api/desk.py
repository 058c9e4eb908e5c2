"""The desk: what every resource works with."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from api.draining import Draining
from api.feed import LiveFeed
from api.outcomes import Outcomes
from api.traffic import Requests
from pipelines.bootstrap import Kit
from tasks.errors import Unavailable

#: A Postgres that is gone is known at once; one that stands still is waited for no longer than this.
ANSWER_SECONDS = 5.0
#: What a busy machine records at least.
ROWS_A_SECOND = 1_000
P = ParamSpec("P")
T = TypeVar("T")


class Desk:
    """The kit of the process, and a way to use it without holding up the event loop."""

    def __init__(self, kit: Kit, draining: Draining | None = None) -> None:
        self.kit = kit
        self.draining = draining or Draining()
        # As many threads as connections: one more could only wait for a connection.
        self._threads = ThreadPoolExecutor(kit.settings.db_pool, "callboard-api")
        # Of their own, so that an embedding endpoint that does not answer holds up nothing but what asks it.
        self._embedding_threads = ThreadPoolExecutor(kit.settings.db_pool, "callboard-embed")
        self.feed = LiveFeed(kit, self.draining, self.ask)
        self.requests = Requests()
        self._outcomes = Outcomes()
        #: How many WebSockets are open.
        self.sockets = 0

    def vitals(self) -> dict[str, Any]:
        """What it is asked, and who follows tasks here (see `tasks.vitals.Vitals`)."""
        return {
            "sockets": self.sockets,
            "streams": self.feed.connections - self.sockets,
            "stream_delay_s": self.feed.longest_delay(),
            "traffic": self.requests.traffic(),
        }

    async def work(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks and may take long, in a thread.

        Raises:
          Unavailable: the process is stopping, and no thread takes anything any more.
        """
        return await self._in(self._threads, partial(task, *args, **kwargs))

    async def embed(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `work`, for what may wait for an embedder.

        Raises:
          Unavailable: the process is stopping, and no thread takes anything any more.
        """
        return await self._in(self._embedding_threads, partial(task, *args, **kwargs))

    async def ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks, in a thread; a Postgres that stands still keeps nobody waiting.

        Raises:
          Unavailable: there was no answer in time.
        """
        try:
            return await asyncio.wait_for(self.work(question, *args, **kwargs), ANSWER_SECONDS)
        except TimeoutError:
            raise Unavailable("Postgres does not answer: try again in a moment.") from None

    async def committed(self, verb: Future[T], *, rows: int = 1) -> T:
        """Wait for a verb of the ledger; verbs of concurrent requests share a commit.

        A verb about many ``rows`` gets more time.

        A client that goes away takes back its request, not the verb: that is in a group with others.

        Raises:
          Unavailable: it was not committed in time; if it had been begun, it may still be.
        """
        answer = self._outcomes.of(verb)
        seconds = ANSWER_SECONDS + rows / ROWS_A_SECOND
        timer = asyncio.get_running_loop().call_later(seconds, _give_up, answer)
        try:
            return await answer
        except TimeoutError:
            outcome = "nothing was stored" if verb.cancel() else "whether this was stored is not known yet"
            raise Unavailable(
                f"Postgres does not answer, {outcome}: try again in a moment, with the same Idempotency-Key."
            ) from None
        finally:
            timer.cancel()

    def close(self) -> None:
        """Let the threads finish what they do."""
        self.feed.close()
        for threads in (self._threads, self._embedding_threads):
            threads.shutdown(wait=True, cancel_futures=True)

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            answer = asyncio.get_running_loop().run_in_executor(threads, call)
        except RuntimeError:
            raise Unavailable("This process is about to stop: ask another one.") from None
        return await answer


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
