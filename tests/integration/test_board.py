"""Tasks from Python, without HTTP, on a real Postgres: the same checks, the same answers."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

import actors
from actors.board import Board
from actors.definitions import actor
from actors.errors import NotFinished, TaskFailed
from actors.opening import open_board
from pipelines.composition import Pipeline, stage
from tasks.errors import CallboardError, Conflict, InvalidField, NotFound
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.records import Task
from tasks.values import Claimed, Complete, TaskError
from tests.support.databases import fresh_database

#: An id that no task has; the same in every process, as the names of tests must be.
UNKNOWN = "0b8f8a52-4a4e-7c11-9d3e-5b1f7a2c9e10"


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    copies: int = 1


@actor(queue="mail", max_retries=7)
def send(letter: Letter) -> None: ...


@stage
def split(text: str) -> list[str]:
    return text.split()


@stage
def count_words(words: list[str]) -> int:
    return len(words)


WORDS = Pipeline("words", split | count_words, queue="runs")


class Office:
    """A board, and a worker's ledger for doing what was asked for."""

    def __init__(self, board: Board, url: str) -> None:
        self.board = board
        self.worker = Ledger(url).start()

    def claim(self, queue: str = "default") -> Claimed:
        (claim,) = self.worker.fetch([queue], ["test", "send"], 1).result(10)
        return claim

    def complete(self, claim: Claimed, result: Any = None) -> None:
        assert self.worker.complete(claim, Complete(claim.id, claim.token, result)).result(10)

    def fail(self, claim: Claimed) -> None:
        error = TaskError("actor_error", "RuntimeError: oops")
        assert self.worker.fail(claim, error, retry_in=None).result(10)


@pytest.fixture(scope="module")
def office(postgres_url: str) -> Iterator[Office]:
    with fresh_database(postgres_url) as url, open_board(url) as board:
        office = Office(board, url)
        yield office
        office.worker.close()


@pytest.fixture
def board(office: Office) -> Iterator[Board]:
    yield office.board
    for status in ("pending", "processing"):
        for task in office.board.list_tasks(status=status, limit=1_000).tasks:
            office.board.cancel(task.task_id)


def refused(board: Board, *given: Any, **asked: Any) -> tuple[tuple[str, str], ...]:
    with pytest.raises(InvalidField) as caught:
        board.submit(*given, **asked)
    return caught.value.errors


# --- submit ------------------------------------------------------------------------------------------


def test_a_task_is_submitted_by_the_name_of_its_type_with_the_fields_of_the_api(board: Board) -> None:
    # When a task is submitted with all that can be said about it
    task = board.submit(
        "test",
        {"a": [1]},
        priority="high",
        queue_name="express",
        tags=["red"],
        user_id="ann",
        project_id="p1",
        kb_id="kb_1",
        timeout=9,
        retry_limit=1,
        created_by="user:ann",
    )

    # Then it is on record so.
    assert board.status(task.task_id) == task
    assert (task.status, task.payload, task.priority) == ("queued", {"a": [1]}, 8)
    assert (task.queue_name, task.tags, task.user_id) == ("express", ["red"], "ann")
    assert (task.project_id, task.kb_id, task.timeout, task.max_retries) == ("p1", "kb_1", 9.0, 1)
    assert task.created_by == "user:ann"


def test_an_actor_can_be_asked_for_itself_with_a_payload_of_its_type(board: Board) -> None:
    task = board.submit(send, Letter("ann", copies=2))

    assert (task.task_type, task.queue_name, task.max_retries) == ("send", "mail", 7)
    assert task.payload == {"to": "ann", "copies": 2}


def test_a_pipeline_can_be_asked_for_itself_and_becomes_a_run_with_its_first_stage(board: Board) -> None:
    run = board.submit(WORDS, "a bc")

    (first,) = board.list_tasks(run_id=run.run_id or run.task_id).tasks
    assert (run.task_type, run.queue_name) == ("words", "runs")
    assert (first.task_type, first.payload) == ("words.split", "a bc")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"what": "send_nothing"}, "task_type"),
        ({"what": split}, "task_type"),
        ({"what": 7}, "task_type"),
        ({"what": send, "payload": {"to": 7}}, "payload.to"),
        ({"what": "test", "payload": "\0"}, "payload"),
        ({"what": "test", "payload": object()}, "payload"),
        ({"what": "test", "kb_id": "a\ud800"}, "kb_id"),
        ({"what": "test", "priority": 11}, "priority"),
        ({"what": "test", "colour": "red"}, "colour"),
        ({"what": "test", "task_id": "x"}, "task_id"),
        ({"what": "test", "delay": 1, "run_at": datetime.now(UTC)}, "run_at"),
        ({"what": "test", "run_at": datetime(2030, 1, 1)}, "run_at"),
        ({"what": "test", "queue_name": "amq.x"}, "queue_name"),
        ({"what": "test", "depends_on": [uuid4()]}, "depends_on"),
    ],
)
def test_what_the_api_would_refuse_is_refused_with_the_fields_name(
    board: Board, asked: dict[str, Any], field: str
) -> None:
    before = board.count()

    assert [name for name, _ in refused(board, asked.pop("what"), **asked)] == [field]
    assert board.count() == before


