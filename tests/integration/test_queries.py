"""Reading the record: filters, pages, totals, reasons for waiting, histories, and whose tasks one sees."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from tasks import lists as module
from tasks.catalogue import declare
from tasks.database import connect
from tasks.errors import InvalidField, Unavailable
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.records import Event, Page, Task, TaskFilter
from tasks.states import is_legal
from tasks.values import Advance, Backlog, Claimed, Complete, NewTask, TaskError, TaskType
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")


class Record:
    """A record with a ledger to write it and queries to read it."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.database = database
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(
            "TRUNCATE tasks, task_state, attempts, events, workers, dispatches, queues, task_types"
        )

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def submit(self, **fields: Any) -> UUID:
        task = NewTask(**{"task_type": "work", "queue_name": "default", **fields})
        self.ledger.submit([task]).result(10)
        return task.id

    def fetch(self, limit: int = 1, queue: str = "default", task_type: str = "work") -> list[Claimed]:
        return self.ledger.fetch([queue], [task_type], limit).result(10)

    def complete(self, claim: Claimed, result: Any = None) -> None:
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, result)).result(10)

    def fail(self, claim: Claimed, retry_in: float | None = None) -> None:
        assert self.ledger.fail(claim, OOPS, retry_in=retry_in).result(10)

    def ids(self, limit: int = 100, **wanted: Any) -> list[UUID]:
        """The ids of the tasks that a filter lets through, newest first."""
        page = self.queries.tasks(TaskFilter(**wanted), Page(limit=limit))
        assert (page.total, page.total_is_exact) == (len(page.tasks), True)
        return [task.task_id for task in page.tasks]

    def task(self, task_id: UUID) -> Task:
        task = self.queries.task(task_id)
        assert task is not None
        return task

    def worker(self, queues: Sequence[str], types: Sequence[str], kind: str = "worker") -> None:
        self.sql.execute(
            "INSERT INTO workers (id, kind, host, pid, version, queues, types)"
            " VALUES (%s, %s, 'here', 1, '0', %s, %s)",
            (new_id(), kind, list(queues), list(types)),
        )


@pytest.fixture
def record(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Record]:
    made = Record(shared, url)
    yield made
    made.close()


# --- filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({"task_type": "mail"}, {"task_type": "work"}),
        ({"queue_name": "mail"}, {"queue_name": "default"}),
        ({"user_id": "ann"}, {"user_id": "bob"}),
        ({"project_id": "p1"}, {"project_id": "p2"}),
        ({"kb_id": "kb_1"}, {}),
    ],
    ids=lambda fields: "".join(fields),
)
def test_a_filter_lets_through_what_has_the_value(
    record: Record, fields: dict[str, Any], other: dict[str, Any]
) -> None:
    wanted = record.submit(**fields)
    record.submit(**other)

    assert record.ids(**fields) == [wanted]


def test_a_tag_is_one_of_several(record: Record) -> None:
    both, red = record.submit(tags=("red", "blue")), record.submit(tags=("red",))
    record.submit()

    assert record.ids(tag="red") == [red, both]
    assert record.ids(tag="blue") == [both]
    assert record.ids(tag="re") == []
    assert record.ids(tag='it\'s {red,"blue"}') == []


def test_states_are_alternatives(record: Record) -> None:
    record.submit()
    (claim,) = record.fetch()
    record.complete(claim)
    scheduled, queued = record.submit(delay=60), record.submit()

    assert record.ids(statuses=("completed",)) == [claim.id]
    assert record.ids(statuses=("scheduled", "queued")) == [queued, scheduled]
    assert record.ids(statuses=("failed",)) == []


def test_filters_together_narrow_down(record: Record) -> None:
    wanted = record.submit(task_type="mail", kb_id="kb_1", tags=("red",))
    record.submit(task_type="mail", kb_id="kb_1")
    record.submit(task_type="mail", tags=("red",))

    assert record.ids(task_type="mail", kb_id="kb_1", tag="red", statuses=("queued",)) == [wanted]


