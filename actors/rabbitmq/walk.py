"""One walk through a queue of dead letters: what is settled is taken out, the rest goes back in its order."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from actors.rabbitmq.foreign import kept, letter_in, read_ours
from actors.rabbitmq.messages import Returned
from tasks.ledger.strays import Keep
from tasks.strays import StrayQueries

log = logging.getLogger("callboard.janitor")

BATCH = 500
#: RabbitMQ counts unacknowledged messages of a channel with 16 bits: so many are seen in one walk.
MOST = 65_535
IDLE_SECONDS = 0.5
VERB_SECONDS = 30.0


class _Delivered(NamedTuple):
    tag: int
    properties: Any
    body: bytes
    is_redelivered: bool


class Walked(msgspec.Struct):
    """What a walk found. ``seen`` are the open letters whose copy is there."""

    seen: set[UUID] = msgspec.field(default_factory=set)
    #: Letters whose message is not there any more.
    gone: set[UUID] = msgspec.field(default_factory=set)
    #: How many messages stay though they are no copies: they could not be recorded.
    unrecorded: int = 0
    #: Whether every message of the queue was seen.
    is_whole: bool = False


class Walk:
    """Takes messages without acknowledging, and gives back by closing the channel what is to stay.

    Whoever dies in the middle gives everything back; what was recorded by then is recognised next time.
    """

    def __init__(
        self, queue: str, queries: StrayQueries, keep: Callable[[Keep], "Future[None]"], due: set[UUID]
    ) -> None:
        self._queue = queue
        self._queries = queries
        self._keep = keep
        self._due = due
        self._recorded = queries.unacknowledged(queue)
        self.found = Walked()

    def through(self, channel: Any, name: str, *, looking_for_more: bool) -> Walked:
        """Walk through the queue ``name``, until nothing is due any more if not ``looking_for_more``.

        Acks are only sent for sure once the channel is closed, by the caller.
        """
        count = channel.queue_declare(name, passive=True).method.message_count
        wanted = min(count, MOST)
        channel.basic_qos(prefetch_count=max(wanted, 1))
        for batch in _batches(channel, name, wanted):
            self._settle(channel, batch)
            if not looking_for_more and self._due <= self.found.gone:
                return self.found
        self.found.is_whole = count <= MOST
        if self.found.is_whole:  # a copy that is missing is as good as one that was taken out
            self.found.gone |= self._due
        return self.found

    def _settle(self, channel: Any, batch: list[_Delivered]) -> None:
        named = {one.tag: letter_in(one.properties) for one in batch}
        ours = {one.tag: read_ours(one.body) for one in batch if named[one.tag] is None}
        for tag, what in ours.items():
            if isinstance(what, Returned):
                named[tag] = what.dead_letter
        resolutions = self._queries.resolutions([letter for letter in named.values() if letter is not None])
        tasks = self._queries.known_tasks(
            [one.arrival.task_id for what in ours.values() if isinstance(what, list) for one in what]
        )
        strangers = []
        for one in batch:
            letter, what = named[one.tag], ours.get(one.tag)
            if letter is not None and (letter in resolutions or _is_copy(one.body)):
                self._settle_copy(channel, one.tag, letter, resolutions)
            elif isinstance(what, list) and any(named.arrival.task_id in tasks for named in what):
                channel.basic_ack(one.tag)  # a hint: its tasks are on record, and are dispatched from there
            else:
                strangers.append(one)
        self._record(channel, strangers)

    def _settle_copy(self, channel: Any, tag: int, letter: UUID, resolutions: dict[UUID, str | None]) -> None:
        """An open letter has one copy; that of a resolved letter, or of a deleted task, goes."""
        is_open = letter in resolutions and resolutions[letter] is None
        if is_open and letter not in self.found.seen:
            self.found.seen.add(letter)
            return
        channel.basic_ack(tag)
        if not is_open:
            self.found.gone.add(letter)

    def _record(self, channel: Any, strangers: list[_Delivered]) -> None:
        """Put messages that are not ours on record, commit, and only then acknowledge them."""
        pending: list[tuple[_Delivered, UUID, Future[None] | None]] = []
        for one in strangers:
            try:
                item = kept(self._queue, one.properties, one.body)
            except Exception as error:  # whatever it is, it must not keep us from all others
                self._leave(error)
                continue
            known = self._recorded.get(item.digest)
            if one.is_redelivered and known:  # recorded before, by a walk that could not acknowledge it
                pending.append((one, known.pop(0), None))
            else:
                pending.append((one, item.dead_letter, self._keep(item)))
        for one, letter, recorded in pending:
            try:
                if recorded is not None:
                    recorded.result(VERB_SECONDS)
            except Exception as error:
                self._leave(error)
                continue
            channel.basic_ack(one.tag)
            self.found.gone.add(letter)

    def _leave(self, why: Exception) -> None:
        kind = type(why).__name__  # its words may repeat what is in the message
        log.error("a message in the dead letters of %s cannot be recorded (%s)", self._queue, kind)
        self.found.unrecorded += 1


def _is_copy(body: bytes) -> bool:
    """Whether a message that bears the name of an unknown letter is a copy indeed: of a deleted task."""
    return isinstance(read_ours(body), Returned)


def _batches(channel: Any, name: str, wanted: int) -> Iterator[list[_Delivered]]:
    """The first ``wanted`` messages of a queue, or as many as there are."""
    batch: list[_Delivered] = []
    if not wanted:
        return
    messages = channel.consume(name, inactivity_timeout=IDLE_SECONDS)
    for taken, (method, properties, body) in enumerate(messages, 1):
        if method is None:
            break
        batch.append(_Delivered(method.delivery_tag, properties, body, method.redelivered))
        if taken == wanted:
            break
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
