"""New rounds on a real Postgres: retry and recover, what they refuse, and whom they race with."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from pipelines import flow
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline, stage
from pipelines.flow import Defaults
from pipelines.recovery import Recoverer, Recovery
from pipelines.settling import Settler
from tasks.errors import Conflict, InvalidField
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.endings import Complete
from tasks.ledger.restarts import Restart, RunRestart
from tasks.ledger.rounds import Retry
from tasks.queries import Queries
from tasks.records import Task
from tasks.states import is_legal
from tasks.values import Claimed, NewTask, TaskError

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …", "RuntimeError")
DEFAULTS = Defaults()


@stage
def part(text: str) -> list[str]:
    return text.split()


@stage
def measure(word: str) -> int:
    return len(word)


@stage
def total(lengths: list[int]) -> int:
    return sum(lengths)


LENGTHS = Pipeline("lengths", part | measure.map() | total)
CATALOGUE = Catalogue([], [LENGTHS])
TYPES = ["work", "lengths.part", "lengths.measure", "lengths.total"]
FAILED_TASK = ("queued", "running", "failed")


class Record:
    """A ledger on an empty record, with what one needs to bring tasks to their ends."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.settler = Settler(CATALOGUE, self.ledger, self.queries, DEFAULTS)
        self.recoverer = Recoverer(CATALOGUE, self.queries, DEFAULTS)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, snapshots, dependencies, dead_letters, queues"
        )

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def fetch(self, limit: int = 10) -> list[Claimed]:
        return self.ledger.fetch(["default"], TYPES, limit).result(10)

    def claimed(self, **fields: Any) -> Claimed:
        self.ledger.submit([NewTask(task_type="work", queue_name="default", **fields)]).result(10)
        (claim,) = self.fetch(1)
        return claim

    def fail(self, claim: Claimed) -> UUID:
        assert self.ledger.fail(claim, OOPS, retry_in=None).result(10)
        return claim.id

    def complete(self, claim: Claimed, result: Any = None) -> bool:
        completion = Complete(claim.id, claim.token, result)
        if claim.run_id is not None:
            following = flow.after(LENGTHS, claim, result, DEFAULTS)
            completion = Complete(claim.id, claim.token, result, following.successors)
        return self.ledger.complete(claim, completion).result(10)

    def begin_run(self, text: str = "a bc") -> UUID:
        run = NewTask(task_type="lengths", queue_name="default", payload=text, is_run=True)
        self.ledger.submit([run, *flow.begin(LENGTHS, run, DEFAULTS)]).result(10)
        return run.id

    def work_off(self, run_id: UUID, *, failing: str = "") -> list[str]:
        """Work on a run until it is over; a stage of the name ``failing`` fails. What was run, in order."""
        done = []
        while claims := self.fetch():
            for claim in claims:
                done.append(str(claim.stage))
                if claim.stage == failing:
                    self.fail(claim)
                else:
                    actor = next(step.actor for step in LENGTHS.stages if step.name == claim.stage)
                    self.complete(claim, actor.run(self.task(claim.id).payload))
            self.settler.settle(run_id)
        return done

    def recover(self, task_id: UUID, **asked: Any) -> str:
        return self.ledger.recover(self.recoverer.decide(task_id, Recovery(**asked))).result(10)

    def stages(self, run_id: UUID) -> dict[str, list[UUID]]:
        run = self.queries.run(run_id)
        assert run is not None
        found: dict[str, list[UUID]] = {}
        for one in run.stages:
            found.setdefault(one.stage, []).append(one.id)
        return found

    def task(self, task_id: UUID) -> Task:
        task = self.queries.task(task_id)
        assert task is not None
        return task

    def status(self, task_id: UUID) -> str:
        return self.task(task_id).status

    def moves(self, task_id: UUID) -> list[str]:
        events = self.queries.history(task_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        states = [event.status for event in events if event.kind == "state"]
        pairs = zip([None, *states], states, strict=False)
        assert all(is_legal(before, after, by_operators=True) for before, after in pairs), states
        return states

    def value(self, sql: str, *params: Any) -> Any:
        row = self.sql.execute(sql, params).fetchone()
        assert row is not None
        return row[0]


def state_of(claim: Claimed) -> Any:
    return None if claim.state is None else msgspec.json.decode(claim.state)


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


# --- retry ---------------------------------------------------------------------------------------


def test_a_retry_opens_a_new_round_of_the_same_task_with_a_new_budget(record: Record) -> None:
    # Given a task that failed for good after it had saved a state
    claim = record.claimed()
    record.ledger.checkpoint(claim, 1, {"step": 7}).result(10)
    record.fail(claim)
    # When it is retried
    assert record.ledger.retry(claim.id).result(10) == "retried"
    # Then it is ready with a new budget and its last state, and its dead letter is settled
    (again,) = record.fetch()
    assert (again.id, again.attempt, again.failures, again.deaths) == (claim.id, 2, 0, 0)
    assert state_of(again) == {"step": 7}
    assert record.value("SELECT resolution FROM dead_letters WHERE task_id = %s", claim.id) == "retried"
    # And its whole history is told
    assert record.complete(again, "at last")
    assert record.moves(claim.id) == [*FAILED_TASK, "queued", "running", "completed"]
    messages = [event.message for event in record.queries.history(claim.id)]
    assert "RuntimeError: oops" in messages
    assert "retried" in messages


def test_twenty_retries_at_once_give_one_new_round(record: Record) -> None:
    task_id = record.fail(record.claimed())
    answers = [record.ledger.retry(task_id) for _ in range(20)]
    assert sorted(answer.result(10) for answer in answers) == [*["not_failed"] * 19, "retried"]
    assert len(record.fetch(20)) == 1


def test_a_retry_and_a_replay_at_once_give_one_new_round(record: Record) -> None:
    task_id = record.fail(record.claimed())
    letter = record.value("SELECT id FROM dead_letters WHERE task_id = %s", task_id)
    answers = [record.ledger.retry(task_id), record.ledger.replay(letter)]
    outcomes = {answer.result(10) for answer in answers}
    assert len(outcomes & {"retried", "replayed"}) == 1
    assert record.value("SELECT round FROM task_state WHERE id = %s", task_id) == 1


def test_what_did_not_fail_is_not_retried(record: Record) -> None:
    running = record.claimed()
    done = record.claimed()
    record.complete(done)
    cancelled = record.claimed()
    record.ledger.cancel(cancelled.id).result(10)
    for one in (running, done, cancelled):
        assert record.ledger.retry(one.id).result(10) == "not_failed"
    assert record.ledger.retry(new_id()).result(10) == "missing"


def test_a_retry_that_is_repeated_after_an_unknown_commit_opens_no_second_round(record: Record) -> None:
    # Given a retry whose commit went through, and a task that has failed again since
    task_id = record.fail(record.claimed())
    ticket = Retry(task_id)
    assert record.ledger._group.add("retry", ticket).result(10) == "retried"
    record.fail(*record.fetch())
    # When the same request comes once more, then it is answered as before and nothing happens
    assert record.ledger._group.add("retry", ticket).result(10) == "retried"
    assert record.status(task_id) == "failed"
    # And another one opens another round
    assert record.ledger.retry(task_id).result(10) == "retried"
    assert record.status(task_id) == "queued"


def test_a_worker_with_the_claim_of_an_old_round_writes_nothing(record: Record) -> None:
    # Given a task that was cancelled under a worker that goes on, and that was recovered
    old = record.claimed()
    record.ledger.cancel(old.id).result(10)
    assert record.recover(old.id) == "recovered"
    # When the worker reports, saves, and ends
    assert record.ledger.report(old, 50, None, None).result(10) is False
    assert record.ledger.checkpoint(old, 1, {}).result(10) is False
    assert record.complete(old, "too late") is False
    assert record.ledger.fail(old, OOPS, retry_in=None).result(10) is False
    # Then the new round is as it was
    assert record.status(old.id) == "queued"
    assert len(record.fetch()) == 1


def test_a_retry_waits_for_nobody_who_holds_the_row(record: Record, url: str) -> None:
    task_id = record.fail(record.claimed())
    with psycopg.connect(url) as other:
        other.execute("SELECT FROM task_state WHERE id = %s FOR UPDATE", (task_id,))
        retried = record.ledger.retry(task_id)
        record.claimed()  # everybody else goes on meanwhile
        assert not retried.done()
    assert retried.result(10) == "retried"


def test_the_retry_of_a_run_runs_what_failed_and_nothing_that_finished(record: Record) -> None:
    run_id = record.begin_run()
    assert record.work_off(run_id, failing="total") == ["part", "measure", "measure", "total"]
    assert record.status(run_id) == "failed"
    assert record.ledger.retry(run_id).result(10) == "retried"
    assert record.work_off(run_id) == ["total"]
    assert (record.status(run_id), record.task(run_id).result) == ("completed", 3)
    assert record.moves(run_id) == ["queued", "running", "failed", "running", "completed"]


def test_the_retry_of_a_stage_reopens_its_run_unless_that_was_cancelled(record: Record) -> None:
    run_id = record.begin_run()
    record.work_off(run_id, failing="part")
    (failed,) = record.stages(run_id)["part"]
    assert record.ledger.retry(failed).result(10) == "retried"
    assert record.status(run_id) == "running"
    record.fail(*record.fetch())
    record.ledger.cancel(run_id).result(10)
    assert record.ledger.retry(failed).result(10) == "run_is_over"


# --- recovering a task -----------------------------------------------------------------------------


def saved(record: Record, *states: Any) -> Claimed:
    """A task that saved some states, and was cancelled."""
    claim = record.claimed()
    for version, state in enumerate(states, 1):
        record.ledger.checkpoint(claim, version, state).result(10)
    record.ledger.cancel(claim.id).result(10)
    return claim


def test_a_cancelled_task_is_recovered_from_its_last_checkpoint(record: Record) -> None:
    claim = saved(record, "one", "two")
    assert record.recover(claim.id) == "recovered"
    (again,) = record.fetch()
    assert (again.snapshot, state_of(again)) == (2, "two")
    assert record.moves(claim.id) == ["queued", "running", "cancelled", "queued", "running"]


def test_a_task_is_recovered_from_an_older_checkpoint_which_becomes_the_newest(record: Record) -> None:
    claim = saved(record, "one", "two", "three")
    assert record.recover(claim.id, mode="checkpoint", version=1) == "recovered"
    (again,) = record.fetch()
    assert (again.snapshot, state_of(again)) == (4, "one")
    assert record.ledger.checkpoint(again, 5, "five").result(10) is True


def test_a_checkpoint_that_does_not_exist_recovers_nothing(record: Record) -> None:
    claim = saved(record, "one")
    assert record.recover(claim.id, mode="checkpoint", version=2) == "no_version"
    assert record.status(claim.id) == "cancelled"


def test_a_completed_task_runs_again_from_the_beginning_alone(record: Record) -> None:
    # Given a task that saved a state and completed
    claim = record.claimed()
    record.ledger.checkpoint(claim, 1, "half").result(10)
    record.complete(claim, "done")
    # When it is asked to go on from there, then it is refused; from the beginning it runs
    with pytest.raises(Conflict, match="mode=all"):
        record.recover(claim.id)
    assert record.recover(claim.id, mode="all") == "recovered"
    task = record.task(claim.id)
    assert (task.status, task.progress, task.result) == ("queued", 0, None)
    (again,) = record.fetch()
    assert again.state is None
    # And versions still ascend, and the success of the first round is history
    assert record.ledger.checkpoint(again, again.snapshot + 1, "new").result(10) is True
    record.complete(again, "done again")
    assert record.moves(claim.id) == ["queued", "running", "completed", "queued", "running", "completed"]
    assert record.value("SELECT outcome FROM attempts WHERE task_id = %s", claim.id) == "completed"


def test_two_recoveries_at_once_give_one_new_round(record: Record) -> None:
    claim = saved(record, "one")
    how = [record.recoverer.decide(claim.id, Recovery()) for _ in range(2)]
    answers = [record.ledger.recover(one) for one in how]
    assert sorted(answer.result(10) for answer in answers) == ["changed", "recovered"]
    assert isinstance(how[0], Restart)
    assert len(record.fetch()) == 1


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"mode": "failed"}, "mode"),
        ({"mode": "stage", "stage": "part"}, "mode"),
        ({"mode": "checkpoint", "stage": "part"}, "stage"),
        ({"mode": "all", "version": 1}, "version"),
        ({"mode": "all", "output": 1}, "output"),
    ],
)
def test_what_is_nothing_for_a_task_is_refused_by_name(
    record: Record, asked: dict[str, Any], field: str
) -> None:
    claim = saved(record, "one")
    with pytest.raises(InvalidField) as refused:
        record.recover(claim.id, **asked)
    assert [name for name, _ in refused.value.errors] == [field]