def test_a_span_of_time_includes_its_beginning_and_not_its_end(record: Record) -> None:
    first, second, third = record.submit(), record.submit(), record.submit()
    at = record.task(second).created_at

    assert record.ids(created_after=at) == [third, second]
    assert record.ids(created_before=at) == [first]
    assert record.ids(created_after=at, created_before=at + timedelta(microseconds=1)) == [second]


def test_children_are_found_by_their_parent(record: Record) -> None:
    parent = record.submit()
    child = record.submit(parent_id=parent)

    assert record.ids(parent_id=parent) == [child]


def a_run(record: Record, **fields: Any) -> tuple[UUID, list[UUID]]:
    run = NewTask(task_type="lengths", queue_name="default", is_run=True, **fields)
    stages = [
        NewTask(task_type="work", queue_name="default", run_id=run.id, stage="measure", stage_index=n)
        for n in range(3)
    ]
    record.ledger.submit([run, *stages]).result(10)
    return run.id, [stage.id for stage in stages]


def test_lists_show_whole_tasks_and_stages_only_when_they_are_asked_for(record: Record) -> None:
    plain = record.submit()
    run_id, stages = a_run(record)

    assert record.ids() == [run_id, plain]
    assert set(record.ids(stages=True)) == {plain, run_id, *stages}
    assert set(record.ids(run_id=run_id)) == set(stages)


# --- whose tasks -------------------------------------------------------------------------------------


def test_nobody_sees_the_tasks_of_another_owner(record: Record) -> None:
    ann, bob, nobody = (record.submit(user_id=user, tags=("t",)) for user in ("ann", "bob", ""))

    assert record.ids(owner="ann") == [ann]
    assert record.ids(owner="ann", user_id="ann", tag="t") == [ann]
    assert record.ids(owner="ann", user_id="bob") == []
    assert record.ids() == [nobody, bob, ann]
    assert record.queries.task(ann, owner="ann") is not None
    assert record.queries.task(bob, owner="ann") is None
    assert record.queries.task(nobody, owner="ann") is None
    assert record.queries.task(bob) is not None


def test_a_cursor_does_not_open_the_tasks_of_another_owner(record: Record) -> None:
    anns = [record.submit(user_id=user) for user in ("ann", "bob") * 3][::2]
    page = record.queries.tasks(TaskFilter(owner="ann"), Page(limit=1))

    stolen = record.queries.tasks(TaskFilter(owner="bob"), Page(cursor=page.next_cursor))

    assert {task.user_id for task in stolen.tasks} == {"bob"}
    assert page.tasks[0].task_id == anns[-1]


# --- pages -------------------------------------------------------------------------------------------


def test_pages_by_offset_are_disjoint_and_complete(record: Record) -> None:
    newest_first = [record.submit() for _ in range(7)][::-1]

    pages = [record.queries.tasks(TaskFilter(), Page(limit=3, offset=offset)) for offset in (0, 3, 6, 9)]

    assert [[task.task_id for task in page.tasks] for page in pages] == [
        newest_first[:3],
        newest_first[3:6],
        newest_first[6:],
        [],
    ]
    assert [page.total for page in pages] == [7] * 4
    assert [page.next_cursor is not None for page in pages] == [True, True, False, False]


def walk(record: Record, limit: int, **wanted: Any) -> Iterator[UUID]:
    """All tasks, page by page, from cursor to cursor."""
    cursor = None
    while True:
        page = record.queries.tasks(TaskFilter(**wanted), Page(limit=limit, cursor=cursor))
        yield from (task.task_id for task in page.tasks)
        cursor = page.next_cursor
        if cursor is None:
            return


@pytest.mark.parametrize("limit", [1, 3, 7, 8])
def test_pages_by_cursor_are_disjoint_and_complete(record: Record, limit: int) -> None:
    newest_first = [record.submit() for _ in range(7)][::-1]

    assert list(walk(record, limit)) == newest_first


def test_pages_by_cursor_are_not_shifted_by_what_is_new_or_gone(record: Record) -> None:
    newest_first = [record.submit() for _ in range(6)][::-1]
    tasks = walk(record, 2)
    seen = [next(tasks) for _ in range(2)]

    record.submit()
    record.sql.execute("DELETE FROM tasks WHERE id = %s", (newest_first[0],))
    record.sql.execute("DELETE FROM tasks WHERE id = %s", (newest_first[3],))

    assert seen + list(tasks) == [one for one in newest_first if one != newest_first[3]]


