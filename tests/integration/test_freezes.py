"""Processes that freeze: their work is taken over, they hear of it when they go on, and no task is blamed."""

from collections.abc import Iterator

import pytest

from actors.submission import Order
from tasks import leases
from tests.support.processes import ACTORS, Installation, installation
from tests.support.short_leases import LEASE_SECONDS
from tests.support.waiting import eventually

SHORT = f"{ACTORS},tests.support.short_leases"


@pytest.fixture(scope="module")
def house(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "HEARTBEAT_SECONDS", 0.2)  # this process has a lease too
        with installation(postgres_url, broker_url, tmp_path_factory.mktemp("house")) as house:
            house.start_clock(ACTORS=SHORT)
            yield house


def work(count: int, seconds: float, name: str) -> list[Order]:
    return [Order(task_type="work", payload={"key": f"{name}-{n}", "seconds": seconds}) for n in range(count)]


def deaths(board: Installation) -> int:
    return int(board.value("SELECT coalesce(sum(deaths), 0) FROM task_state"))


def test_what_a_frozen_worker_was_doing_is_taken_over_and_its_own_outcome_is_refused(
    board: Installation,
) -> None:
    # Given a worker that is frozen in the middle of its tasks
    frozen = board.start_worker(ACTORS=SHORT)
    ids = board.submit_all(work(4, 2 * LEASE_SECONDS, "long"))
    eventually(lambda: len(board.traces_of_process(frozen.pid)) == 4, 20)
    frozen.freeze()
    # When another one has taken over, and the first one goes on
    board.start_worker(ACTORS=SHORT)
    eventually(lambda: len(board.traces()) == 8, 20)
    frozen.thaw()
    # Then it learns that its lease was lost, and ends
    assert frozen.exit_code() == 1
    # and each task has one outcome, of the second attempt, whatever the first one came to, and no death
    board.all_finished(ids)
    for number, task_id in enumerate(ids):
        assert board.moves(task_id) == ["queued", "running", "queued", "running", "completed"]
        assert board.task(task_id).result == {"key": f"long-{number}", "attempt": 2}
    assert deaths(board) == 0


def test_tasks_that_hold_the_gil_for_longer_than_a_lease_quarantine_nobody(board: Installation) -> None:
    # Given workers under a supervisor, which starts one again that lost its lease
    workers = board.start_workers(2, ACTORS=SHORT)
    eventually(lambda: len(workers.children) == 2, 20)
    # When one of their tasks stops all threads of its process, three times over, among others
    holder = board.submit("hold_the_gil", {"key": "holder", "seconds": 2 * LEASE_SECONDS})
    neighbours = board.submit_all(work(20, 0.3, "neighbour"))
    board.all_finished([holder, *neighbours], timeout=60)
    # Then all complete, and nobody has died of it
    assert {board.task(one).status for one in [holder, *neighbours]} == {"completed"}
    assert deaths(board) == 0
    ended = [attempt for one in [holder, *neighbours] for attempt in board.ended_attempts(one)]
    lost = [attempt["error"]["message"] for attempt in ended if attempt["outcome"] == "lost"]
    assert all("stopped answering" in message for message in lost)
