"""What becomes of fire times: policies for overlaps and missed times, several schedulers, and changes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors import firing
from actors.scheduler import Scheduler
from actors.schedules import Schedules
from actors.submission import Defaults, Order, Submission
from pipelines.catalogue import collect
from tasks.errors import Conflict
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.queues import Define
from tasks.ledger.schedules import CHANGED, Change
from tasks.queries import Queries
from tasks.records import Task
from tasks.schedule_records import Definition, Due, Schedule
from tasks.schedules import ScheduleQueries
from tasks.values import Complete, NewTask
from tests.support.waiting import eventually

HOURLY = "0 * * * *"
DAY = 86_400.0
TABLES = "schedules, fires, tasks, task_state, events, attempts, dependencies, queues"


class Office:
    """Schedules and two schedulers, of which none runs by itself, on one record."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger, self.other = Ledger(url).start(), Ledger(url).start()
        self.queries, self.found = Queries(database), ScheduleQueries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        submission = Submission(collect(["tests.support.api"]), self.ledger, self.queries, Defaults())
        self.schedules = Schedules(self.ledger, self.found, submission, least_seconds=1, kept=30 * DAY)
        self.scheduler = Scheduler([self.ledger], self.found, submission.prepare, 30 * DAY)
        self.second = Scheduler([self.other], self.found, submission.prepare, 30 * DAY)

    def close(self) -> None:
        self.ledger.close()
        self.other.close()
        self.sql.close()

    def create(self, name: str = "report", cron_expr: str = HOURLY, **fields: Any) -> Schedule:
        asked = {"task_type": "test", **fields}
        return self.schedules.create(Definition(name=name, cron_expr=cron_expr, **asked))

    def fell_due(self, ago: timedelta, name: str = "report") -> datetime:
        """Let the next fire time of a schedule be the last one before so long ago, and return it."""
        asked = self.stored(name).definition
        last = firing.cron_of(asked).last(datetime(2020, 1, 1, tzinfo=UTC), self.found.now() - ago)
        assert last is not None
        set_back = "UPDATE schedules SET next_fire = %s, next_run_at = %s WHERE name = %s"
        self.sql.execute(set_back, (last, last, name))
        return last

    def stored(self, name: str = "report") -> Any:
        stored = self.found.schedule(name)
        assert stored is not None
        return stored

    def runs(self, name: str = "report") -> list[tuple[datetime, str, int]]:
        """What became of the fire times of a schedule, the oldest first."""
        found, _ = self.schedules.runs(name, limit=1_000, offset=0)
        return [(one.fire_time, one.outcome, one.missed) for one in reversed(found)]

    def outcomes(self, name: str = "report") -> list[str]:
        return [outcome for _, outcome, _ in self.runs(name)]

    def tasks(self, name: str = "report") -> list[Task]:
        """The tasks of a schedule, the oldest first."""
        by = "SELECT id FROM tasks WHERE created_by = %s AND run_id IS NULL ORDER BY created_at, id"
        ids = [row[0] for row in self.sql.execute(by, (f"schedule:{name}",)).fetchall()]
        return self.queries.tasks_by_id(ids)

    def complete(self, task_id: UUID) -> None:
        claims = self.ledger.fetch(["default"], ["test"], 10).result(10)
        for claim in claims:
            assert self.ledger.complete(claim, Complete(claim.id, claim.token, None)).result(10)
        assert task_id in {claim.id for claim in claims}


@pytest.fixture
def office(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Office]:
    opened = Office(shared, url)
    opened.sql.execute(f"TRUNCATE {TABLES}")
    yield opened
    opened.close()


# --- missed times ------------------------------------------------------------------------------------