def test_what_is_not_over_is_not_recovered(record: Record) -> None:
    with pytest.raises(Conflict, match="running"):
        record.recover(record.claimed().id)
    run_id = record.begin_run()
    with pytest.raises(Conflict, match="queued"):
        record.recover(run_id, mode="all")
    (first,) = record.stages(run_id)["part"]
    with pytest.raises(Conflict, match="stage of the run"):
        record.recover(first)


# --- recovering a run ------------------------------------------------------------------------------


def finished_run(record: Record) -> UUID:
    run_id = record.begin_run()
    record.work_off(run_id)
    assert record.task(run_id).result == 3
    return run_id


def test_a_cancelled_run_goes_on_where_it_was_cancelled(record: Record) -> None:
    run_id = record.begin_run()
    (claim,) = record.fetch()
    record.complete(claim, ["a", "bc"])
    record.ledger.cancel(run_id).result(10)
    assert record.recover(run_id) == "recovered"
    assert record.work_off(run_id) == ["measure", "measure", "total"]
    assert record.task(run_id).result == 3
    assert record.moves(run_id)[-3:] == ["cancelled", "running", "completed"]


@pytest.mark.parametrize("mode", ["stage", "downstream"])
def test_a_stage_of_a_completed_run_and_all_after_it_run_again(record: Record, mode: str) -> None:
    # Given a run that completed
    run_id = finished_run(record)
    before = record.stages(run_id)
    # When it is recovered from its second stage
    assert record.recover(run_id, mode=mode, stage="measure") == "recovered"
    # Then the run goes on at that stage, and what came after is gone with all its rows
    task = record.task(run_id)
    assert (task.status, task.phase, task.result, round(task.progress)) == ("running", "measure", None, 33)
    (gone,) = before["total"]
    for table, column in (
        ("tasks", "id"),
        ("task_state", "id"),
        ("attempts", "task_id"),
        ("events", "task_id"),
    ):
        assert record.value(f"SELECT count(*) FROM {table} WHERE {column} = %s", gone) == 0
    # And the stage runs again from its input, the first one does not, and a new last one is made
    assert record.work_off(run_id) == ["measure", "measure", "total"]
    after = record.stages(run_id)
    assert (after["part"], after["measure"]) == (before["part"], before["measure"])
    assert after["total"] != before["total"]
    assert record.moves(after["measure"][0])[-4:] == ["completed", "queued", "running", "completed"]
    assert "recovered from stage measure" in [one.message for one in record.queries.history(run_id)]


