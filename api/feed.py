"""The feed of this process: one reader of the record for all who follow tasks here, over SSE and WebSocket.

Who follows a task has a position, the last event that was put into its outbox, and gets every event after
it, once, in order. A notice says which tasks have moved; a poll beside it finds what no notice told. All
tasks that moved are read in one go, a few times a second at most, and each event is encoded once.

An outbox is bounded. When it is full, its followers stand still: what they have not seen waits on the record.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

import msgspec

from api.draining import Draining
from api.schemas.tasks import TaskStatus
from pipelines.bootstrap import Kit
from tasks.errors import Unavailable
from tasks.feed import MOST_ROWS, Feed, News, Standing
from tasks.herald import EVENTS_CHANNEL
from tasks.notices import Listener
from tasks.records import Event

log = logging.getLogger("callboard.feed")

POLL_SECONDS: Final = 1.0
#: Between two readings: what moves meanwhile is read together.
PAUSE_SECONDS: Final = 0.05
MOST_FRAMES: Final = 256
#: Snapshots and errors are put into a full outbox too, but not for ever.
FAR_TOO_MANY_FRAMES: Final = 4 * MOST_FRAMES

_encode = msgspec.json.Encoder().encode


class Frame:
    """One event of a task, encoded once for each kind of reader; ``is_last``: the task has ended with it."""

    def __init__(
        self, task_id: UUID | None, number: int | None, kind: str, value: Any, *, is_last: bool = False
    ) -> None:
        self.task_id = task_id
        self.number = number
        self.kind = kind
        self.is_last = is_last
        self._data = _encode(value)

    @cached_property
    def for_stream(self) -> bytes:
        """The frame as a server-sent event."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.number or 0, self.kind.encode(), self._data)

    @cached_property
    def for_socket(self) -> str:
        """The frame as a message of a WebSocket."""
        data = msgspec.Raw(self._data)
        frame = {"id": self.number, "event": self.kind, "task_id": self.task_id, "data": data}
        return _encode(frame).decode()


def snapshot(standing: Standing, after: int) -> Frame:
    """How far a task is; the events after ``after`` follow."""
    status = TaskStatus(
        standing.task_id,
        standing.status,
        standing.phase,
        standing.progress,
        standing.message,
        standing.details,
        standing.updated_at,
    )
    return Frame(standing.task_id, after, "snapshot", status)


class Follower:
    """One who follows one task."""

    def __init__(self, task_id: UUID, position: int, outbox: "Outbox") -> None:
        self.task_id = task_id
        self.position = position
        self.outbox = outbox
        #: Since when it keeps pace.
        self.since = datetime.now(UTC)
        self.stands_still = False
        self.is_gone = False

    def take(self, frames: Iterable[Frame]) -> None:
        """Put what is new into the outbox, as far as there is room."""
        for frame in frames:
            if frame.number is not None and frame.number > self.position:
                if self.outbox.is_full:
                    self.stands_still = True
                    return
                self.outbox.put(frame, self)
                self.position = frame.number


class Outbox:
    """What one connection has still to send, of all the tasks that are followed on it."""

    def __init__(self, feed: "LiveFeed") -> None:
        self._feed = feed
        self._frames: deque[tuple[Follower | None, Frame]] = deque()
        self._filled = asyncio.Event()
        self.followers: dict[UUID, Follower] = {}
        self.is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether events have to wait on the record."""
        return len(self._frames) >= MOST_FRAMES

    @property
    def is_overfull(self) -> bool:
        """Whether its client asks for more and reads nothing."""
        return len(self._frames) >= FAR_TOO_MANY_FRAMES

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come: all tasks have ended, or the process does."""
        return self.is_closed or not (self._frames or self.followers)

    def put(self, frame: Frame, follower: Follower | None = None) -> None:
        """Add a frame."""
        self._frames.append((follower, frame))
        self._filled.set()

    def close(self) -> None:
        """Let whoever takes from here end."""
        self.is_closed = True
        self._filled.set()

    async def take(self, seconds: float | None = None) -> Sequence[Frame]:
        """All that waits, as soon as there is something; nothing after so many ``seconds``, or at the end."""
        if not self._frames and not self.is_closed:
            try:
                async with asyncio.timeout(seconds):
                    await self._filled.wait()
            except TimeoutError:
                return ()
        frames = [frame for follower, frame in self._frames if follower is None or not follower.is_gone]
        self._frames.clear()
        if not self.is_closed:
            self._filled.clear()
        self._feed.go_on(self)
        return frames