def test_one_run_makes_up_for_all_times_that_nobody_was_there_for(office: Office) -> None:
    office.create()
    first = office.fell_due(timedelta(hours=5))

    assert office.scheduler.fire() == 1
    # A time within the last minute fires for itself, of course.
    last, outcome, missed = office.runs()[0]
    assert (outcome, missed) == ("fired", (last - first) // timedelta(hours=1))
    assert missed in (4, 5)
    assert (office.schedules.show("report").missed, len(office.tasks())) == (missed, len(office.runs()))
    assert office.scheduler.fire() == 0


def test_missed_times_can_be_skipped(office: Office) -> None:
    office.create(misfire="skip")
    first = office.fell_due(timedelta(hours=5))

    office.scheduler.fire()

    last, outcome, missed = office.runs()[0]
    assert (outcome, missed) == ("missed", (last - first) // timedelta(hours=1))
    assert office.schedules.show("report").missed == missed + 1
    assert office.stored().next_fire > office.found.now()


def test_missed_times_can_all_be_made_up_for(office: Office) -> None:
    office.create(misfire="all")
    first = office.fell_due(timedelta(hours=5))

    office.scheduler.fire()

    times = [at for at, _, _ in office.runs()]
    assert times == [first + timedelta(hours=number) for number in range(len(times))]
    assert len(office.tasks()) == len(times) >= 5


def test_no_more_than_a_thousand_are_made_up_for(office: Office) -> None:
    office.create(cron_expr="* * * * *", misfire="all")
    office.fell_due(timedelta(days=2))

    while office.scheduler.fire():
        pass

    counts = dict(office.sql.execute("SELECT outcome, count(*) FROM fires GROUP BY 1").fetchall())
    assert 1_000 <= counts["fired"] <= 1_005  # those of the last minute, and of this one, come on top
    assert counts["missed"] == 1
    assert office.stored().next_fire > office.found.now()


@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
def test_what_is_late_by_less_than_a_minute_is_fired(office: Office, misfire: str) -> None:
    office.create(cron_expr="* * * * * *", misfire=misfire)
    first = office.fell_due(timedelta(seconds=30))

    office.scheduler.fire()

    times = [at for at, _, _ in office.runs()]
    assert len(times) >= 31
    assert times == [first + timedelta(seconds=number) for number in range(len(times))]
    assert len(office.tasks()) == len(times)


def test_what_was_missed_in_a_pause_is_not_made_up_for(office: Office) -> None:
    office.create(misfire="all")
    office.fell_due(timedelta(hours=3))
    office.schedules.pause("report")

    assert office.scheduler.fire() == 0
    office.schedules.resume("report")

    assert office.scheduler.fire() == 0
    assert office.stored().next_fire > office.found.now()
    assert office.tasks() == []


# --- overlaps ----------------------------------------------------------------------------------------


def test_a_run_is_queued_behind_an_unfinished_one(office: Office) -> None:
    office.create(cron_expr="* * * * * *")
    for _ in range(2):
        eventually(office.scheduler.fire)

    assert [task.status for task in office.tasks()][:2] == ["queued", "queued"]


def test_a_time_is_skipped_while_the_run_before_is_unfinished(office: Office) -> None:
    # Given a run that is not finished
    office.create(cron_expr="* * * * * *", overlap="skip")
    office.fell_due(timedelta(seconds=20))
    office.scheduler.fire()
    assert office.outcomes()[0] == "fired"
    assert set(office.outcomes()[1:]) == {"skipped"}
    (task,) = office.tasks()
    # When the next times come, then they are skipped
    eventually(office.scheduler.fire)
    assert set(office.outcomes()[1:]) == {"skipped"}
    # and when it is finished, the next one is run
    office.complete(task.task_id)
    eventually(office.scheduler.fire)
    assert len(office.tasks()) == 2
    shown = office.schedules.show("report")
    assert (shown.fired, shown.skipped) == (2, len(office.runs()) - 2)


def test_an_unfinished_run_can_give_way_to_the_next(office: Office) -> None:
    office.create(cron_expr="* * * * * *", overlap="cancel")
    office.fell_due(timedelta(seconds=5))
    office.scheduler.fire()
    eventually(office.scheduler.fire)

    assert [task.status for task in office.tasks()] == ["cancelled", "queued"]
    assert office.outcomes()[-1] == "fired"


def test_a_run_that_somebody_asks_for_does_not_hide_an_unfinished_one(office: Office) -> None:
    # Given a run that is not finished, and one that was asked for and is over
    office.create(cron_expr="* * * * * *", overlap="skip")
    office.fell_due(timedelta(seconds=5))
    office.scheduler.fire()
    _, asked = office.schedules.run("report")
    office.ledger.cancel(asked.id).result(10)
    # When the next time comes, then it is skipped
    before = len(office.runs())
    eventually(lambda: office.scheduler.fire() and len(office.runs()) > before)
    assert office.outcomes()[-1] == "skipped"


# --- several schedulers ------------------------------------------------------------------------------


def test_two_schedulers_at_once_fire_each_time_once(office: Office) -> None:
    # Given many schedules that are due
    names = [f"number-{at}" for at in range(200)]
    for name in names:
        office.create(name, cron_expr="*/3 * * * * *")
    # When two schedulers fire, again and again, as soon as they can
    over = threading.Event()

    def fire(scheduler: Scheduler) -> int:
        fired = 0
        while not over.is_set():
            fired += scheduler.fire()
            scheduler.look_ahead()
        return fired

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fire, one) for one in (office.scheduler, office.second)]
        done = "SELECT count(*) FROM fires"
        eventually(lambda: office.sql.execute(done).fetchone() >= (200,), 20)  # type: ignore[operator]
        over.set()
        fired = sum(one.result(10) for one in both)
    # Then every fire time has one task
    rows = office.sql.execute("SELECT schedule, fire_time, task_id FROM fires").fetchall()
    assert len(rows) == fired == len({task_id for _, _, task_id in rows})
    assert office.sql.execute("SELECT count(*) FROM tasks").fetchone() == (fired,)


