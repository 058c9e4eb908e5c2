"""What becomes of the work when the disk of Postgres is full."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from tests.faults.board import Board, board_on
from tests.faults.conftest import Verdict
from tests.faults.disks import Disk, small_disk
from tests.faults.load import Load, effects
from tests.faults.rabbit import Rabbit
from tests.support.waiting import eventually


@pytest.fixture
def disk() -> Iterator[Disk]:
    with small_disk() as disk:
        yield disk


@pytest.fixture
def board(rabbit: Rabbit, disk: Disk, tmp_path: Path) -> Iterator[Board]:
    """An installation whose Postgres has a small disk."""
    with board_on(disk.postgres.url, rabbit.url, tmp_path) as board:
        yield board
        board.show_logs()
        disk.postgres.heal()


def test_a_full_disk_refuses_submissions_politely_and_heals_as_soon_as_there_is_space(
    board: Board, disk: Disk, chance: random.Random, verdict: Verdict
) -> None:
    # Given a worker in the middle of 200 tasks
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.wait_for_workers(1)
    accepted = list(Load(api.url, effects(0.1), count=200).wait(30))
    board.wait_for_starts(chance.randint(1, 50))
    # When the disk is full
    disk.fill(board.database_url)
    heavy = {"task_type": "effect", "payload": {"weight": chance.randbytes(50_000).hex()}}
    refusals: list[httpx.Response] = []
    slowest = 0.0
    with httpx.Client(base_url=f"{api.url}/api/v1", timeout=30) as http:
        while len(refusals) < 3:
            began = time.monotonic()
            answer = http.post("/tasks", json=heavy)
            slowest = max(slowest, time.monotonic() - began)
            if answer.status_code == 202:  # it still fitted into pages that were there
                accepted.append(UUID(answer.json()["task_id"]))
            else:
                refusals.append(answer)
    # Then submissions are refused with the request to come again, soon
    assert {answer.status_code for answer in refusals} == {503}
    assert {answer.headers["Retry-After"] for answer in refusals} == {"1"}
    assert {answer.json()["code"] for answer in refusals} == {"unavailable"}
    assert slowest < 5.0
    # and when there is space again, all heals by itself
    disk.free(board.database_url)
    disk.postgres.heal()
    freed_at = time.monotonic()
    eventually(lambda: httpx.post(f"{api.url}/api/v1/tasks", json=heavy, timeout=30).status_code == 202, 30)
    healed_after = time.monotonic() - freed_at
    board.all_done()
    report = verdict(accepted, healed_after_s=round(healed_after, 1), slowest_post_s=round(slowest, 1))
    assert report.completed == report.recorded