def test_a_stage_is_completed_with_an_edited_output_and_what_follows_is_made_from_it(record: Record) -> None:
    run_id = finished_run(record)
    assert record.recover(run_id, mode="stage", stage="part", output=["abc", "abcd", "a"]) == "recovered"
    assert record.work_off(run_id) == ["measure"] * 3 + ["total"]
    assert record.task(run_id).result == 8
    (part_id,) = record.stages(run_id)["part"]
    assert record.task(part_id).result == ["abc", "abcd", "a"]
    assert record.moves(part_id) == ["queued", "running", "completed", "completed"]


def test_a_failed_mapped_stage_is_completed_with_one_output_for_each_of_its_tasks(record: Record) -> None:
    run_id = record.begin_run()
    record.work_off(run_id, failing="measure")
    assert record.recover(run_id, mode="stage", stage="measure", output=[10, 20]) == "recovered"
    assert record.work_off(run_id) == ["total"]
    assert record.task(run_id).result == 30
    sql = "SELECT count(*) FROM dead_letters WHERE resolution IS DISTINCT FROM 'recovered'"
    assert record.value(sql) == 0


def test_the_output_of_the_last_stage_ends_the_run(record: Record) -> None:
    run_id = finished_run(record)
    assert record.recover(run_id, mode="stage", stage="total", output=99) == "recovered"
    record.settler.settle(run_id)
    assert (record.status(run_id), record.task(run_id).result) == ("completed", 99)


