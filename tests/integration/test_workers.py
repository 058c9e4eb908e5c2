"""What workers do with tasks: the same on both brokers."""

from collections.abc import Iterator

import pytest

from actors.submission import Order
from tests.support.processes import Installation, installation
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def board(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A clock and two workers of four threads, shared by the tests of this module."""
    with installation(postgres_url, broker_url, tmp_path_factory.mktemp("board")) as board:
        board.start_clock()
        board.start_worker()
        board.start_worker()
        yield board


@pytest.fixture(autouse=True)
def _logs(board: Installation) -> Iterator[None]:
    yield
    board.show_logs()


# --- running -------------------------------------------------------------------------------------


def test_a_task_is_run_and_recorded_with_its_result(board: Installation) -> None:
    task_id = board.submit("work", {"key": "plain"})
    task = board.finished(task_id)
    assert task.status == "completed"
    assert task.result == {"key": "plain", "attempt": 1}
    assert (task.progress, task.attempts, task.error) == (100, 1, None)
    assert board.traces("plain") == ["start", "end"]
    assert board.moves(task_id) == ["queued", "running", "completed"]


def test_a_delayed_task_does_not_start_before_its_time(board: Installation) -> None:
    task_id = board.submit("work", {"key": "delayed"}, delay=1.0)
    assert board.task(task_id).status == "scheduled"
    task = board.finished(task_id)
    assert task.started_at is not None
    assert 1.0 <= (task.started_at - task.created_at).total_seconds() < 3.0
    assert board.moves(task_id) == ["scheduled", "queued", "running", "completed"]


def test_a_queue_that_a_task_names_first_is_served_without_a_restart(board: Installation) -> None:
    task_id = board.submit("work", {"key": "elsewhere"}, queue_name="brand-new")
    assert board.finished(task_id).status == "completed"


def test_what_an_actor_reports_and_logs_can_be_read(board: Installation) -> None:
    task_id = board.submit("talkative", {"key": "said-aloud", "seconds": 0.5})
    eventually(lambda: board.task(task_id).phase == "half way")
    assert board.task(task_id).progress == 50
    board.finished(task_id)
    assert "progress" in [event.kind for event in board.kit.queries.history(task_id)]
    assert board.any_log_says("a line about said-aloud")


def test_many_tasks_are_each_run_once(board: Installation) -> None:
    keys = [f"many-{number}" for number in range(300)]
    ids = board.submit_all([Order(task_type="work", payload={"key": key}) for key in keys])
    board.all_finished(ids)
    done = [line for line in board.traces() if " many-" in line]
    assert sorted(done) == sorted(f"{word} {key}" for word in ("start", "end") for key in keys)
    assert all(board.moves(task_id) == ["queued", "running", "completed"] for task_id in ids[::50])


# --- failing -------------------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again_after_its_backoff(board: Installation) -> None:
    backoff = {"kind": "fixed", "base": 0.5}
    task_id = board.submit("flaky", {"key": "twice", "failures": 2}, backoff=backoff)
    task = board.finished(task_id)
    assert (task.status, task.result, task.attempts, task.error) == ("completed", "at last", 3, None)
    assert board.moves(task_id) == [
        "queued",
        *("running", "retrying", "queued"),
        *("running", "retrying", "queued"),
        *("running", "completed"),
    ]
    last_failure = "SELECT max(ended_at) FROM attempts WHERE task_id = %s"
    assert task.started_at is not None
    assert (task.started_at - board.value(last_failure, task_id)).total_seconds() >= 0.5


def test_a_task_that_always_fails_is_tried_as_often_as_it_may_be(board: Installation) -> None:
    task_id = board.submit("flaky", {"key": "always", "failures": 99}, max_retries=2)
    task = board.finished(task_id)
    assert task.status == "failed"
    assert task.error == {"code": "actor_error", "message": "RuntimeError: failure 3"}
    assert board.traces("always") == ["start"] * 3
    attempts = board.ended_attempts(task_id)
    assert [one["outcome"] for one in attempts] == ["error"] * 3
    assert 'raise RuntimeError(f"failure' in attempts[-1]["traceback"]
    assert board.moves(task_id)[-2:] == ["running", "failed"]


def test_a_permanent_error_fails_at_once_with_its_own_code(board: Installation) -> None:
    task = board.finished(board.submit("hopeless", {"key": "hopeless"}))
    assert task.status == "failed"
    assert task.error == {"code": "page_missing", "message": "there is no such page"}
    assert board.traces("hopeless") == ["start"]


def test_an_actor_may_say_when_it_wants_to_be_tried_again(board: Installation) -> None:
    task_id = board.submit("later", {"key": "later", "seconds": 0.3})
    task = board.finished(task_id)
    assert (task.status, task.result) == ("completed", "on the second try")
    assert "retrying" in board.moves(task_id)


def test_a_task_that_runs_for_too_long_is_interrupted(board: Installation) -> None:
    task_id = board.submit("work", {"key": "slow", "seconds": 60}, timeout=0.3, max_retries=0)
    task = board.finished(task_id)
    assert task.status == "failed"
    assert task.error is not None
    assert task.error["code"] == "timeout"
    assert board.traces("slow") == ["start"]


@pytest.mark.parametrize("endless", [0, 1])
def test_a_result_that_json_cannot_hold_fails_without_another_try(board: Installation, endless: int) -> None:
    task = board.finished(board.submit("unserialisable", {"key": f"object-{endless}", "seconds": endless}))
    assert task.status == "failed"
    assert task.error is not None
    assert task.error["code"] == "result_not_serialisable"
    assert board.traces(f"object-{endless}") == ["start"]


# --- cancelling ----------------------------------------------------------------------------------


def test_running_tasks_are_interrupted_by_a_cancel_and_their_threads_go_on(board: Installation) -> None:
    # Given twice as many long tasks as there are threads
    long = [Order(task_type="work", payload={"key": f"long-{n}", "seconds": 60}) for n in range(16)]
    ids = board.submit_all(long)
    eventually(lambda: sum(board.task(task_id).status == "running" for task_id in ids) >= 4)
    # When all of them are cancelled
    answers = [board.kit.ledger.cancel(task_id) for task_id in ids]
    assert [answer.result(10) for answer in answers] == ["cancelled"] * 16
    # Then the threads are free for others within seconds
    others = [Order(task_type="work", payload={"key": f"other-{n}", "seconds": 0.1}) for n in range(16)]
    board.all_finished(board.submit_all(others), timeout=10)
    # and the cancelled ones stay cancelled, and never came to their ends
    assert {board.task(task_id).status for task_id in ids} == {"cancelled"}
    assert not [line for line in board.traces() if line.startswith("end long-")]
    assert all(board.moves(task_id)[-1] == "cancelled" for task_id in ids)


def test_a_finished_task_cannot_be_cancelled(board: Installation) -> None:
    task_id = board.submit("work", {"key": "too-late"})
    board.finished(task_id)
    assert board.kit.ledger.cancel(task_id).result(10) == "finished"
    assert board.task(task_id).status == "completed"


# --- pipelines -----------------------------------------------------------------------------------


def test_a_pipeline_completes_and_each_of_its_stages_runs_once(board: Installation) -> None:
    run_id = board.submit("numbers", 5)
    run = board.finished(run_id)
    assert (run.status, run.result, run.progress) == ("completed", 1 + 4 + 9 + 16 + 25, 100)
    assert sorted(board.traces(run_id)) == ["make_list", "square-1", "square-3", "square-5", "total"]
    assert board.stages(run_id) == [
        ("make_list", 0, "completed"),
        ("square", 0, "completed"),
        ("square", 1, "completed"),
        ("square", 2, "completed"),
        ("total", 0, "completed"),
    ]
    assert board.moves(run_id) == ["queued", "running", "completed"]


def test_many_runs_at_once_all_join_once(board: Installation) -> None:
    runs = board.submit_all([Order(task_type="numbers", payload=9) for _ in range(20)])
    board.all_finished(runs)
    assert {board.task(run_id).result for run_id in runs} == {285}
    assert all(len(board.traces(run_id)) == 1 + 5 + 1 for run_id in runs)


def test_a_map_over_nothing_goes_on_with_an_empty_list(board: Installation) -> None:
    run_id = board.submit("numbers", 0)
    assert board.finished(run_id).result == 0
    assert board.traces(run_id) == ["make_list", "total"]


def test_a_stage_that_knows_the_result_ends_its_run_early(board: Installation) -> None:
    run_id = board.submit("guessed", 7)
    run = board.finished(run_id)
    assert (run.status, run.result) == ("completed", {"known": 7})
    assert board.traces(run_id) == ["guess"]


def test_a_failing_stage_fails_its_run_and_cancels_its_siblings(board: Installation) -> None:
    run_id = board.submit("fragile_numbers", 3)
    run = board.finished(run_id)
    assert run.status == "failed"
    assert run.error == {
        "code": "actor_error",
        "message": "RuntimeError: one of the items is broken",
        "stage": "fragile",
    }
    eventually(lambda: [status for _, _, status in board.stages(run_id)].count("cancelled") == 2)
    assert ("fragile", 0, "failed") in board.stages(run_id)
    assert "add_up" not in board.traces(run_id)


def test_cancelling_a_run_cancels_its_stages(board: Installation) -> None:
    run_id = board.submit("lingering", 1)
    eventually(lambda: board.traces(run_id))
    assert board.kit.ledger.cancel(run_id).result(10) == "cancelled"
    assert board.task(run_id).status == "cancelled"
    assert board.stages(run_id) == [("linger", 0, "cancelled")]
    eventually(lambda: everybody_is_idle(board))


def everybody_is_idle(board: Installation) -> bool:
    """Whether a task goes through at once on every thread of both workers."""
    keys = [Order(task_type="work", payload={"key": "idle", "seconds": 0.1}) for _ in range(8)]
    board.all_finished(board.submit_all(keys), timeout=5)
    return True