def test_what_was_planned_is_not_fired_twice_and_not_after_a_change(office: Office) -> None:
    office.create()
    office.fell_due(timedelta(seconds=1))
    (due,) = office.found.due(10).due
    plan = firing.plan(due, office.found.now(), office.scheduler._prepare)
    # When it changes after it was planned, then that plan is void
    office.schedules.change("report", payload={"new": True})
    assert office.ledger.fire([plan]).result(10) == 0
    assert office.tasks() == []
    # and what is planned anew is fired once, whoever tries
    (due,) = office.found.due(10).due
    plan = firing.plan(due, office.found.now(), office.scheduler._prepare)
    both = [ledger.fire([plan]) for ledger in (office.ledger, office.other)]
    assert sum(one.result(10) for one in both) == 1
    assert [task.payload for task in office.tasks()] == [{"new": True}]


def test_a_fire_time_that_is_due_is_not_lost_by_a_change(office: Office) -> None:
    office.create()
    due = office.fell_due(timedelta(seconds=1))

    office.schedules.change("report", cron_expr="0 0 1 1 *")
    office.scheduler.fire()

    assert office.runs()[-1][0] >= due
    assert office.stored().next_fire.month == 1


def test_a_fire_time_never_has_two_tasks_even_if_the_record_is_set_back(office: Office) -> None:
    office.create(task_type="shouting", payload={"words": ["a"]})
    office.fell_due(timedelta(0))
    office.scheduler.fire()
    office.fell_due(timedelta(0))
    office.scheduler.fire()

    assert len(office.tasks()) == len(office.runs())
    stages = "SELECT count(*) FROM tasks WHERE stage = 'gather_words'"
    assert office.sql.execute(stages).fetchone() == (len(office.tasks()),)


def test_a_change_does_not_set_back_what_was_fired_meanwhile(office: Office) -> None:
    # Given a schedule that somebody has read when it was due, and that was fired then
    office.create()
    office.fell_due(timedelta(0))
    read = office.stored()
    office.scheduler.fire()
    # When it is changed by what was read, then that is refused
    item = Change(read.id, read.version, read.next_fire, read.definition, read.next_fire, read.next_fire)
    assert office.ledger.change_schedule(item).result(10) == CHANGED
    assert office.stored().next_fire > read.next_fire


def test_of_changes_at_the_same_time_none_is_lost(office: Office) -> None:
    office.create()

    with ThreadPoolExecutor(4) as pool:
        fields = [{"priority": 9}, {"tags": ("a",)}, {"jitter": 2.0}, {"payload": [1]}]
        for answer in [pool.submit(office.schedules.change, "report", **one) for one in fields]:
            answer.result(10)

    shown = office.schedules.show("report")
    assert (shown.priority, shown.tags, shown.jitter, shown.payload) == (9, ("a",), 2.0, [1])


