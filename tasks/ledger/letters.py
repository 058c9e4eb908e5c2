"""The verbs about dead letters and the jobs that replay them."""

from collections.abc import Sequence
from concurrent.futures import Future
from uuid import UUID

from tasks.ledger import dead_letters, fingerprints, letter_retention, replays
from tasks.ledger.group import Group


class Letters:
    """What a ledger is asked about dead letters; a part of `tasks.ledger.Ledger`."""

    _group: Group

    def replay(
        self,
        dead_letter: UUID,
        edit: dead_letters.Edit | None = None,
        *,
        by: str | None = None,
        patience: float | None = None,
    ) -> Future[str]:
        """Run the task of a dead letter again, with another payload if there is an ``edit``.

        "replayed", or why not (see `tasks.ledger.dead_letters`).
        """
        item = dead_letters.Replay(dead_letter, edit=edit, by=by)
        return self._group.add("replay", item, patience=patience)

    def discard(self, dead_letter: UUID, *, by: str, patience: float | None = None) -> Future[str]:
        """Resolve a dead letter without running anything: "discarded", or why not."""
        return self._group.add("discard", dead_letters.Discard(dead_letter, by), patience=patience)

    def open_replay(self, job: replays.OpenReplay, *, patience: float | None = None) -> Future[UUID]:
        """Record a job that replays many dead letters, with all of its items; its id."""
        return self._group.add("open_replay", job, rows=len(job.letters), patience=patience)

    def work_off(self, replay: UUID, items: Sequence[replays.Planned]) -> Future[int]:
        """Work on the next items of a job: how many have their result now."""
        return self._group.add("work_off", replays.WorkOff(replay, items), rows=len(items) + 1)

    def abort_replay(self, replay: UUID, *, patience: float | None = None) -> Future[str]:
        """Begin no more items of a job: "aborted", or what it is instead."""
        return self._group.add("abort_replay", replays.Abort(replay), patience=patience)

    def resume_replay(self, replay: UUID, *, patience: float | None = None) -> Future[str]:
        """Go on with a job that was aborted or has stopped: what it is now."""
        return self._group.add("resume_replay", replays.Resume(replay), patience=patience)

    def mark_letters(self) -> Future[int]:
        """Give a batch of letters their fingerprint that have none: how many."""
        return self._group.add("mark", fingerprints.Mark(), rows=fingerprints.BATCH)

    def expire_letters(self, seconds: float) -> Future[int]:
        """Forget a batch of what was resolved so many seconds ago: how many, 0 if none is left."""
        item = letter_retention.ExpireLetters(seconds)
        return self._group.add("expire_letters", item, rows=letter_retention.BATCH)
