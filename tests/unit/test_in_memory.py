"""A board in memory: users' actors and pipelines run on the thread of their test, without a server."""

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from actors import (
    NotFinished,
    Permanent,
    RetryAfter,
    TaskFailed,
    actor,
    cancel,
    count,
    current_task,
    list_tasks,
    register,
    result,
    status,
    submit,
    wait,
)
from actors.context import Cancelled, CurrentTask, Resources
from actors.testing import MemoryBoard, in_memory
from pipelines import Done, Pipeline, stage
from tasks.errors import InvalidField

HOUR = 3_600.0


class Greeting(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Shelf:
    """What a process keeps for its actors."""

    def __init__(self) -> None:
        self.books: list[str] = []


@actor(queue="mail")
def greet(greeting: Greeting) -> str:
    current_task().progress(50, "half a greeting")
    return f"hello {greeting.name}"


@actor
def flaky(failures: int) -> int:
    """Fail so many times."""
    if current_task().attempt <= failures:
        raise RuntimeError("not yet")
    return current_task().attempt


@actor
def hopeless() -> None:
    raise Permanent("no such page", code="fetch_refused")


@actor
def patient() -> int:
    if current_task().attempt == 1:
        raise RetryAfter(HOUR)
    return current_task().attempt


@actor(isolated=True)
def climber(steps: int) -> list[int]:
    """Fall at every step, and go on from there."""
    done: list[int] = current_task().state or []
    current_task().checkpoint([*done, current_task().attempt])
    if len(done) + 1 < steps:
        raise RuntimeError("fell")
    return [*done, current_task().attempt]


@actor
def parent(names: list[str]) -> list[str]:
    """Have others greeted, and collect what they said."""
    tasks = [submit(greet, Greeting(name)) for name in names]
    return [f"{current_task().attempt}: {wait(task.task_id).result}" for task in tasks]


@actor
def suicidal() -> None:
    cancel(current_task().id)
    current_task().progress(50)


@actor(timeout=0.05)
def endless() -> None:
    threading.Event().wait(5)


@actor
def shelve(book: str) -> None:
    current_task().use(Shelf).books.append(book)


@actor
def unkeepable() -> object:
    return object()


class Assets:
    type = "sync_assets"

    def execute(self, task: CurrentTask) -> None:
        task.result = {"total_count": len(task.payload["regions"])}


register(Assets())


@stage
def split(text: str) -> list[str] | Done:
    return text.split() or Done(0)


@stage(retries=1)
def measure(word: str) -> int:
    if word == "bad":
        raise RuntimeError("a bad word")
    return len(word)


@stage
def add(lengths: list[int]) -> int:
    return sum(lengths)


@stage
def no_list(payload: Any) -> Any:
    return payload


LENGTHS = Pipeline("lengths", split | measure.map() | add)
BROKEN = Pipeline("broken", no_list | measure.map())


@pytest.fixture
def board() -> Iterator[MemoryBoard]:
    with in_memory(sys.modules[__name__]) as board:
        yield board


def test_a_task_runs_when_the_board_is_run(board: MemoryBoard) -> None:
    # Given a task
    task = submit("greet", {"name": "ann"})
    assert (task.status, task.queue_name) == ("queued", "mail")

    # When the board is run
    attempts = board.run()

    # Then it is done, as it would be by a worker.
    assert (attempts, result(task.task_id)) == (1, "hello ann")
    assert [event.status for event in board.history(task.task_id)] == [
        "queued",
        *["running"] * 2,
        "completed",
    ]


def test_a_payload_that_does_not_fit_is_refused_as_it_is_by_the_api(board: MemoryBoard) -> None:
    with pytest.raises(InvalidField, match=r"payload\.name"):
        submit(greet, {"name": 7})
    with pytest.raises(InvalidField, match="task_type") as caught:
        submit("unheard_of")

    assert caught.value.code == "unknown_task_type"
    assert count() == 0


def test_retries_do_not_wait_but_the_record_says_they_did(board: MemoryBoard) -> None:
    task = submit(flaky, 2)

    assert wait(task.task_id).result == 3

    done = status(task.task_id)
    assert done.completed_at is not None
    assert done.completed_at - done.created_at > timedelta(seconds=5)  # 1 + 4 seconds of backoff


def test_a_task_that_fails_too_often_fails(board: MemoryBoard) -> None:
    task = wait(submit(flaky, 9, max_retries=2).task_id)

    assert (task.status, task.attempts) == ("failed", 3)
    with pytest.raises(TaskFailed, match="RuntimeError: not yet"):
        result(task.task_id)


def test_what_an_actor_raises_on_purpose_counts(board: MemoryBoard) -> None:
    refused, late = submit(hopeless), submit(patient)
    board.run()

    assert (status(refused.task_id).error or {})["code"] == "fetch_refused"
    assert result(late.task_id) == 2


def test_a_checkpoint_is_there_in_the_next_attempt(board: MemoryBoard) -> None:
    assert wait(submit(climber, 3).task_id).result == [1, 2, 3]


def test_delayed_tasks_run_when_their_time_has_come(board: MemoryBoard) -> None:
    # Given tasks for later
    soon = submit(greet, {"name": "ann"}, delay=HOUR)
    later = submit(greet, {"name": "bob"}, run_at=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(NotFinished, match="is scheduled and nothing is ready"):
        wait(soon.task_id)

    # When time passes
    board.clock.advance(HOUR)
    board.run()

    # Then the first one has run, and the other waits.
    assert [status(one.task_id).status for one in (soon, later)] == ["completed", "scheduled"]


def test_dependents_run_after_what_they_need_and_fail_with_it(board: MemoryBoard) -> None:
    good, bad = submit(greet, {"name": "ann"}), submit(hopeless)
    after_good = submit(greet, {"name": "bob"}, depends_on=[good.task_id])
    after_bad = submit(greet, {"name": "cid"}, depends_on=[bad.task_id])

    board.run()

    assert status(after_good.task_id).status == "completed"
    assert (status(after_bad.task_id).error or {})["code"] == "dependency_failed"


def test_an_actor_may_submit_and_wait(board: MemoryBoard) -> None:
    task = wait(submit(parent, ["ann", "bob"]).task_id)

    assert task.result == ["1: hello ann", "1: hello bob"]


def test_a_report_counts_the_tasks_of_whoever_asks_for_it(board: MemoryBoard) -> None:
    # Given tasks of two users, some of them long ago
    submit(greet, {"name": "ann"}, user_id="ann")
    submit(hopeless, user_id="ann")
    submit(greet, {"name": "bob"}, user_id="bob")
    board.run()

    # When a report is asked for by one of them, and by nobody in particular
    hers = wait(submit("report_generation", {"report_type": "hourly"}, user_id="ann").task_id).result
    all_of_them = wait(submit("report_generation").task_id).result

    # Then each counts what its user may see.
    assert (hers["total"], hers["by_status"]["completed"], hers["by_status"]["failed"]) == (3, 1, 1)
    assert (all_of_them["report_type"], all_of_them["total"]) == ("daily", 5)
    assert (hers["completed"], hers["failed"], hers["success_rate"]) == (1, 1, 50.0)
    assert set(hers["by_type"]) == {"greet", "hopeless", "report_generation"}
    assert set(hers["by_queue"]) == {"default", "mail"}


def test_an_executor_is_known_by_its_module(board: MemoryBoard) -> None:
    task = submit("sync_assets", {"regions": ["cn-shenzhen", "cn-beijing"]})

    assert wait(task.task_id).result == {"total_count": 2}


def test_a_cancelled_task_is_interrupted(board: MemoryBoard) -> None:
    waiting, running = submit(greet, {"name": "ann"}, delay=HOUR), submit(suicidal)

    cancel(waiting.task_id)
    board.run()

    assert [status(one.task_id).status for one in (waiting, running)] == ["cancelled", "cancelled"]


def test_a_timeout_is_kept_to(board: MemoryBoard) -> None:
    @actor(name="stubborn", timeout=0.05)
    def stubborn() -> None:
        try:
            while True:
                threading.Event().wait(0.01)
        except Cancelled:
            raise AssertionError from None

    with in_memory(stubborn):
        task = wait(submit(stubborn, max_retries=0).task_id)

    assert (task.status, (task.error or {})["code"]) == ("failed", "timeout")


def test_what_cannot_be_kept_fails(board: MemoryBoard) -> None:
    task = wait(submit(unkeepable).task_id)

    assert (task.error or {})["code"] == "result_not_serialisable"


def test_resources_are_what_the_test_gives() -> None:
    shelf = Shelf()

    with in_memory(shelve, resources=Resources({Shelf: lambda: shelf})) as board:
        board.submit(shelve, "Emma")
        board.run()

    assert shelf.books == ["Emma"]


def test_a_pipeline_runs_to_its_end(board: MemoryBoard) -> None:
    # Given a run
    run = submit(LENGTHS, "a bc def")

    # When the board is run
    board.run()

    # Then all its stages are done, and its history tells of them.
    done = status(run.task_id)
    assert (done.status, done.result, done.progress) == ("completed", 6, 100.0)
    stages = list_tasks(run_id=run.task_id).tasks
    assert sorted(one.task_type for one in stages) == [
        "lengths.add",
        *["lengths.measure"] * 3,
        "lengths.split",
    ]


def test_a_stage_may_end_a_run_early_and_an_empty_map_goes_on(board: MemoryBoard) -> None:
    run = submit("lengths", "")

    assert wait(run.task_id).result == 0


def test_a_failing_stage_fails_its_run_after_its_retries(board: MemoryBoard) -> None:
    run = wait(submit(LENGTHS, "a bad word").task_id)

    assert run.status == "failed"
    assert (run.error or {})["stage"] == "measure"
    bad = next(one for one in list_tasks(run_id=run.task_id).tasks if one.status == "failed")
    assert bad.attempts == 2


def test_a_run_that_cannot_go_on_fails_as_it_does_in_a_worker(board: MemoryBoard) -> None:
    run = wait(submit(BROKEN, {"not": "a list"}).task_id)

    assert run.status == "failed"


def test_boards_in_memory_know_nothing_of_each_other(board: MemoryBoard) -> None:
    outer = submit(greet, {"name": "ann"})

    with in_memory("actors.builtin"):
        assert count() == 0
        with pytest.raises(InvalidField):
            submit("greet", {"name": "ann"})
        assert wait(submit("test", 1).task_id).result == 1

    assert status(outer.task_id) == outer


# --- handing out --------------------------------------------------------------------------------------


def test_a_stage_hands_out_what_it_yields() -> None:
    @stage
    def letters(word: str) -> Iterator[str]:
        yield from word

    @stage
    def shout(letter: str) -> str:
        return letter.upper()

    @stage
    def spell(letters: list[str]) -> str:
        return "-".join(letters)

    with in_memory(Pipeline("spelling", letters | shout.map() | spell)) as board:
        task = submit("spelling", "tea")
        board.run()
        assert result(task.task_id) == "T-E-A"


def test_an_actor_that_yields_gives_the_list_of_it() -> None:
    @actor
    def countdown(start: int) -> Iterator[int]:
        yield from range(start, 0, -1)

    with in_memory(countdown) as board:
        task = submit("countdown", 3)
        board.run()
        assert result(task.task_id) == [3, 2, 1]