# --- what cannot be run ------------------------------------------------------------------------------


def test_a_payload_that_fits_no_more_is_told_and_the_schedule_goes_on(office: Office) -> None:
    # Given a schedule of a type that takes another payload by now
    office.create(task_type="strict", payload={"number": 1})
    office.sql.execute("""UPDATE schedules SET definition = definition || '{"payload": {"name": 1}}'""")
    office.fell_due(timedelta(seconds=1))
    # When it is fired, then it is told why it was not run, and it has a next time
    assert office.scheduler.fire() == 1
    (run, *_), _ = office.schedules.runs("report", limit=10, offset=0)
    assert (run.outcome, run.task_id) == ("refused", None)
    assert "payload" in (run.error or "")
    assert (office.schedules.show("report").refused, office.found.stats().refused) == (1, 1)
    assert office.stored().next_fire > office.found.now()


def test_a_schedule_that_cannot_be_read_holds_up_no_other(office: Office) -> None:
    # Given one whose expression makes no sense here, and one that does
    office.create("odd")
    office.create("even")
    office.sql.execute(
        """UPDATE schedules SET definition = definition || '{"cron_expr": "?"}' WHERE name = 'odd'"""
    )
    last = office.fell_due(timedelta(0), "even")
    office.sql.execute("UPDATE schedules SET next_fire = %s, next_run_at = %s", (last, last))

    assert office.scheduler.fire() == 1
    assert office.scheduler.fire() == 0
    assert len(office.tasks("even")) == 1


@pytest.mark.parametrize(
    ("error", "outcomes"), [(Conflict("two of one name"), ["refused"]), (OSError("no answer"), [])]
)
def test_a_check_that_fails_in_any_way_holds_up_no_other(
    office: Office, error: Exception, outcomes: list[str]
) -> None:
    # Given two schedules, of which one asks for what cannot be checked
    office.create("odd", payload={"odd": True})
    office.create("even")
    for name in ("odd", "even"):
        office.fell_due(timedelta(seconds=1), name)
    prepare = office.scheduler._prepare

    def check(order: Order) -> Any:
        if order.payload:
            raise error
        return prepare(order)

    office.scheduler._prepare = check
    # When they are fired, then the other one runs; what is wrong with the first is told, if it will stay so
    office.scheduler.fire()
    assert len(office.tasks("even")) == 1
    assert office.outcomes("odd") == outcomes


def test_a_task_that_cannot_be_recorded_holds_up_no_other(office: Office) -> None:
    # Given two schedules, of which one makes a task that Postgres does not take
    for name in ("odd", "even"):
        office.create(name)
        office.fell_due(timedelta(0), name)
    prepare = office.scheduler._prepare

    def spoiled(order: Order) -> list[NewTask]:
        payload = "\0" if order.created_by == "schedule:odd" else {}
        return [msgspec.structs.replace(task, payload=payload) for task in prepare(order)]

    scheduler = Scheduler([office.ledger, office.other], office.found, spoiled, DAY)

    assert scheduler.fire() == 1
    assert (len(office.tasks("odd")), len(office.tasks("even"))) == (0, 1)


def test_a_full_queue_refuses_a_run(office: Office) -> None:
    # Given a queue with room for one, which a run takes
    office.ledger.define_queue(Define("narrow", max_size=1)).result(10)
    office.create(queue_name="narrow")
    office.schedules.run("report")
    # When a time comes, then it is told why it is not run
    office.fell_due(timedelta(0))
    office.scheduler.fire()
    last, _ = office.schedules.runs("report", limit=10, offset=0)
    assert {one.outcome for one in last} == {"manual", "refused"}
    assert any("narrow" in (one.error or "") for one in last)
    assert len(office.tasks()) == 1


def test_a_run_gives_way_to_none_that_is_refused(office: Office) -> None:
    # Given an unfinished run that would give way, in a queue that is full
    office.ledger.define_queue(Define("narrow", max_size=1)).result(10)
    office.create(cron_expr="* * * * * *", queue_name="narrow", overlap="cancel")
    eventually(office.scheduler.fire)
    assert office.outcomes()[-1] == "fired"
    # When its next time comes, then that is refused, and the run goes on
    eventually(office.scheduler.fire)
    assert office.outcomes()[-1] == "refused"
    assert [one.status for one in office.tasks()] == ["queued"]