def test_a_type_that_nobody_knows_has_the_same_code_as_over_http(board: Board) -> None:
    with pytest.raises(InvalidField) as caught:
        board.submit("unheard_of")

    assert caught.value.code == "unknown_task_type"


def test_an_own_id_makes_a_submission_safe_to_repeat(board: Board) -> None:
    # Given an id of our own, and a task with it
    own = uuid4()
    first = board.submit("test", {"n": 1}, task_id=str(own))

    # When it is submitted again, with the same or with other contents
    again = board.submit("test", {"n": 2}, task_id=own)

    # Then the task that has the id is the answer.
    assert first.task_id == own
    assert again == first


def test_a_unique_key_is_answered_with_the_task_that_has_it(board: Board) -> None:
    first = board.submit("test", {"n": 1}, unique_key="order-7")

    again = board.submit("test", {"n": 2}, unique_key="order-7")
    many = board.submit_many([{"task_type": "test"}, {"task_type": "test", "unique_key": "order-7"}])

    assert again == many[1] == first
    assert many[0].task_id != first.task_id
    assert board.submit(WORDS, "a", unique_key="order-7") == first


def test_a_run_with_an_own_id_is_not_begun_twice(board: Board) -> None:
    own = new_id()

    board.submit(WORDS, "a", task_id=own)
    board.submit(WORDS, "b", task_id=own)

    (stage,) = board.list_tasks(run_id=own).tasks
    assert stage.payload == "a"


def test_many_are_submitted_at_once_and_a_bad_one_is_named_by_its_place(board: Board) -> None:
    # Given items as the API takes them
    items: list[dict[str, Any]] = [{"task_type": "test", "payload": at} for at in range(3)]

    # When they are submitted, and then again with a bad one among them
    tasks = board.submit_many(items)
    before = board.count()
    with pytest.raises(InvalidField) as caught:
        board.submit_many([*items, {"type": send, "payload": {}}])

    # Then all of the first are there in their order, and nothing of the second.
    assert [task.payload for task in tasks] == [0, 1, 2]
    assert caught.value.errors[0][0] == "tasks[3].payload.to"
    assert board.count() == before
    assert board.submit_many([]) == []


def test_a_dependency_that_does_not_exist_is_named_by_the_place_of_who_needs_it(board: Board) -> None:
    with pytest.raises(InvalidField) as caught:
        board.submit_many([{"type": "test"}, {"type": "test", "depends_on": [uuid4()]}])

    assert caught.value.errors[0][0] == "tasks[1].depends_on"


# --- after the end -----------------------------------------------------------------------------------


def test_a_failed_task_is_retried(office: Office, board: Board) -> None:
    task = board.submit("test")
    office.fail(office.claim())

    again = board.retry(task.task_id)

    assert (again.task_id, again.status, again.error) == (task.task_id, "queued", None)
    with pytest.raises(Conflict, match="is queued: only one that has failed"):
        board.retry(task.task_id)


def test_a_task_that_is_over_is_deleted_and_no_other(board: Board) -> None:
    task = board.submit("test")
    with pytest.raises(Conflict, match="not over"):
        board.delete(task.task_id)
    board.cancel(task.task_id)

    board.delete(task.task_id)

    with pytest.raises(NotFound):
        board.status(task.task_id)


def test_a_stage_is_deleted_with_its_run_alone(board: Board) -> None:
    run = board.submit(WORDS, "a")
    board.cancel(run.task_id)
    (first,) = board.list_tasks(run_id=run.task_id).tasks

    with pytest.raises(Conflict, match=f"its run {run.task_id}"):
        board.delete(first.task_id)
    with pytest.raises(Conflict, match="run of this stage is over"):
        board.retry(first.task_id)


# --- looking -----------------------------------------------------------------------------------------


def test_the_result_is_what_the_task_returned(office: Office, board: Board) -> None:
    task = board.submit("test")
    office.complete(office.claim(), {"count": 100})

    assert board.result(task.task_id) == {"count": 100}
    assert board.status(str(task.task_id)).status == "completed"


def test_an_unfinished_task_has_no_result_yet(board: Board) -> None:
    with pytest.raises(NotFinished, match="is queued: wait for it"):
        board.result(board.submit("test").task_id)


def test_a_failed_task_raises_what_it_failed_with(office: Office, board: Board) -> None:
    task = board.submit("test")
    office.fail(office.claim())

    with pytest.raises(TaskFailed, match="RuntimeError: oops") as caught:
        board.result(task.task_id)

    assert caught.value.code == "actor_error"
    assert caught.value.task.status == "failed"