class LiveFeed:
    """Everybody who follows tasks in this process, and the task of the event loop that serves them.

    It begins with the first follower, and rests while there is none.
    """

    def __init__(self, kit: Kit, draining: Draining, ask: Callable[..., Awaitable[Any]]) -> None:
        self._kit = kit
        self._draining = draining
        self._ask = ask
        self._followers: dict[UUID, set[Follower]] = {}
        self._outboxes: set[Outbox] = set()
        self._moved: set[UUID] = set()
        self._all_moved = False
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: Listener | None = None
        self._longest_delay = 0.0

    @property
    def connections(self) -> int:
        """How many streams and sockets are open."""
        return len(self._outboxes)

    def longest_delay(self) -> float:
        """The longest time in seconds from an event to its followers, since this was last asked."""
        longest, self._longest_delay = self._longest_delay, 0.0
        return longest

    async def standings(self, ids: Sequence[UUID], owner: str | None) -> dict[UUID, Standing]:
        """How far these tasks are; those that do not exist or are not ``owner``'s are left out."""
        found: dict[UUID, Standing] = await self._ask(self._reader.standings, ids, owner=owner)
        return found

    @contextmanager
    def outbox(self) -> Iterator[Outbox]:
        """An outbox for one connection, while it is open."""
        outbox = Outbox(self)
        self._outboxes.add(outbox)
        self._begin()
        try:
            yield outbox
        finally:
            self._outboxes.discard(outbox)
            for task_id in list(outbox.followers):
                self.unfollow(outbox, task_id)
            self._rest()

    def follow(self, outbox: Outbox, standing: Standing, after: int | None) -> None:
        """Put a snapshot of a task into an outbox, and from now on the events after ``after``.

        None: after the snapshot. What was followed there already begins anew.
        """
        self.unfollow(outbox, standing.task_id)
        position = standing.event_id if after is None else min(after, standing.event_id)
        follower = Follower(standing.task_id, position, outbox)
        outbox.put(snapshot(standing, position), follower)
        if standing.is_over and position == standing.event_id:
            return
        outbox.followers[standing.task_id] = follower
        self._followers.setdefault(standing.task_id, set()).add(follower)
        self._wake([standing.task_id])

    def unfollow(self, outbox: Outbox, task_id: UUID) -> None:
        """Put no more events of a task into an outbox, and take back those that wait there."""
        follower = outbox.followers.pop(task_id, None)
        if follower is not None:
            follower.is_gone = True
            self._forget(follower)

    def go_on(self, outbox: Outbox) -> None:
        """There is room in an outbox again."""
        resting = [one for one in outbox.followers.values() if one.stands_still]
        for follower in resting:
            follower.stands_still = False
            follower.since = datetime.now(UTC)
        if resting:
            self._wake(one.task_id for one in resting)

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()

    @cached_property
    def _reader(self) -> Feed:
        return Feed(self._kit.database)

    def _begin(self) -> None:
        if not self._tasks:
            self._loop = asyncio.get_running_loop()
            self._woken = asyncio.Event()
            self._tasks = [self._loop.create_task(one) for one in (self._read(), self._end_with_process())]
        if self._listener is None:
            self._listener = Listener(self._kit.database_url, {EVENTS_CHANNEL: self._on_notice}).start()

    def _rest(self) -> None:
        if not self._outboxes:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            self._loop = None

    def _on_notice(self, text: str) -> None:
        """Called on the listener's thread."""
        loop = self._loop
        ids = [UUID(one) for one in text.split(",")] if text else None
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, ids)

    def _wake(self, ids: Iterable[UUID] | None) -> None:
        if ids is None:
            self._all_moved = True
        else:
            self._moved.update(one for one in ids if one in self._followers)
        if self._moved or self._all_moved:
            self._woken.set()

    def _forget(self, follower: Follower) -> None:
        others = self._followers[follower.task_id]
        others.discard(follower)
        if not others:
            del self._followers[follower.task_id]

    async def _end_with_process(self) -> None:
        """Let all connections end when the process is about to stop: their clients go elsewhere."""
        await self._draining.wait()
        for outbox in self._outboxes:
            outbox.close()

    async def _read(self) -> None:
        """Read what moved, again and again."""
        loop = asyncio.get_running_loop()
        polled = loop.time()
        while True:
            due = polled + POLL_SECONDS - loop.time()
            if due > 0 and not self._woken.is_set():
                try:
                    async with asyncio.timeout(due):
                        await self._woken.wait()
                except TimeoutError:
                    due = 0
            if due <= 0:
                self._all_moved, polled = True, loop.time()
            try:
                await self._look()
            except Unavailable as error:
                log.info("what happens to tasks cannot be read now: %s", error)
            except Exception:
                log.exception("what happens to tasks could not be read")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _look(self) -> None:
        ids = (
            list(self._followers)
            if self._all_moved
            else [one for one in self._moved if one in self._followers]
        )
        self._moved.clear()
        self._all_moved = False
        self._woken.clear()
        positions = {one: self._first_position(one) for one in ids}
        last = {one: position for one, position in positions.items() if position is not None}
        if not last:
            return
        found: dict[UUID, News] = await self._ask(self._reader.events_after, last)
        for task_id, position in last.items():
            self._hand_out(task_id, position, found.get(task_id))

    def _measure(self, events: Sequence[Event], followers: Sequence[Follower]) -> None:
        """See how late the oldest event is that is new to somebody who followed when it happened."""
        now = datetime.now(UTC)
        for one in followers:
            new = (event.timestamp for event in events if event.event_id > one.position)
            oldest = next((at for at in new if at > one.since), now)
            self._longest_delay = max(self._longest_delay, (now - oldest).total_seconds())

    def _first_position(self, task_id: UUID) -> int | None:
        """After which event to read a task for all who follow it and have room."""
        positions = [one.position for one in self._followers[task_id] if not one.stands_still]
        return min(positions, default=None)

    def _hand_out(self, task_id: UUID, after: int, news: News | None) -> None:
        """Give what was read after a position to all who have seen everything before it.

        Who came, or found room again, while it was read may be behind it: the next reading is for them too.
        """
        followers = [
            one for one in self._followers.get(task_id, ()) if not one.stands_still and one.position >= after
        ]
        if news is None:  # it was deleted
            for follower in followers:
                follower.outbox.put(Frame(task_id, None, "gone", None, is_last=True), follower)
                self._end(follower)
            return
        frames = [Frame(task_id, event.event_id, event.kind, event) for event in news.events]
        if frames and news.is_over:
            frames[-1].is_last = True
        self._measure(news.events, followers)
        for follower in followers:
            follower.take(frames)
            if frames and news.is_over and follower.position == frames[-1].number:
                self._end(follower)
        if len(frames) >= MOST_ROWS:
            self._wake([task_id])

    def _end(self, follower: Follower) -> None:
        """A follower has got its last event; what waits in its outbox is still sent."""
        del follower.outbox.followers[follower.task_id]
        self._forget(follower)
