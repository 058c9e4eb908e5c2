"""The runner of replays: it drives the jobs that replay dead letters. Every clock has one."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from tasks.errors import CallboardError, Unavailable
from tasks.ledger import Ledger
from tasks.ledger.dead_letters import Edit
from tasks.ledger.replays import Planned
from tasks.letter_records import ActiveReplay, Candidate
from tasks.replays import ReplayQueries

#: So many items of a job are replayed in one transaction.
BATCH = 100
#: One step of a job takes no longer than this, in seconds: the clock has other things to do.
LONGEST_STEP = 0.2
PATIENCE_SECONDS = 5.0


class Payloads(Protocol):
    """Who can tell what another payload means for a task."""

    def patched(self, letter: Candidate, patch: Mapping[str, Any]) -> Edit:
        """The payload of a letter's task, changed by a JSON merge patch.

        Raises:
          InvalidField: it does not fit the type then.
        """


class Replayer:
    """Works on the jobs that are due."""

    def __init__(self, ledger: Ledger, queries: ReplayQueries, payloads: Payloads) -> None:
        self._ledger = ledger
        self._queries = queries
        self._payloads = payloads

    def step(self) -> None:
        """Work on every job that has something to do now, for a moment.

        One that cannot be worked on holds up no other; its error is raised in the end.
        """
        troubles: list[Exception] = []
        for job in self._queries.active():
            until = time.monotonic() + LONGEST_STEP
            try:
                while self._work_off(job) and time.monotonic() < until:
                    pass
            except Exception as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]

    def _work_off(self, job: ActiveReplay) -> int:
        found = self._queries.next_items(job.id, limit=BATCH, payloads=job.payload_patch is not None)
        planned = [self._planned(one, job) for one in found]
        return self._ledger.work_off(job.id, planned).result(PATIENCE_SECONDS)

    def _planned(self, item: Candidate, job: ActiveReplay) -> Planned:
        assert item.ticket is not None
        edit, objection = None, None
        if job.payload_patch is not None and item.objection is None:
            try:
                edit = self._payloads.patched(item, job.payload_patch)
            except Unavailable:
                raise
            except CallboardError as error:
                objection = error.message
        return Planned(item.position, item.dead_letter, item.ticket, edit, objection)
