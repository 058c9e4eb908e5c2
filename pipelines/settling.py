"""Settling runs: reads a run, asks the flow, and applies its decision."""

import logging
import queue
import threading
import time
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from actors.handing import Opening
from actors.submission import Defaults
from pipelines import flow
from pipelines.catalogue import Catalogue
from pipelines.errors import CompositionError
from pipelines.flow import Join, Next
from pipelines.pace import Pace, steps
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.states import FAILED, FINAL
from tasks.values import Advance, Claimed, Joining, NewTask, RunProgress, RunState

log = logging.getLogger("callboard.flow")

PATIENCE_SECONDS = 10.0
#: So long what the stages took in earlier runs is taken for known.
PACE_SECONDS = 60.0
#: A map tells of its progress from so many percent of the run on.
TOLD_PERCENT = 1.0
#: Of so many runs it is remembered how far they were told to be.
MOST_TOLD = 1_000


class _Look(msgspec.Struct, frozen=True):
    """A run to look at, and the join that may be due; None looks in any case."""

    run_id: UUID
    task_type: str
    version: str | None
    join: Join | None


class Settler:
    """The flow of a process (see `actors.recorded_call.Flow`): pure answers at once, settling on a thread."""

    def __init__(self, catalogue: Catalogue, ledger: Ledger, queries: Queries, defaults: Defaults) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._queries = queries
        self._defaults = defaults
        self._waiting: queue.SimpleQueue[_Look | None] = queue.SimpleQueue()
        self._asked: set[_Look] = set()
        self._pace = flow.NO_PACE
        self._paced_at: float | None = None
        self._told: dict[UUID, float] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="callboard-settler", daemon=True)

    def start(self) -> "Settler":
        """Start the settling thread."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Settle what waits, then stop."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(10)

    def knows(self, claim: Claimed) -> bool:
        """Whether this process knows the pipeline of a stage in the version that its run goes by."""
        return self._catalogue.pipeline_of(claim.task_type, claim.version) is not None

    def after(self, finished: Claimed, result: Any) -> Next:
        """What follows a stage that finished.

        Raises:
          CompositionError: this process knows no such stage.
        """
        pipeline = self._catalogue.pipeline_of(finished.task_type, finished.version)
        if pipeline is None:
            raise CompositionError(f"no pipeline here has the stage {finished.task_type}")
        return pipeline.after(finished, result, self._defaults, self._pace)

    def opening(self, claim: Claimed) -> Opening | None:
        """The map that a stage can hand out to while it runs, or None."""
        pipeline = self._catalogue.pipeline_of(claim.task_type, claim.version)
        if pipeline is None or claim.stage is None:
            return None
        return pipeline.opening(claim)

    def handed(self, claim: Claimed, index: int, value: Any) -> list[NewTask]:
        """The first tasks of that map for what is handed out as number ``index``."""
        pipeline = self._catalogue.pipeline_of(claim.task_type, claim.version)
        return [] if pipeline is None else pipeline.handed(claim, index, value, self._defaults)

    def settle_soon(self, run_id: UUID, after: Claimed) -> None:
        """Settle a run on the settling thread; asked many times before it gets there, it looks once."""
        pipeline = self._catalogue.pipeline_of(after.task_type, after.version)
        join = None if pipeline is None else flow.join_of(pipeline, after.stage or "")
        look = _Look(run_id, after.task_type, after.version, join)
        with self._lock:
            if look in self._asked:
                return
            self._asked.add(look)
        self._waiting.put(look)

    def settle(self, run_id: UUID) -> None:
        """Look at a run and apply what is due. Safe to repeat, and for several processes at once."""
        run = self._queries.run(run_id)
        if run is None:
            return
        if run.status in FINAL:
            self._ledger.advance(Advance(run_id)).result(PATIENCE_SECONDS)  # clears what was left behind
            return
        decision = self._decide(run)
        if decision is not None:
            self._ledger.advance(decision).result(PATIENCE_SECONDS)

    def _decide(self, run: RunState) -> Advance | None:
        pipeline = self._catalogue.pipeline_of(run.task_type, run.task.version)
        if pipeline is None:
            return flow.ended_by_cancel(run)  # what failed may be guarded: a process that knows it will see
        try:
            outputs = partial(self._queries.outputs, run.id)
            return pipeline.settle(run, outputs, self._defaults, self._pace)
        except CompositionError as error:  # a newer version's stage: its processes go on with it
            log.info("run %s is left to others: %s", run.id, error)
            return None
        except TypeError as error:  # a map was given what it cannot use
            blame = {"code": "bad_composition", "message": str(error)}
            return Advance(run.id, status=FAILED, error=blame, round=run.round)

    def _run(self) -> None:
        while (look := self._waiting.get()) is not None:
            with self._lock:
                self._asked.discard(look)
            try:
                self._keep_pace()
                if not self._is_early(look):
                    self.settle(look.run_id)
            except Exception as error:
                log.warning("run %s could not be settled now; the clock will: %s", look.run_id, error)

    def _is_early(self, look: _Look) -> bool:
        """Whether what the look is about is still at work: whoever finishes last looks again."""
        join = look.join
        if join is None:
            return False
        found = self._queries.joining(look.run_id, join.stages)
        enough = join.window // 2 if join.window and found.begun >= join.window else 0
        if found.some_fell or found.unfinished <= enough:
            return False
        self._tell(look, join, found)
        return True

    def _tell(self, look: _Look, join: Join, found: Joining) -> None:
        """Tell how far a map is."""
        pipeline = self._catalogue.pipeline_of(look.task_type, look.version)
        known = found.details or {}
        if pipeline is None or known.get("step") != join.stages[0]:
            return
        total = known["steps_total"]
        share = min(1.0, (found.begun - found.unfinished) / (total * len(join.stages)))
        percent = self._pace.within(pipeline, join.stages, share)
        if percent - self._told.get(look.run_id, 0.0) < TOLD_PERCENT:
            return
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told[look.run_id] = percent
        details = steps(join.stages[0], int(share * total), total)
        self._ledger.report_run(RunProgress(look.run_id, percent, join.stages[0], details))

    def _keep_pace(self) -> None:
        """Read now and then what the stages took in earlier runs."""
        now = time.monotonic()
        if self._paced_at is None or now - self._paced_at > PACE_SECONDS:
            self._paced_at = now
            try:
                self._pace = Pace(self._queries.spent())
            except Exception as error:  # it goes on with what it knows
                log.debug("what stages took could not be read now: %s", error)
