"""The feed of an API process, on a real record: who comes while it reads misses nothing."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from api.draining import Draining
from api.feed import LiveFeed, Outbox
from pipelines.bootstrap import Kit, open_kit
from tasks.settings import Settings
from tasks.values import Claimed, NewTask


@pytest.fixture
def kit(url: str, shared: PooledPostgresqlDatabase, tmp_path: Any) -> Iterator[Kit]:
    kit = open_kit(Settings(database_url=url, data_dir=tmp_path))
    yield kit
    kit.close()


class SlowDesk:
    """Reads the record, and hands over the news in it when it is told to."""

    def __init__(self) -> None:
        self.read = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = await asyncio.to_thread(question, *args, **kwargs)
        if question.__name__ == "events_after" and any(news.events for news in answer.values()):
            self.read.set()
            await self.go_on.wait()
        return answer


def begun(kit: Kit) -> Claimed:
    kit.ledger.submit([NewTask(task_type="work", queue_name="feed")]).result(10)
    (claim,) = kit.ledger.fetch(["feed"], ["work"], 1).result(10)
    return claim


async def report(kit: Kit, claim: Claimed, step: int) -> None:
    details = {"step": "climb", "steps_done": step, "steps_total": 100}
    assert await asyncio.wrap_future(kit.ledger.report(claim, step, "climb", None, details))


async def numbers(outbox: Outbox, upto: int) -> list[int]:
    """The ids of the events that come, snapshots aside, until the one of this number is there."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1] < upto:
            frames = await outbox.take()
            seen += [frame.number for frame in frames if frame.number and frame.kind != "snapshot"]
    return seen


def test_who_comes_back_while_news_is_read_for_others_misses_nothing_before_it(kit: Kit) -> None:
    claim = begun(kit)

    async def play() -> list[int]:
        desk = SlowDesk()
        feed = LiveFeed(kit, Draining(), desk.ask)
        with feed.outbox() as ahead, feed.outbox() as behind:
            # Given a follower who has seen the first five events
            standings = await feed.standings([claim.id], None)
            feed.follow(ahead, standings[claim.id], 0)
            for step in range(1, 4):
                await report(kit, claim, step)
            await numbers(ahead, 5)
            # And news for it, which is being read
            desk.go_on.clear()
            desk.read.clear()
            await report(kit, claim, 4)
            await desk.read.wait()
            # When another one comes who has seen only three of them
            standings = await feed.standings([claim.id], None)
            feed.follow(behind, standings[claim.id], 3)
            desk.go_on.set()
            seen = await numbers(behind, 6)
        feed.close()
        return seen

    # Then it gets all that it has not seen, each once, in order
    assert asyncio.run(play()) == [4, 5, 6]


def test_how_late_events_are_is_measured_but_not_for_what_happened_before(kit: Kit) -> None:
    claim = begun(kit)

    async def play() -> tuple[int, float, float, float]:
        desk = SlowDesk()
        feed = LiveFeed(kit, Draining(), desk.ask)
        with feed.outbox() as outbox:
            # Given a follower who has seen what happened before it came, long ago
            await report(kit, claim, 1)
            await asyncio.sleep(LATE)
            standings = await feed.standings([claim.id], None)
            feed.follow(outbox, standings[claim.id], 0)
            await numbers(outbox, 3)
            before = feed.longest_delay()
            # When the next event is read slowly
            desk.go_on.clear()
            desk.read.clear()
            await report(kit, claim, 2)
            await desk.read.wait()
            await asyncio.sleep(LATE)
            desk.go_on.set()
            await numbers(outbox, 4)
            await asyncio.sleep(0)
            delay = feed.longest_delay()
            # And another one asks for all that has happened
            with feed.outbox() as late:
                feed.follow(late, standings[claim.id], 0)
                await numbers(late, 4)
                found = feed.connections, before, delay, feed.longest_delay()
        feed.close()
        return found

    # Then only that was late, and it is told once
    connections, before, delay, afterwards = asyncio.run(play())
    assert connections == 2
    assert before < LATE <= delay < 10
    assert afterwards < LATE


#: How many seconds an event is held up.
LATE = 0.6
