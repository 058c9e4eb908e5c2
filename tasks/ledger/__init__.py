"""The ledger: the only writer of the record. Every move of a task is one of its verbs.

A verb returns a future, because verbs that are called at the same time are committed together; call
``.result()`` to wait for the commit. Verbs are safe to repeat.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import msgspec

from tasks.fingerprints import fingerprint
from tasks.herald import EVENTS_CHANNEL, Herald
from tasks.ids import new_id
from tasks.ledger import (
    callbacks,
    claims,
    concurrency,
    dead_letters,
    dependencies,
    dispatches,
    endings,
    fingerprints,
    fires,
    idempotency,
    letter_retention,
    progress,
    queues,
    recovery,
    removals,
    replays,
    restarts,
    retention,
    rounds,
    runs,
    schedules,
    snapshots,
    statistics,
    step_outputs,
    strays,
    submissions,
)
from tasks.ledger.calling import Calling
from tasks.ledger.group import Group
from tasks.ledger.letters import Letters
from tasks.ledger.scheduling import Scheduling
from tasks.ledger.steering import Steering
from tasks.ledger.transaction import (
    CANCEL_CHANNEL,
    READY_CHANNEL,
    SECONDS_PER_PRIORITY,
    NoOutlet,
    Outlet,
    Statement,
)
from tasks.ledger.unreported import Unreported
from tasks.ledger.upkeep import Upkeep
from tasks.values import (
    Accepted,
    Advance,
    Arrival,
    Claimed,
    Complete,
    HandOut,
    NewTask,
    Once,
    Refused,
    RunProgress,
    TaskError,
)

__all__ = ["CANCEL_CHANNEL", "EVENTS_CHANNEL", "READY_CHANNEL", "Ledger", "NoOutlet", "Outlet"]

#: The kinds of verbs in the order in which a group executes them: what frees rows comes first.
STATEMENTS: dict[str, Statement] = {
    "complete": endings.complete,
    "fail": endings.fail,
    "release": claims.release,
    "postpone": claims.postpone,
    "rescue": recovery.rescue,
    "lose": recovery.lose,
    "checkpoint": snapshots.checkpoint,
    "advance": runs.advance,
    "report_runs": runs.report_runs,
    "hand_out": runs.hand_out,
    "cancel": endings.cancel,
    "replay": dead_letters.replay,
    "replay_foreign": strays.replay_foreign,
    "discard": dead_letters.discard,
    "open_replay": replays.open_replay,
    "work_off": replays.work_off,
    "abort_replay": replays.abort_replay,
    "resume_replay": replays.resume_replay,
    "retry": rounds.retry,
    "restart": restarts.restart,
    "restart_run": restarts.restart_run,
    "define": queues.define,
    "change": queues.change,
    "switch": queues.switch,
    "drop": queues.drop,
    "delete": removals.delete,
    "make_schedule": schedules.make,
    "change_schedule": schedules.change,
    "remove_schedule": schedules.remove,
    "fire": fires.fire,
    "run_schedule": fires.run,
    "backfill": fires.backfill,
    "forget_fires": fires.forget,
    "submit": submissions.submit,
    "unblock": dependencies.unblock,
    "promote": recovery.promote,
    "unpark": concurrency.unpark,
    "sweep": concurrency.sweep,
    "adopt": queues.adopt,
    "close": dispatches.close,
    "reopen": dispatches.reopen,
    "resend": dispatches.resend,
    "prune": idempotency.prune,
    "unlink": dependencies.unlink,
    "forget": step_outputs.forget,
    "expire": retention.expire,
    "expire_letters": letter_retention.expire_letters,
    "mark": fingerprints.mark,
    "fold": statistics.fold,
    "thin_out": statistics.thin_out,
    "keep_foreign": strays.keep,
    "copies_removed": strays.removed,
    "foreign_returned": strays.returned,
    "take": dispatches.take,
    "take_dead": dispatches.take_dead,
    "add_webhook": callbacks.add_webhook,
    "remove_webhook": callbacks.remove_webhook,
    "record_attempts": callbacks.record_attempts,
    "redeliver": callbacks.redeliver,
    "take_deliveries": callbacks.take_deliveries,
    "claim": claims.claim,
    "fetch": claims.fetch,
}


class Ledger(Upkeep, Calling, Letters, Steering, strays.Strays, Scheduling):
    """The verbs of the record, for one process. ``owner`` is the id under which it claims and publishes.

    ``seconds_per_priority``: a task overtakes what is one step more important and so much younger.
    """

    def __init__(
        self, url: str, *, owner: UUID | None = None, seconds_per_priority: float = SECONDS_PER_PRIORITY
    ) -> None:
        self.owner = owner or new_id()
        self._herald = Herald(url)
        self._group = Group(
            url, STATEMENTS, self.owner, self._herald, seconds_per_priority=seconds_per_priority
        )
        self._reports = Group(url, {"report": progress.report}, self.owner, self._herald, synchronous=False)
        self._unreported = Unreported()

    def start(self) -> "Ledger":
        """Start the committing threads."""
        self._herald.start()
        self._group.start()
        self._reports.start()
        return self

    def close(self) -> None:
        """Commit what waits, then stop."""
        self._reports.close()
        self._group.close()
        self._herald.close()

    def publish_through(self, outlet: Outlet) -> None:
        """From now on stamp ready rows for ``outlet`` and hand it their hints after the commit."""
        self._group.outlet = outlet

    def vitals(self) -> dict[str, int]:
        """The sizes of its groups (see `tasks.vitals.Vitals`)."""
        return self._group.sizes()

    # --- asking for work -------------------------------------------------------------------------

    def submit(
        self,
        tasks: Sequence[NewTask],
        *,
        once: Once | None = None,
        asked: Sequence[UUID] = (),
        patience: float | None = None,
    ) -> Future[list[Accepted]]:
        """Record tasks, all or nothing.

        With ``once`` a repeated submission records nothing and gets the ``asked`` tasks of the first one. A
        task whose unique key another one has is not recorded, nor are its stages: that one is in its place.

        Raises (from the future):
          InvalidField: a task depends on one that does not exist.
          Conflict: the key of ``once`` was used for something else.
          QueueFull: a queue with a max_size has no room for it.
          Unavailable: Postgres could not record them within ``patience`` seconds.
        """
        size = sum(_size(task.payload) for task in tasks)
        item = submissions.Submit(tasks, once, asked)
        return self._group.add("submit", item, size=size, rows=len(tasks), patience=patience)

    def cancel(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Cancel a task and, if it is a run, its stages: "cancelled", "finished" or "missing"."""
        return self._group.add("cancel", task_id, patience=patience)

    def retry(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Run a failed task again with a new budget: "retried", or why not (see `tasks.ledger.rounds`)."""
        return self._group.add("retry", rounds.Retry(task_id), patience=patience)

    def recover(
        self, how: restarts.Restart | restarts.RunRestart, *, patience: float | None = None
    ) -> Future[str]:
        """Run what is over again, or a part of a run: "recovered", or why not (`tasks.ledger.restarts`)."""
        kind = "restart" if isinstance(how, restarts.Restart) else "restart_run"
        return self._group.add(kind, how, size=_size(how), patience=patience)

    def delete(self, task_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Remove a task that is over, with its stages: "deleted", "unfinished", "missing" or "stage"."""
        return self._group.add("delete", removals.Delete(task_id), patience=patience)

    # --- working ---------------------------------------------------------------------------------

    def claim(self, arrivals: Sequence[Arrival]) -> Future[list[Claimed | Refused | None]]:
        """Claim the tasks that messages name. None for one that somebody holds just now: claim it again."""
        wanted = [claims.Wanted(one.task_id, one.dispatch, claims.new_token()) for one in arrivals]
        return self._group.add("claim", claims.Claim(wanted), rows=len(wanted))

    def fetch(
        self, queues: Sequence[str] | None, types: Sequence[str], limit: int, after: str = ""
    ) -> Future[list[Claimed]]:
        """Claim up to ``limit`` ready tasks without a message, of these queues or of all.

        Queues take turns: it begins with those that come ``after`` a name.
        """
        named = None if queues is None else list(queues)
        return self._group.add("fetch", claims.Fetch(named, list(types), limit, claims.new_token(), after))

    def release(self, claim: Claimed, seconds: float = 0.0) -> Future[bool]:
        """Give a claim back without using up an attempt; it may be claimed again after ``seconds``."""
        item = claims.HandBack(claim.id, claim.token, seconds)
        return self._unreported.before(claim.token, lambda: self._group.add("release", item))

    def postpone(self, arrival: Arrival, seconds: float) -> Future[bool]:
        """Send a task of a type that this worker does not know back for ``seconds``."""
        return self._group.add("postpone", claims.Postpone(arrival.task_id, arrival.dispatch, seconds))

    def report(
        self,
        claim: Claimed,
        progress_: float,
        phase: str | None,
        message: str | None,
        details: dict[str, Any] | None = None,
    ) -> Future[bool]:
        """Record how far an attempt is (0-100)."""
        return self._report(progress.Report(claim.id, claim.token, progress_, phase, message, details))

    def log(self, claim: Claimed, level: str, logger: str, message: str) -> "Future[bool] | None":
        """Record a line that an attempt logged; None: too much waits already, and it is left out."""
        if self._reports.is_crowded:
            return None
        data = {"level": level, "logger": logger}
        return self._report(progress.Report(claim.id, claim.token, None, None, message, data))

    def _report(self, item: progress.Report) -> Future[bool]:
        key = item.id, item.token
        size = 200 + len(item.message or "")
        told = self._reports.add("report", item, size=size, key=key, step=item.step)
        self._unreported.add(item.token, told)
        return told

    def checkpoint(self, claim: Claimed, version: int, state: Any) -> Future[bool]:
        """Save a state for the next attempt; False: the token was stale and nothing was written."""
        item = snapshots.Checkpoint(claim.id, claim.token, version, state)
        return self._group.add("checkpoint", item, size=_size(state))

    def complete(self, claim: Claimed, completion: Complete) -> Future[bool]:
        """Finish an attempt with its successors; False: the token was stale and nothing was written."""
        size, rows = _size(completion), 1 + len(completion.successors)
        return self._unreported.before(
            claim.token, lambda: self._group.add("complete", completion, size=size, rows=rows, can_wait=True)
        )

    def fail(self, claim: Claimed, error: TaskError, *, retry_in: float | None) -> Future[bool]:
        """End an attempt with an error and retry in so many seconds, or never; False: stale token."""
        is_last = retry_in is None
        mark = fingerprint(error.error_class, error.message, error.traceback) if is_last else None
        item = endings.Fail(
            claim.id,
            claim.token,
            error.code,
            error.message,
            error.traceback,
            retry_in,
            error.error_class,
            mark,
        )
        return self._unreported.before(claim.token, lambda: self._group.add("fail", item, can_wait=True))

    def lose(self, claim: Claimed, how: str) -> Future[bool]:
        """The process of its own that ran an attempt died: a death for its task; False: stale token."""
        item = recovery.Lose(claim.id, claim.token, how)
        return self._unreported.before(claim.token, lambda: self._group.add("lose", item))

    def advance(self, decision: Advance) -> Future[bool]:
        """Apply what the flow decided for a run; False: the run is over."""
        return self._group.add("advance", decision)

    def hand_out(self, claim: Claimed, tasks: Sequence[NewTask]) -> Future[bool]:
        """Record tasks that an attempt hands out while it runs; False: the token was stale."""
        item = HandOut(claim.id, claim.token, tasks)
        return self._group.add("hand_out", item, size=_size(item), rows=len(tasks))

    def report_run(self, progress: RunProgress) -> Future[bool]:
        """Tell how far a run is, if it is farther than it was."""
        return self._group.add("report_runs", progress)


def _size(value: Any) -> int:
    """How many bytes a value takes as JSON; what cannot be encoded fails in its group, alone."""
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError):
        return 0
