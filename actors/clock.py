"""The clock: moves what nobody else moves. Any number of clocks may run; each finds work the others left."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from actors.dispatcher import Dispatcher
from actors.replays import Replayer
from tasks.coroner import Coroner
from tasks.ledger import Ledger
from tasks.ledger.fingerprints import BATCH as MARKED_AT_ONCE
from tasks.ledger.recovery import BATCH
from tasks.ledger.retention import Place, Retention
from tasks.ledger.statistics import BATCH as FOLDED_AT_ONCE
from tasks.ledger.step_outputs import BATCH as FORGOTTEN_AT_ONCE
from tasks.queries import Queries

log = logging.getLogger("callboard.clock")

TICK_SECONDS = 0.25
#: The pause while a window is to be refilled.
BUSY_SECONDS = 0.02
#: A look at all processes costs a fraction of a millisecond.
LOOK_SECONDS = 0.2
SWEEP_SECONDS = 1.0
PRUNE_SECONDS = 60.0
EXPIRE_SECONDS = 600.0
#: So many batches of tallies are folded in a round: what is due and what is lost must not wait for more.
MOST_FOLDS = 5
#: And so many of kept outputs are forgotten: once a minute, 10,000 of them.
MOST_FORGETS = 20
#: And of dead letters: so many batches are marked in a sweep, and forgotten with a batch of tasks.
MOST_MARKS, MOST_EXPIRED = 4, 10
#: How long a round waits for a verb; without Postgres the verb stays queued and the round is tried again.
PATIENCE_SECONDS = 5.0
LONGEST_PUBLISH_SECONDS = 30.0


class Settles(Protocol):
    """Who can settle runs."""

    def settle(self, run_id: UUID) -> None:
        """Look at a run and apply what is due."""


class Clock:
    """Promotes due tasks, rescues from the dead, reopens their batches, settles runs, and dispatches."""

    def __init__(
        self,
        ledger: Ledger,
        queries: Queries,
        coroner: Coroner,
        flow: Settles,
        dispatcher: Dispatcher | None = None,
        retention: Retention | None = None,
        replayer: Replayer | None = None,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._coroner = coroner
        self._flow = flow
        self._dispatcher = dispatcher
        self._retention = retention
        self._replayer = replayer
        self._place: Place | None = None
        self._has_tallies = False
        self._awake = threading.Event()
        self._looked_at = 0.0
        self._swept_at = 0.0
        self._swept_to = ""
        self._pruned_at = 0.0
        self._expired_at = -EXPIRE_SECONDS
        self._troubled: set[str] = set()
        self._ticked_at = time.monotonic()

    def vitals(self) -> dict[str, float]:
        """How long ago it finished a round, and its dispatcher a step (see `tasks.vitals.Vitals`)."""
        tick = {"tick_lag_s": time.monotonic() - self._ticked_at}
        return tick if self._dispatcher is None else {**tick, "dispatch_lag_s": self._dispatcher.lag}

    def wake(self, _: str = "") -> None:
        """Something became ready: dispatch at once."""
        if self._dispatcher is not None:
            self._dispatcher.hurry()
        self._awake.set()

    def run(self, stopping: threading.Event) -> None:
        """Tick until ``stopping`` is set, and dispatch beside it: a sweep must not keep workers waiting."""
        dispatching = threading.Thread(target=self._dispatch, args=(stopping,), daemon=True)
        dispatching.start()
        while not stopping.is_set():
            self.tick()
            self._ticked_at = time.monotonic()
            stopping.wait(TICK_SECONDS)
        self._awake.set()
        dispatching.join(PATIENCE_SECONDS)

    def _dispatch(self, stopping: threading.Event) -> None:
        while self._dispatcher is not None and not stopping.is_set():
            self._try("dispatch", self._dispatcher.step)
            pause = BUSY_SECONDS if self._dispatcher.is_busy else TICK_SECONDS
            token_in = self._dispatcher.token_in
            self._awake.wait(pause if token_in is None else min(pause, token_in))
            self._awake.clear()

    def tick(self) -> None:
        """One round. What fails is logged once and tried again in the next round."""
        self._try("promote", self.promote)
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._try("rescue", self.rescue)
        if self._replayer is not None:
            self._try("replay", self._replayer.step)
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            self._try("reopen", self.reopen)
            self._try("settle", self.settle)
            self._try("unblock", self.unblock)
            self._try("sweep", self.sweep)
            self._try("mark", self.mark)
            self._has_tallies = True
        if self._has_tallies:
            self._try("fold", self.fold)
        if time.monotonic() - self._pruned_at > PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            self._try("prune", self.prune)

        if self._place is not None or time.monotonic() - self._expired_at > EXPIRE_SECONDS:
            self._expired_at = time.monotonic()
            self._try("expire", self.expire)

    def promote(self) -> None:
        """Make due tasks ready."""
        while self._ledger.promote().result(PATIENCE_SECONDS) >= BATCH:
            pass

    def rescue(self) -> None:
        """Take back what lost processes had claimed."""
        for loss in self._coroner.lost():
            count = self._ledger.rescue(loss.worker, died=loss.died).result(PATIENCE_SECONDS)
            fate = "died" if loss.died else "stopped answering"
            log.warning("process %s %s; %d tasks were taken back from it", loss.worker, fate, count)

    def reopen(self) -> None:
        """Reopen batches whose publisher died or never finished."""
        for dispatch in self._queries.orphaned_dispatches(LONGEST_PUBLISH_SECONDS):
            self._ledger.reopen_dispatch(dispatch).result(PATIENCE_SECONDS)

    def settle(self) -> None:
        """Settle runs whose last process died between a commit and what follows from it."""
        for run_id in self._queries.unsettled_runs():
            self._flow.settle(run_id)

    def unblock(self) -> None:
        """Move tasks whose dependency ended in a process that then died before it could look at them."""
        self._ledger.unblock().result(PATIENCE_SECONDS)

    def sweep(self) -> None:
        """Unpark tasks whose place became free in a process that then died before it could look at them.

        And make queues again that were deleted while a task was on its way into them.
        """
        self._swept_to = self._ledger.sweep_parked(self._swept_to).result(PATIENCE_SECONDS) or ""
        self._ledger.adopt_queues().result(PATIENCE_SECONDS)

    def fold(self) -> None:
        """Fold what was tallied since the last time into the statistics; much of it in several rounds."""
        self._has_tallies = False
        batches = (self._ledger.fold().result(PATIENCE_SECONDS) for _ in range(MOST_FOLDS))
        self._has_tallies = all(folded >= FOLDED_AT_ONCE for folded in batches)

    def mark(self) -> None:
        """Give dead letters their fingerprint that were buried without one."""
        for _ in range(MOST_MARKS):
            if self._ledger.mark_letters().result(PATIENCE_SECONDS) < MARKED_AT_ONCE:
                break

    def prune(self) -> None:
        """Forget what is over: idempotency keys, dependencies, kept outputs, finer statistics of long ago."""
        self._ledger.prune_keys().result(PATIENCE_SECONDS)
        self._ledger.unlink().result(PATIENCE_SECONDS)
        self._ledger.thin_out().result(PATIENCE_SECONDS)
        for _ in range(MOST_FORGETS):
            if self._ledger.forget_outputs().result(PATIENCE_SECONDS) < FORGOTTEN_AT_ONCE:
                break

    def expire(self) -> None:
        """Remove a batch of what was over long ago; others follow in the next rounds until none is left."""
        if self._retention is not None:
            place, self._place = self._place, None
            self._place = self._ledger.expire(self._retention, place).result(PATIENCE_SECONDS).place
            for _ in range(MOST_EXPIRED):
                if not self._ledger.expire_letters(self._retention.failed).result(PATIENCE_SECONDS):
                    break

    def _try(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
            self._troubled.discard(what)
        except Exception as error:
            if what not in self._troubled:
                self._troubled.add(what)
                log.warning("the clock cannot %s now, it goes on trying: %s", what, error)
