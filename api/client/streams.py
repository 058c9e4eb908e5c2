"""Following a task from a client: its stream, taken up again after every cut until the task has ended."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import msgspec

from api.client.answers import ClientError, Progress, converted, is_temporary, refusal, unreachable
from tasks.records import Event
from tasks.states import FINAL

#: The server says every 15 s that it is still there.
SILENCE_SECONDS: Final = 45.0
#: Who waits no longer than until some moment looks up so often.
LOOK_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 10.0
OUTAGE_AT_MOST: Final = 30.0
PAUSE_FIRST, PAUSE_LAST, PAUSE_GROWTH = 0.05, 2.0, 2.0
SNAPSHOT: Final = "snapshot"


class StreamEvent(msgspec.Struct, frozen=True):
    """One event of a stream: its id, its kind, and a `Progress` for a snapshot, else an `Event`."""

    id: int
    event: str
    data: Progress | Event

    @property
    def is_final(self) -> bool:
        """Whether the task has reached a final state with it."""
        return self.event in (SNAPSHOT, "state") and self.data.status in FINAL


class OutOfTime(ClientError):
    """The time that somebody would wait is over."""

    code = "timeout"


class Following:
    """Follows one task; ``pause`` is called between two connections, ``seconds`` is the longest in all."""

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        after: int | None,
        pause: Callable[[float], object],
        seconds: float | None = None,
    ) -> None:
        self._http = http
        self._path = path
        self._last = after
        self._pause = pause
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._seen: float | None = None
        self._is_over = False
        self._showed_snapshot = False

    def __iter__(self) -> Iterator[StreamEvent]:
        """The events, until the task has ended.

        Raises:
          ApiError: the server refuses.
          ServerUnreachable: it was never there, or is away for long.
          OutOfTime: the task has not ended in time.
        """
        interval = PAUSE_FIRST
        while not self._is_over:
            try:
                for event in self._connection():
                    interval = PAUSE_FIRST
                    yield event
            except ClientError as error:
                self._check_time()
                if self._is_hopeless(error):
                    raise
                self._is_over = False
                self._pause(getattr(error, "retry_after", None) or interval)
                interval = min(interval * PAUSE_GROWTH, PAUSE_LAST)

    def _connection(self) -> Iterator[StreamEvent]:
        """What comes on one connection."""
        headers = {} if self._last is None else {"Last-Event-ID": str(self._last)}
        patience = SILENCE_SECONDS if self._deadline is None else min(LOOK_SECONDS, max(self._left(), 0.05))
        timeout = httpx.Timeout(CONNECT_SECONDS, read=patience)
        try:
            with self._http.stream("GET", self._path, headers=headers, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                    raise refusal(answer)
                self._is_over = answer.status_code == httpx.codes.NO_CONTENT
                for event in _events(answer):
                    self._seen = time.monotonic()
                    if event is not None:
                        yield from self._taken(event)
                    if not self._is_over:
                        self._check_time()
        except httpx.HTTPError as error:
            raise unreachable(str(self._http.base_url), error) from error

    def _taken(self, event: StreamEvent) -> Iterator[StreamEvent]:
        self._last = event.id
        self._is_over = event.is_final
        if event.event != SNAPSHOT or not self._showed_snapshot:
            self._showed_snapshot = True
            yield event

    def _left(self) -> float:
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def _check_time(self) -> None:
        if self._left() <= 0:
            raise OutOfTime("the task has not ended in time")

    def _is_hopeless(self, error: ClientError) -> bool:
        away = self._seen is None or time.monotonic() - self._seen > OUTAGE_AT_MOST
        return away or not is_temporary(error)


def _events(answer: httpx.Response) -> Iterator[StreamEvent | None]:
    """The events of a stream; None for a sign of life."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            yield None
        elif line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "data" in fields:
                yield _event(fields, answer.url)
            fields = {}


def _event(fields: dict[str, str], url: httpx.URL) -> StreamEvent:
    kind = fields.get("event", "message")
    try:
        number, data = int(fields.get("id", "")), msgspec.json.decode(fields["data"])
    except (ValueError, msgspec.DecodeError):
        number, data = 0, None
    told: type[Any] = Progress if kind == SNAPSHOT else Event
    return StreamEvent(number, kind, converted(data, told, url))