def test_a_page_by_offset_can_be_continued_by_cursor(record: Record) -> None:
    newest_first = [record.submit() for _ in range(5)][::-1]
    page = record.queries.tasks(TaskFilter(), Page(limit=2, offset=1))

    rest = record.queries.tasks(TaskFilter(), Page(limit=5, cursor=page.next_cursor))

    assert [task.task_id for task in rest.tasks] == newest_first[3:]


@pytest.mark.parametrize("cursor", ["x", "no cursor", "AAAA", "知识库", "A" * 21 + "==", "!" * 22])
def test_something_else_than_a_cursor_is_refused(record: Record, cursor: str) -> None:
    with pytest.raises(InvalidField) as caught:
        record.queries.tasks(TaskFilter(), Page(cursor=cursor))

    assert caught.value.errors[0][0] == "cursor"


def test_an_empty_record_has_an_empty_page(record: Record) -> None:
    page = record.queries.tasks(TaskFilter(), Page())

    assert (page.tasks, page.total, page.total_is_exact, page.next_cursor) == ([], 0, True, None)


# --- totals ------------------------------------------------------------------------------------------


@pytest.fixture
def counts_up_to_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_UP_TO", 4)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"statuses": ("queued",)},
        {"task_type": "work"},
        {"queue_name": "default"},
        {"owner": "ann"},
        {"owner": "ann", "queue_name": "default", "statuses": ("queued", "running"), "task_type": "work"},
    ],
    ids=str,
)
def test_simple_totals_are_always_exact(
    record: Record, counts_up_to_four: None, wanted: dict[str, Any]
) -> None:
    for _ in range(6):
        record.submit(user_id="ann", tags=("red",))

    page = record.queries.tasks(TaskFilter(**wanted), Page(limit=2))

    assert (page.total, page.total_is_exact, len(page.tasks)) == (6, True, 2)


@pytest.mark.parametrize(
    ("count", "total", "exact"), [(3, 3, True), (4, 4, True), (5, 4, False), (6, 4, False)]
)
def test_other_totals_are_exact_up_to_a_limit(
    record: Record, counts_up_to_four: None, count: int, total: int, exact: bool
) -> None:
    for _ in range(count):
        record.submit(tags=("red",))

    page = record.queries.tasks(TaskFilter(tag="red"), Page(limit=2))

    assert (page.total, page.total_is_exact) == (total, exact)
    assert len(list(walk(record, 2, tag="red"))) == count


# --- why a task waits --------------------------------------------------------------------------------


def test_a_task_says_what_it_waits_for(record: Record) -> None:
    record.submit()
    (claim,) = record.fetch()
    record.fail(claim, retry_in=60)
    record.submit()
    (running,) = record.fetch()
    scheduled = record.submit(delay=60)

    assert record.task(scheduled).wait_reason == "time"
    assert record.task(claim.id).wait_reason == "backoff"
    assert record.task(running.id).wait_reason is None
    record.complete(running)
    assert record.task(running.id).wait_reason is None


def test_a_queued_task_says_which_worker_is_missing(record: Record) -> None:
    task_id = record.submit(queue_name="mail")
    record.worker(["mail"], ["work"], kind="clock")
    assert record.task(task_id).wait_reason == "no worker for its type"

    record.worker(["default"], ["work"])
    assert record.task(task_id).wait_reason == "no worker for its queue"

    record.worker(["mail"], ["other"])
    assert record.task(task_id).wait_reason is None

    assert [task.wait_reason for task in record.queries.tasks(TaskFilter(), Page()).tasks] == [None]


def test_a_run_waits_for_a_worker_that_knows_its_stages(record: Record) -> None:
    run_id, (stage, *_) = a_run(record)
    assert record.task(run_id).wait_reason == "no worker for its type"
    assert record.task(stage).wait_reason == "no worker for its type"

    record.worker(["default"], ["work", "lengths.measure"])

    assert record.task(run_id).wait_reason is None
    assert record.task(stage).wait_reason is None