def test_a_type_that_no_worker_serves_any_more_waits_with_its_reason(office: Office) -> None:
    # Given a type that some process has declared, and that nobody serves now
    office.sql.execute("INSERT INTO task_types (name, queue_name) VALUES ('gone', 'default')")
    office.create(task_type="gone")
    office.fell_due(timedelta(0))
    # When it is fired, then its task says what it waits for
    office.scheduler.fire()
    assert {(task.status, task.wait_reason) for task in office.tasks()} == {
        ("queued", "no worker for its type")
    }


def test_a_pipeline_is_fired_with_its_first_stages(office: Office) -> None:
    office.create(task_type="shouting", payload={"words": ["a"]})
    office.fell_due(timedelta(seconds=1))

    office.scheduler.fire()

    run, *_ = office.tasks()
    stages = office.queries.run(run.task_id)
    assert stages is not None
    assert [stage.stage for stage in stages.stages] == ["gather_words"]


# --- times -------------------------------------------------------------------------------------------


def test_jitter_spreads_runs_and_is_always_the_same(office: Office) -> None:
    names = [f"number-{at}" for at in range(40)]
    made = [office.create(name, jitter=600.0) for name in names]

    hour = office.stored(names[0]).next_fire
    delays = [(one.next_run_at - hour).total_seconds() for one in made if one.next_run_at]

    assert all(0 <= delay <= 600 for delay in delays)
    assert len(set(delays)) == len(names)
    assert max(delays) - min(delays) > 300
    assert [office.schedules.show(name).next_runs for name in names] == [one.next_runs for one in made]


def test_nothing_is_fired_before_its_time(office: Office) -> None:
    office.create(cron_expr="* * * * * *", jitter=1.0)
    over = datetime.now(UTC) + timedelta(seconds=2.5)
    while datetime.now(UTC) < over:
        office.scheduler.fire()
        office.scheduler.look_ahead()

    found, _ = office.schedules.runs("report", limit=100, offset=0)
    assert found
    for run in found:
        due = firing.due_at(office.stored().id, office.stored().definition, run.fire_time)
        assert run.fired_at >= due >= run.fire_time


def test_of_late_times_with_jitter_none_is_run_before_it_is_due(office: Office) -> None:
    # Given a schedule with more jitter than is between its times, that nobody has looked at for an hour
    office.create(cron_expr="* * * * *", jitter=1_800.0, misfire="all")
    office.fell_due(timedelta(hours=1))
    # When it is fired, then each time is that is due, and none that is not
    while office.scheduler.fire():
        pass
    stored = office.stored()
    for at, outcome, _ in office.runs():
        assert outcome == "fired"
        assert firing.due_at(stored.id, stored.definition, at) <= office.found.now()
    assert stored.next_run_at > office.found.now() - timedelta(seconds=1)


def test_a_plan_is_made_of_every_time_that_is_due() -> None:
    # Given a schedule of every ten seconds that is half a minute late
    asked = Definition(name="report", task_type="test", cron_expr="*/10 * * * * *")
    begin = datetime(2026, 2, 1, tzinfo=UTC)
    due = Due(new_id(), 1, msgspec.json.encode(asked).decode(), begin, begin)
    # When it is planned
    plan = firing.plan(due, begin + timedelta(seconds=29), lambda order: ())
    # Then it has all times until now, and the next one
    assert [one.fire_time for one in plan.fires] == [begin + timedelta(seconds=at) for at in (0, 10, 20)]
    assert plan.next_fire == plan.next_run_at == begin + timedelta(seconds=30)


def test_what_became_of_fire_times_long_ago_is_forgotten(office: Office) -> None:
    office.create()
    office.schedules.backfill("report", datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC))
    office.sql.execute(
        "UPDATE fires SET fired_at = now() - interval '3 days' WHERE fire_time < '2026-02-01 12:00Z'"
    )

    assert office.ledger.forget_fires(2 * DAY).result(10) == 12
    assert len(office.runs()) == 13