def test_a_cancelled_task_says_so(board: Board) -> None:
    task = board.submit("test")
    assert board.cancel(task.task_id).status == "cancelled"

    with pytest.raises(TaskFailed, match="it was cancelled"):
        board.result(task.task_id)


@pytest.mark.parametrize(
    "task_id",
    [UUID("0b8f8a52-4a4e-7c11-9d3e-5b1f7a2c9e10"), "0b8f8a52-4a4e-7c11-9d3e-5b1f7a2c9e10", "nonsense", "a\0"],
)
def test_an_unknown_id_is_not_found_whatever_is_asked(board: Board, task_id: UUID | str) -> None:
    for verb in (board.status, board.result, board.wait, board.cancel, board.history, board.retry):
        with pytest.raises(NotFound, match="There is no task"):
            verb(task_id)


def test_waiting_ends_when_the_task_is_over(office: Office, board: Board) -> None:
    # Given somebody who waits for a task that runs
    task = board.submit("test")
    claim = office.claim()
    found: list[Task] = []
    waiting = threading.Thread(target=lambda: found.append(board.wait(task.task_id, 10)))
    waiting.start()

    # When it is completed
    office.complete(claim, "done")
    waiting.join(10)

    # Then it is what the waiting gives.
    assert [(one.task_id, one.status, one.result) for one in found] == [(task.task_id, "completed", "done")]


def test_waiting_for_too_long_is_an_error_and_changes_nothing(board: Board) -> None:
    task = board.submit("test")

    with pytest.raises(NotFinished, match=r"is still queued after 0\.05 s"):
        board.wait(task.task_id, 0.05)

    assert board.status(task.task_id) == task


def test_the_history_is_the_one_of_the_record(office: Office, board: Board) -> None:
    task = board.submit("test")
    office.complete(office.claim())

    assert [event.status for event in board.history(task.task_id)] == ["queued", "running", "completed"]


def test_a_finished_task_cannot_be_cancelled(office: Office, board: Board) -> None:
    task = board.submit("test")
    office.complete(office.claim())

    with pytest.raises(Conflict, match="over"):
        board.cancel(task.task_id)


def test_tasks_are_listed_and_counted_by_the_filters_of_the_api(office: Office, board: Board) -> None:
    # Given three tasks of a project, one of them completed
    since = datetime.now(UTC) - timedelta(seconds=1)
    tasks = [board.submit("test", project_id="listed") for _ in range(3)]
    office.complete(office.claim())

    # When they are listed
    page = board.list_tasks(project_id="listed", limit=2, created_after=since)
    rest = board.list_tasks(project_id="listed", limit=2, cursor=page.next_cursor)

    # Then they come newest first, in pages, and can be counted.
    assert [one.task_id for one in [*page.tasks, *rest.tasks]] == [one.task_id for one in reversed(tasks)]
    assert board.count(project_id="listed") == 3
    assert board.count(project_id="listed", status="pending") == 2
    assert board.count(project_id="listed", status=["completed", "failed"]) == 1
    assert board.count(project_id="listed", created_before=since) == 0


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"colour": "red"}, "colour"),
        ({"parent_id": "x"}, "parent_id"),
        ({"tag": "\0"}, "tag"),
        ({"cursor": "?"}, "cursor"),
        ({"limit": 0}, "limit"),
        ({"status": 5}, "status"),
        ({"created_after": "yesterday"}, "created_after"),
        ({"created_before": datetime(2026, 1, 1)}, "created_before"),
        ({"limit": 1_001}, "limit"),
        ({"offset": -1}, "offset"),
    ],
)
def test_a_filter_that_cannot_be_used_is_named(board: Board, filters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        board.list_tasks(**filters)

    assert caught.value.errors[0][0] == field


# --- the functions of the package --------------------------------------------------------------------


def test_the_functions_use_the_board_that_was_entered_last(office: Office, board: Board) -> None:
    task = actors.submit("test", {"n": 1})

    assert actors.status(task.task_id) == board.status(task.task_id)
    assert [one.payload for one in actors.submit_many([{"type": "test", "payload": 5}])] == [5]
    assert actors.count(status="queued") == actors.list_tasks(status="queued").total == 2
    assert actors.cancel(task.task_id).status == "cancelled"
    assert actors.wait(task.task_id).status == "cancelled"
    with pytest.raises(TaskFailed):
        actors.result(task.task_id)
    with pytest.raises(Conflict):
        actors.retry(task.task_id)
    actors.delete(task.task_id)
    assert actors.count(status="cancelled", created_after=task.created_at) == 0


def test_a_board_whose_settings_are_wrong_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_THREADS", "many")

    with pytest.raises(CallboardError, match="CALLBOARD_THREADS"):
        actors.connect()