def test_a_queued_task_says_that_its_queue_is_paused(record: Record) -> None:
    paused, other = record.submit(queue_name="mail"), record.submit()
    record.worker(["mail", "default"], ["work"])
    record.sql.execute("UPDATE queues SET paused = true WHERE name = 'mail'")

    assert record.task(paused).wait_reason == "paused"
    assert record.task(other).wait_reason is None


# --- history -----------------------------------------------------------------------------------------


def told(events: Sequence[Event]) -> list[tuple[int, str, str, float | None, str | None]]:
    return [(one.event_id, one.kind, one.status, one.progress, one.message) for one in events]


def test_the_history_of_a_plain_task_is_derived_from_its_columns(record: Record) -> None:
    task_id = record.submit()
    (claim,) = record.fetch()
    record.complete(claim)

    events = record.queries.history(task_id)

    assert told(events) == [
        (1, "state", "queued", None, None),
        (2, "state", "running", None, None),
        (3, "state", "completed", 100.0, None),
    ]
    task = record.task(task_id)
    assert [one.timestamp for one in events] == [task.created_at, task.started_at, task.completed_at]
    assert record.sql.execute("SELECT count(*) FROM events").fetchone() == (0,)
    assert record.sql.execute("SELECT count(*) FROM attempts").fetchone() == (0,)


def test_every_move_of_an_eventful_life_is_told_in_order(record: Record) -> None:
    # Given a task that was scheduled, released, reported on, retried, lost with its worker and cancelled
    task_id = record.submit(delay=0.05)
    eventually(lambda: record.ledger.promote().result(10) == 1)
    record.ledger.release(record.fetch()[0]).result(10)
    (claim,) = record.fetch()
    assert record.ledger.report(claim, 40, "pages", "2 of 5").result(10)
    record.fail(claim, retry_in=0.05)
    eventually(lambda: record.ledger.promote().result(10) == 1)
    record.fetch()
    record.ledger.rescue(record.ledger.owner).result(10)
    record.fetch()
    record.ledger.cancel(task_id).result(10)

    # Then its history has all of it.
    events = record.queries.history(task_id)
    lost = "The worker process died while the task was running (1 of 3)."
    assert told(events) == [
        (1, "state", "scheduled", None, None),
        (2, "state", "queued", None, None),
        (3, "state", "running", None, None),
        (4, "state", "queued", None, None),
        (5, "state", "running", None, None),
        (6, "progress", "running", 40.0, "2 of 5"),
        (7, "state", "retrying", None, "RuntimeError: oops"),
        (8, "state", "queued", None, None),
        (9, "state", "running", None, None),
        (10, "state", "queued", None, lost),
        (11, "state", "running", None, None),
        (12, "state", "cancelled", None, None),
    ]
    moves = [one.status for one in events if one.kind == "state"]
    assert all(map(is_legal, [None, *moves], moves))
    times = [one.timestamp for one in events]
    assert times == sorted(times)


def test_a_failure_is_told_with_its_message_and_a_cancel_without_one(record: Record) -> None:
    failed = record.submit()
    record.fail(record.fetch()[0])
    cancelled = record.submit()
    record.ledger.cancel(cancelled).result(10)

    assert told(record.queries.history(failed))[-1] == (3, "state", "failed", None, "RuntimeError: oops")
    assert told(record.queries.history(cancelled))[-1] == (2, "state", "cancelled", None, None)


def test_a_cancel_after_a_failed_attempt_is_not_told_with_the_error_of_that(record: Record) -> None:
    task_id = record.submit()
    record.fail(record.fetch()[0], retry_in=60)
    record.ledger.cancel(task_id).result(10)

    assert told(record.queries.history(task_id))[-1] == (4, "state", "cancelled", None, None)


def test_there_is_no_history_of_nothing(record: Record) -> None:
    assert record.queries.history(new_id()) == []


# --- single tasks, runs and the rest -----------------------------------------------------------------


def test_a_task_that_does_not_exist_is_none(record: Record) -> None:
    assert record.queries.task(new_id()) is None
    assert record.queries.run(new_id()) is None