def test_a_run_is_recovered_as_a_whole_from_its_payload(record: Record) -> None:
    run_id = finished_run(record)
    before = record.stages(run_id)
    assert record.recover(run_id, mode="all") == "recovered"
    assert record.work_off(run_id) == ["part", "measure", "measure", "total"]
    assert not {one for ids in before.values() for one in ids} & {
        one for ids in record.stages(run_id).values() for one in ids
    }
    assert record.moves(run_id) == ["queued", "running", "completed", "running", "completed"]


def test_a_process_without_the_pipeline_recovers_a_run_as_a_whole_and_others_begin_it(record: Record) -> None:
    run_id = finished_run(record)
    stranger = Recoverer(Catalogue([], []), record.queries, DEFAULTS)
    with pytest.raises(Conflict, match="does not know the pipeline"):
        stranger.decide(run_id, Recovery(mode="stage", stage="part"))
    assert record.ledger.recover(stranger.decide(run_id, Recovery(mode="all"))).result(10) == "recovered"
    record.settler.settle(run_id)
    assert record.work_off(run_id) == ["part", "measure", "measure", "total"]


def test_what_was_decided_about_a_run_before_its_recovery_is_void(record: Record) -> None:
    # Given a settler that saw the stages in the middle of a run done, and comes late
    run_id = record.begin_run()
    record.complete(*record.fetch(), result=["a", "bc"])
    for claim in record.fetch():
        record.complete(claim, 1)
    seen = record.queries.run(run_id)
    assert seen is not None
    late = flow.settle(LENGTHS, seen, lambda name: record.queries.outputs(run_id, name), DEFAULTS)
    assert late is not None
    record.settler.settle(run_id)
    record.work_off(run_id)
    # When the run is recovered from there before it comes, then nothing is made from the old results
    record.recover(run_id, mode="stage", stage="measure")
    assert record.ledger.advance(late).result(10) is False
    assert "total" not in record.stages(run_id)


