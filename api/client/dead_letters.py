"""The client's methods for dead letters and for the jobs that replay them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec

from api.client.answers import read
from api.client.requests import Requests
from api.schemas.dead_letters import ReplayPage
from tasks.letter_records import Cluster, Letter, LetterDetail, ReplayJob, Survey
from tasks.records import Task

# To look at very many letters takes a while.
_PATIENT = 60.0
_LETTERS, _REPLAYS = "/dead-letters", "/dead-letters/replays"


class LetterPage(msgspec.Struct):
    """A part of the dead letters, how many there are in all, and where the next part begins."""

    dead_letters: list[Letter]
    total: int
    total_is_exact: bool = True
    next_cursor: str | None = None


class ClusterPage(msgspec.Struct):
    """A part of the clusters, how many there are in all, and where the next part begins."""

    clusters: list[Cluster]
    total: int
    total_is_exact: bool = True
    next_cursor: str | None = None


class _Replays(msgspec.Struct):
    replays: list[ReplayJob]


class Letters(Requests):
    """What can be done about dead letters."""

    def dead_letters(self, **filters: Any) -> LetterPage:
        """Return a page of dead letters: ``task_type``, ``error_class``, ``q``, ``status``, ``limit``..."""
        return read(self._get(_LETTERS, filters), LetterPage)

    def dead_letter_clusters(self, **filters: Any) -> ClusterPage:
        """Return a page of clusters of dead letters, the largest first; ``filters`` as `dead_letters`."""
        return read(self._get(f"{_LETTERS}/clusters", filters, patience=_PATIENT), ClusterPage)

    def dead_letter(self, letter_id: UUID | str) -> LetterDetail:
        """Return a dead letter with its traceback, the payload that failed, and its task."""
        return read(self._get(_path(_LETTERS, letter_id)), LetterDetail)

    def discard_dead_letter(self, letter_id: UUID | str) -> None:
        """Discard a dead letter; its task stays failed."""
        self._send("DELETE", _path(_LETTERS, letter_id))

    def replay_dead_letter(self, letter_id: UUID | str, payload: Any = msgspec.UNSET) -> Task | None:
        """Run the task of a dead letter again, with another payload if one is given.

        None: it is a message that is not ours, and goes back to its queue.
        """
        body = {} if payload is msgspec.UNSET else {"payload": payload}
        answer = self._post(_path(_LETTERS, letter_id) + "/replay", body)
        return None if answer.status_code == 204 else read(answer, Task)

    def survey_replay(
        self, *, payload_patch: Mapping[str, Any] | None = None, limit: int | None = None, **filters: Any
    ) -> Survey:
        """Tell how many dead letters a replay would be for, how many not, and why not."""
        body = _bulk(filters, payload_patch=payload_patch, limit=limit, dry_run=True)
        return read(self._post(f"{_LETTERS}/replay", body, patience=_PATIENT), Survey)

    def replay_dead_letters(
        self,
        *,
        payload_patch: Mapping[str, Any] | None = None,
        canary: int | None = None,
        rate: float | None = None,
        limit: int | None = None,
        **filters: Any,
    ) -> ReplayJob:
        """Replay all dead letters that match, as a job: ``filters`` as `dead_letters`.

        ``payload_patch`` changes each payload (RFC 7396). The first ``canary`` must complete before the
        others go, ``rate`` of them a second; the oldest ``limit`` are meant.
        """
        body = _bulk(filters, payload_patch=payload_patch, canary=canary, rate=rate, limit=limit)
        return read(self._post(f"{_LETTERS}/replay", body, patience=_PATIENT), ReplayJob)

    def replays(self) -> list[ReplayJob]:
        """Return the newest jobs that replay dead letters."""
        return read(self._get(_REPLAYS, {"limit": 100}), _Replays).replays

    def replay(self, replay_id: UUID | str, **page: Any) -> ReplayPage:
        """Return a job with a part of its items: ``status`` of the items, ``limit``, ``cursor``."""
        return read(self._get(_path(_REPLAYS, replay_id), page), ReplayPage)

    def abort_replay(self, replay_id: UUID | str) -> ReplayJob:
        """Begin no more dead letters of a job; they stay open."""
        return read(self._post(_path(_REPLAYS, replay_id) + "/abort"), ReplayJob)

    def resume_replay(self, replay_id: UUID | str) -> ReplayJob:
        """Go on with a job that was aborted, or whose canary had stopped it."""
        return read(self._post(_path(_REPLAYS, replay_id) + "/resume"), ReplayJob)


def _path(base: str, which: UUID | str) -> str:
    return f"{base}/{quote(str(which), safe='')}"


def _bulk(filters: Mapping[str, Any], **how: Any) -> dict[str, Any]:
    given = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in filters.items()
        if value is not None
    }
    return {"filter": given, **{name: value for name, value in how.items() if value is not None}}