def test_a_finished_task_says_how_long_it_took(record: Record) -> None:
    task_id = record.submit()
    assert record.task(task_id).duration_ms is None
    (claim,) = record.fetch()
    assert record.task(task_id).duration_ms is None
    record.complete(claim)

    task = record.task(task_id)

    assert task.started_at is not None
    assert task.completed_at is not None
    assert task.duration_ms == round((task.completed_at - task.started_at).total_seconds() * 1_000, 3)


def test_a_run_is_read_with_its_stages_and_their_outputs_in_order(record: Record) -> None:
    run_id, stages = a_run(record, payload={"a": 1}, tags=("red",), user_id="ann")
    for claim in sorted(record.fetch(limit=3), key=lambda claim: -(claim.stage_index or 0)):
        record.complete(claim, {"index": claim.stage_index})

    run = record.queries.run(run_id)

    assert run is not None
    assert (run.task_type, run.status, run.task.payload) == ("lengths", "running", {"a": 1})
    assert (run.task.tags, run.task.user_id) == (("red",), "ann")
    assert [(one.id, one.stage, one.index, one.status) for one in run.stages] == [
        (stage, "measure", index, "completed") for index, stage in enumerate(stages)
    ]
    assert list(record.queries.outputs(run_id, "measure").items()) == [
        (index, {"index": index}) for index in range(3)
    ]
    assert record.queries.outputs(run_id, "other") == {}


def test_only_runs_that_nothing_moves_by_itself_are_unsettled(record: Record) -> None:
    at_work, _ = a_run(record)
    joins, _ = a_run(record)
    failing, (bad, *_) = a_run(record)
    ended, _ = a_run(record)
    for claim in record.fetch(limit=20):
        if claim.run_id == joins:
            record.complete(claim)
        elif claim.id == bad:
            record.fail(claim)
    record.ledger.advance(Advance(ended, status="failed")).result(10)
    assert record.queries.unsettled_runs() == []
    record.sql.execute("UPDATE task_state SET updated_at = now() - interval '1 minute'")

    assert set(record.queries.unsettled_runs()) == {joins, failing}
    assert at_work not in record.queries.unsettled_runs()


def test_what_a_run_that_is_over_left_behind_makes_it_unsettled_again(record: Record) -> None:
    run_id, _ = a_run(record)
    record.sql.execute("UPDATE task_state SET status = 'cancelled' WHERE id = %s", (run_id,))
    assert record.queries.unsettled_runs() == [run_id]

    record.ledger.advance(Advance(run_id)).result(10)

    assert record.queries.unsettled_runs() == []


def test_types_and_queues_are_declared_again_and_again(record: Record) -> None:
    declare(record.database, [TaskType("work", "default"), TaskType("lengths", "runs", True)])
    declare(record.database, [TaskType("work", "heavy")])

    assert record.queries.task_types() == {
        "work": TaskType("work", "heavy"),
        "lengths": TaskType("lengths", "runs", is_pipeline=True),
    }
    assert record.queries.queue_names() == ["default", "heavy", "runs"]


def test_the_backlog_is_what_nobody_has_published(record: Record) -> None:
    for _ in range(3):
        record.submit()
    record.submit(queue_name="mail")
    record.submit(delay=60)
    a_run(record)

    record.ledger.take("mail", 1, 900).result(10)

    assert record.queries.backlog() == {"default": Backlog(6, 0), "mail": Backlog(0, 1)}
    assert record.queries.backlog(["mail"]) == {"mail": Backlog(0, 1)}


def test_batches_of_publishers_that_are_gone_are_orphans(record: Record) -> None:
    record.submit()
    record.ledger.take("default", 1, 900).result(10)
    assert record.queries.orphaned_dispatches(30) == [900]

    record.sql.execute(
        "INSERT INTO workers (id, kind, host, pid, version) VALUES (%s, 'api', 'here', 1, '0')",
        (record.ledger.owner,),
    )

    assert record.queries.orphaned_dispatches(30) == []
    assert record.queries.orphaned_dispatches(0) == [900]


def test_without_postgres_a_question_is_answered_with_unavailable() -> None:
    nowhere = Queries(connect("postgresql://nobody@127.0.0.1:1/nowhere"))

    with pytest.raises(Unavailable, match="Postgres cannot be reached now"):
        nowhere.ping()