def test_a_worker_that_still_runs_a_stage_of_a_recovered_run_writes_nothing(record: Record) -> None:
    # Given a run of which one stage failed while another one still runs, which nobody has stopped yet
    run_id = record.begin_run()
    record.complete(*record.fetch(), result=["a", "bc"])
    failing, running = record.fetch()
    record.fail(failing)
    record.sql.execute(
        "UPDATE task_state SET status = 'failed', finished_at = now() WHERE id = %s", (run_id,)
    )
    # When the run is recovered from before them
    assert record.recover(run_id, mode="stage", stage="part") == "recovered"
    # Then that one is gone for its worker
    assert record.complete(running, 1) is False
    assert record.work_off(run_id) == ["part", "measure", "measure", "total"]


def test_a_recovery_waits_for_nobody_who_holds_a_stage(record: Record, url: str) -> None:
    run_id = finished_run(record)
    (part_id,) = record.stages(run_id)["part"]
    with psycopg.connect(url) as other:
        other.execute("SELECT FROM task_state WHERE id = %s FOR UPDATE", (part_id,))
        recovered = record.ledger.recover(record.recoverer.decide(run_id, Recovery(mode="all")))
        record.claimed()
        assert not recovered.done()
    assert recovered.result(10) == "recovered"


def test_two_recoveries_of_a_run_at_once_give_one_new_round(record: Record) -> None:
    run_id = finished_run(record)
    how = [
        record.recoverer.decide(run_id, Recovery(mode="stage", stage=name)) for name in ("part", "measure")
    ]
    assert all(isinstance(one, RunRestart) for one in how)
    answers = [record.ledger.recover(one) for one in how]
    assert sorted(answer.result(10) for answer in answers) == ["changed", "recovered"]
    # And a repetition of the one that was done is answered alike
    done = how[[answer.result() for answer in answers].index("recovered")]
    assert record.ledger.recover(done).result(10) == "recovered"
    assert record.value("SELECT round FROM task_state WHERE id = %s", run_id) == 1


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"mode": "checkpoint"}, "mode"),
        ({"mode": "stage"}, "stage"),
        ({"mode": "stage", "stage": "nix"}, "stage"),
        ({"mode": "all", "stage": "part"}, "stage"),
        ({"mode": "all", "output": 1}, "output"),
        ({"mode": "failed", "version": 1}, "version"),
        ({"mode": "stage", "stage": "part", "output": "no list"}, "output"),
        ({"mode": "stage", "stage": "part", "output": ["a", 1]}, "output[1]"),
        ({"mode": "stage", "stage": "measure", "output": [1]}, "output"),
        ({"mode": "stage", "stage": "measure", "output": 3}, "output"),
    ],
)
def test_what_is_nothing_for_a_run_is_refused_by_name(
    record: Record, asked: dict[str, Any], field: str
) -> None:
    run_id = finished_run(record)
    with pytest.raises(InvalidField) as refused:
        record.recover(run_id, **asked)
    assert [name for name, _ in refused.value.errors] == [field]
    assert record.status(run_id) == "completed"


def test_a_run_of_which_nothing_failed_has_nothing_to_recover_unless_it_is_named(record: Record) -> None:
    run_id = finished_run(record)
    for mode in ("failed", "downstream"):
        with pytest.raises(Conflict, match="Nothing of the run has failed"):
            record.recover(run_id, mode=mode)
    unfinished = record.begin_run()
    record.work_off(unfinished, failing="part")
    with pytest.raises(Conflict, match="never came to the stage"):
        record.recover(unfinished, mode="stage", stage="total")
