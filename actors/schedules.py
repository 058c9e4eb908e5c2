"""Schedules as people work with them: made, changed, paused, run at once, and backfilled."""

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from actors import firing
from actors.submission import Submission
from tasks.errors import Conflict, InvalidField, NotFound, Unavailable
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.fires import Fire
from tasks.ledger.schedules import CHANGED, EXISTS, MISSING, Change, Make
from tasks.schedule_records import Backfilled, Definition, FireRecord, Schedule, ScheduleStats, Stored
from tasks.schedules import ScheduleQueries
from tasks.values import Accepted, NewTask

T = TypeVar("T")
PATIENCE_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 5.0
#: So often a change is tried again when others change the same schedule at the same time.
TRIES: Final = 10
SHOWN_RUNS: Final = 5
#: No fire time is before this.
BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)
TIMING: Final = ("cron_expr", "timezone", "jitter")
#: In addresses these mean other places.
UNNAMED = (".", "..")


class Schedules:
    """The verbs of schedules. ``least_seconds`` must be between two fires, ``kept`` what is known of them."""

    def __init__(
        self,
        ledger: Ledger,
        queries: ScheduleQueries,
        submission: Submission,
        *,
        least_seconds: float,
        kept: float,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._submission = submission
        self._least_seconds = least_seconds
        self._kept = timedelta(seconds=kept)

    # --- reading ---------------------------------------------------------------------------------

    def show(self, name: str) -> Schedule:
        """A schedule.

        Raises:
          NotFound: there is none of this name.
        """
        return self._shown(self._stored(name), self._queries.now())

    def page(self, *, limit: int, offset: int) -> tuple[list[Schedule], int]:
        """A part of the schedules, by name, and how many there are in all."""
        found, total = self._queries.schedules(limit=limit, offset=offset)
        now = self._queries.now()
        return [self._shown(one, now) for one in found], total

    def runs(self, name: str, *, limit: int, offset: int) -> tuple[Sequence[FireRecord], int]:
        """What became of a schedule's fire times, the newest first, and how many are known (up to 10,000).

        Raises:
          NotFound: there is no such schedule.
        """
        return self._queries.fires(self._stored(name).id, limit=limit, offset=offset)

    def stats(self) -> ScheduleStats:
        """All schedules in numbers."""
        return self._queries.stats()

    # --- making and changing ---------------------------------------------------------------------

    def create(self, asked: Definition, *, is_active: bool = True) -> Schedule:
        """Make a schedule, and check beforehand that its task could be submitted.

        Raises:
          InvalidField: its time or its task cannot be used.
          Conflict: there is one of this name.
        """
        if asked.name in UNNAMED:
            raise InvalidField.of("name", "must be more than dots: it is a part of an address")
        self._check(asked)
        made = new_id()
        following = firing.following(made, asked, self._queries.now()) if is_active else None
        item = Make(made, asked, *(following or (None, None)))
        if self._committed(self._ledger.make_schedule(item, patience=PATIENCE_SECONDS)) == EXISTS:
            raise Conflict(
                f"There is a schedule {asked.name} already: change it with PUT, or take another name."
            )
        return self.show(asked.name)

    def change(self, name: str, *, is_active: bool | None = None, **fields: Any) -> Schedule:
        """Change what is given of a schedule; the rest stays. ``is_active`` pauses or resumes it.

        A fire time that is due already is still fired. What went by in a pause is not.

        Raises:
          InvalidField, NotFound: it cannot be so, or there is none of this name.
          Conflict: others change it all the time.
        """
        for _ in range(TRIES):
            stored = self._stored(name)
            wanted = msgspec.structs.replace(stored.definition, **fields)
            if wanted != stored.definition:
                self._check(wanted)
            active = stored.is_active if is_active is None else is_active
            if (wanted, active) == (stored.definition, stored.is_active):
                return self.show(name)
            if self._change(stored, wanted, is_active=active):
                return self.show(name)
        raise Conflict(f"Others change the schedule {name} at the same time: look at it, and try again.")

    def pause(self, name: str) -> Schedule:
        """Fire no more until it is resumed."""
        return self.change(name, is_active=False)

    def resume(self, name: str) -> Schedule:
        """Fire again, from now on."""
        return self.change(name, is_active=True)

    def remove(self, name: str) -> None:
        """Remove a schedule; its tasks stay.

        Raises:
          NotFound: there is none of this name.
        """
        stored = self._stored(name)
        if self._committed(self._ledger.remove_schedule(stored.id, patience=PATIENCE_SECONDS)) == MISSING:
            raise _no_schedule(name)

    # --- running ---------------------------------------------------------------------------------

    def run(self, name: str) -> tuple[NewTask, Accepted]:
        """Run a schedule's task at once, also while it is paused; its times stay as they are.

        Raises:
          NotFound: there is none of this name.
          InvalidField, QueueFull: its task cannot be submitted now.
        """
        stored = self._stored(name)
        fire = self._fire(stored, self._queries.now())
        verb = self._ledger.run_schedule(stored.id, fire, patience=PATIENCE_SECONDS)
        answer = self._committed(verb)
        if isinstance(answer, str):
            raise _no_schedule(name)
        return fire.tasks[0], answer

    def backfill(self, name: str, since: datetime, until: datetime, *, dry_run: bool = False) -> Backfilled:
        """Run what a schedule did not run from ``since`` to ``until``, as it is now.

        Raises:
          InvalidField: the range is not over, or holds too much, or it is not known what was run in it.
          QueueFull: its queue has no room for all; none was run.
        """
        stored = self._stored(name)
        times = self._range(stored, since, until)
        fired = self._queries.fired(stored.id, times)
        left = [one for one in times if one not in fired]
        if left and not dry_run:
            fires = [self._fire(stored, one) for one in left]
            verb = self._ledger.backfill(stored.id, fires, patience=PATIENCE_SECONDS)
            done = self._committed(verb, patience=ANSWER_SECONDS + len(left) / 100)
            if isinstance(done, str):
                raise _no_schedule(name)
            left = done
        return Backfilled(
            name=name,
            dry_run=dry_run,
            count=len(left),
            fired_before=len(times) - len(left),
            fire_times=left,
        )

    # --- how it is done --------------------------------------------------------------------------

    def _stored(self, name: str) -> Stored:
        found = self._queries.schedule(name)
        if found is None:
            raise _no_schedule(name)
        return found

    def _check(self, asked: Definition) -> None:
        """Refuse what could not be fired."""
        shortest = firing.cron_of(asked).pattern.shortest_interval()
        if shortest < self._least_seconds:
            raise InvalidField.of(
                "cron_expr",
                f"fires every {shortest:g} s, and the least here is {self._least_seconds:g} s"
                " (CALLBOARD_SCHEDULE_MIN_SECONDS)",
            )
        self._submission.prepare(firing.order_of(asked, new_id()))

    def _change(self, stored: Stored, wanted: Definition, *, is_active: bool) -> bool:
        """Whether a schedule could be changed; else somebody else did meanwhile."""
        following = self._following(stored, wanted) if is_active else None
        item = Change(stored.id, stored.version, stored.next_fire, wanted, *(following or (None, None)))
        outcome = self._committed(self._ledger.change_schedule(item, patience=PATIENCE_SECONDS))
        if outcome == MISSING:
            raise _no_schedule(stored.definition.name)
        return outcome != CHANGED

    def _following(self, stored: Stored, wanted: Definition) -> tuple[datetime, datetime] | None:
        now = self._queries.now()
        is_same = all(getattr(wanted, name) == getattr(stored.definition, name) for name in TIMING)
        if stored.next_fire is None or stored.next_run_at is None:
            return firing.following(stored.id, wanted, now)
        if is_same or stored.next_fire <= now:  # it may be due a little later, by its jitter
            return stored.next_fire, stored.next_run_at
        return firing.following(stored.id, wanted, now)

    def _fire(self, stored: Stored, fire_time: datetime) -> Fire:
        order = firing.order_of(stored.definition, new_id())
        return Fire(fire_time=fire_time, tasks=self._submission.prepare(order))

    def _range(self, stored: Stored, since: datetime, until: datetime) -> list[datetime]:
        now = self._queries.now()
        forgotten = now - self._kept
        if until < since:
            raise InvalidField.of("to", "is before from")
        if until > now:
            raise InvalidField.of("to", "is in the future: what is to come is fired by itself")
        if since < BEGINNING:
            raise InvalidField.of("from", f"is before {BEGINNING:%Y-%m-%d}")
        if stored.created_at < forgotten and since < forgotten and until >= stored.created_at:
            raise InvalidField.of(
                "from",
                f"is too long ago: what was fired before {forgotten.isoformat()} is not known any more",
            )
        most = firing.most_of(stored.definition)
        times = firing.cron_of(stored.definition).between(since, until, most + 1)
        if len(times) > most:
            raise InvalidField.of("to", f"there are more than {most:,} fire times: take a shorter range")
        return times

    def _shown(self, stored: Stored, now: datetime) -> Schedule:
        asked = stored.definition
        fields = {name: getattr(asked, name) for name in Definition.__struct_fields__}
        return Schedule(
            **{**fields, "user_id": asked.user_id or None},
            is_active=stored.is_active,
            last_run_at=stored.last_run_at,
            last_task_id=stored.last_task_id,
            next_run_at=stored.next_run_at,
            next_runs=self._next_runs(stored) if stored.next_fire is not None else [],
            fired=stored.fired,
            skipped=stored.skipped,
            missed=stored.missed,
            refused=stored.refused,
            created_at=stored.created_at,
            updated_at=stored.updated_at,
        )

    def _next_runs(self, stored: Stored) -> Sequence[datetime]:
        """The next times from the one on that is on record."""
        asked, first = stored.definition, stored.next_fire
        if first is None:
            return []
        times = [first, *firing.cron_of(asked).next(SHOWN_RUNS - 1, first)]
        return [firing.due_at(stored.id, asked, one) for one in times]

    def _committed(self, verb: "Future[T]", patience: float = ANSWER_SECONDS) -> T:
        try:
            return verb.result(patience)
        except TimeoutError:
            raise Unavailable("Postgres does not answer, whether this was stored is not known yet.") from None


def _no_schedule(name: str) -> NotFound:
    return NotFound(f"There is no schedule {name[:100]}: GET /api/v1/scheduled-tasks names those there are.")
