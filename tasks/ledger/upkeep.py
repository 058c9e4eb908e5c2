"""The verbs of the clock and of the dispatcher."""

from concurrent.futures import Future
from uuid import UUID

from tasks.ledger import (
    concurrency,
    dependencies,
    dispatches,
    idempotency,
    recovery,
    retention,
    statistics,
    step_outputs,
)
from tasks.ledger.group import Group


class Upkeep:
    """What a ledger is asked by who moves what nobody else moves; a part of `tasks.ledger.Ledger`."""

    _group: Group

    def promote(self) -> Future[int]:
        """Make due tasks ready."""
        return self._group.add("promote", recovery.Promote())

    def rescue(self, worker: UUID, *, died: bool = True) -> Future[int]:
        """Take everything back from a process that died; one that only froze is no death for its tasks."""
        return self._group.add("rescue", recovery.Rescue(worker, died))

    def unblock(self) -> Future[int]:
        """Move blocked tasks that nothing holds back any more."""
        return self._group.add("unblock", dependencies.Unblock())

    def sweep_parked(self, after: str = "") -> Future[str | None]:
        """Unpark what nobody did, from a key on: where the next sweep goes on, None if that was all."""
        return self._group.add("sweep", concurrency.Sweep(after))

    def prune_keys(self) -> Future[None]:
        """Forget idempotency keys that are over."""
        return self._group.add("prune", idempotency.Prune())

    def unlink(self) -> Future[None]:
        """Forget the dependencies of tasks that wait no more."""
        return self._group.add("unlink", dependencies.Unlink())

    def forget_outputs(self) -> Future[int]:
        """Forget a batch of kept outputs whose time is over: how many (`tasks.ledger.step_outputs`)."""
        return self._group.add("forget", step_outputs.Forget(), rows=step_outputs.BATCH)

    def expire(
        self, kept: retention.Retention, after: retention.Place | None = None
    ) -> Future[retention.Expired]:
        """Remove a batch of what was over long ago, from a place of a sweep on."""
        return self._group.add("expire", retention.Expire(kept, after), rows=retention.BATCH)

    def fold(self, limit: int = statistics.BATCH) -> Future[int]:
        """Fold up to ``limit`` tallies into the statistics: how many, as many if there may be more."""
        return self._group.add("fold", statistics.Fold(limit))

    def thin_out(self) -> Future[None]:
        """Forget the finer buckets of the statistics of long ago."""
        return self._group.add("thin_out", statistics.ThinOut())

    def take(
        self,
        queue: str,
        limit: int,
        dispatch: int,
        *,
        window: int = dispatches.NO_WINDOW,
        gone_after: float | None = None,
    ) -> Future[int]:
        """Stamp ready rows of a queue and publish them; see `tasks.ledger.dispatches.Take`."""
        return self._group.add("take", dispatches.Take(queue, limit, dispatch, window, gone_after))

    def take_dead(self, queue: str, limit: int, dispatch: int) -> Future[int]:
        """Stamp dead letters of a queue whose copy is owed and publish them."""
        return self._group.add("take_dead", dispatches.TakeDead(queue, limit, dispatch))

    def close_dispatch(self, dispatch: int) -> Future[None]:
        """All messages of a batch are confirmed."""
        return self._group.add("close", dispatches.Close(dispatch))

    def reopen_dispatch(self, dispatch: int) -> Future[int]:
        """Some messages of a batch may not have arrived: make its unclaimed rows ready again."""
        return self._group.add("reopen", dispatches.Reopen(dispatch))

    def resend(self, queue: str, seconds: float, *, overtaken: bool = False) -> Future[int]:
        """Make rows ready again that were published ``seconds`` ago and never claimed, or were overtaken."""
        return self._group.add("resend", dispatches.Resend(queue, seconds, overtaken))
