"""How many worker processes of how many threads a command runs, and for which queues."""

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from api.cli import main
from api.cli.processes import share_out, workers_of
from pipelines.worker import QUEUES_VARIABLE
from tasks.settings import Settings


def test_a_worker_command_starts_the_processes_and_threads_that_it_names_for_its_queues() -> None:
    children = workers_of(Settings(), 3, 4, ("mail", "embed"))

    assert [child.name for child in children] == ["worker-1", "worker-2", "worker-3"]
    for child in children:
        assert child.environ["CALLBOARD_THREADS"] == "4"
        assert child.environ[QUEUES_VARIABLE] == "mail,embed"


def test_what_is_not_named_comes_from_the_settings() -> None:
    children = workers_of(Settings(processes=2, threads=5), None, None, ())

    assert [child.environ["CALLBOARD_THREADS"] for child in children] == ["5", "5"]


def test_no_more_threads_are_started_than_tasks_may_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    children = workers_of(Settings(max_concurrent=50), 8, 8, ())

    assert [child.environ["CALLBOARD_THREADS"] for child in children] == ["6"] * 8
    assert "raise CALLBOARD_MAX_CONCURRENT for more" in capsys.readouterr().err


@given(st.integers(1, 1_000), st.integers(1, 256), st.integers(1, 1_000))
def test_a_share_is_never_more_than_the_limit_nor_than_was_asked_for(
    most: int, processes: int, threads: int
) -> None:
    shared = share_out(most, processes, threads)

    assert 1 <= shared[0] <= processes
    assert 1 <= shared[1] <= threads
    assert shared[0] * shared[1] <= most
    if processes * threads <= most:
        assert shared == (processes, threads)


def test_a_name_that_no_queue_can_have_is_refused() -> None:
    done = CliRunner().invoke(main, ["worker", "--queues", "mail,two words"])

    assert done.exit_code == 1
    assert "--queues" in done.output
