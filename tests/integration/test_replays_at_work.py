"""Replays with real clocks and workers, on the embedded default and on RabbitMQ alike."""

from typing import Any
from uuid import UUID

from actors.submission import Order
from tasks.ledger.replays import OpenReplay
from tasks.letter_records import Letter, LetterFilter, ReplayJob
from tests.support.processes import Installation
from tests.support.waiting import eventually


def letters(board: Installation, **wanted: Any) -> list[Letter]:
    return board.kit.letters.letters(LetterFilter(**wanted), limit=1_000, offset=0).items


def order(task_type: str, payload: Any) -> Order:
    return Order(task_type=task_type, payload=payload)


def open_replay(board: Installation, wanted: LetterFilter, **how: Any) -> UUID:
    job = OpenReplay(letters=(), filter={}, most=1_000, created_by="user:ann", **how)
    return board.kit.ledger.open_replay(board.kit.workbench.select(wanted, job)).result(10)


def job_of(board: Installation, replay_id: UUID) -> ReplayJob:
    job = board.kit.replays.replay(replay_id, owner=None)
    assert job is not None
    return job


def ended(board: Installation, replay_id: UUID) -> ReplayJob:
    """A job, once all of its items have their result and all that was replayed is over."""

    def is_over() -> bool:
        job = job_of(board, replay_id)
        return job.ended_at is not None and job.outcomes.keys() <= {"completed", "failed", "cancelled"}

    eventually(is_over, 30)
    return job_of(board, replay_id)


def test_a_failure_that_a_worker_met_says_where_it_was_raised(board: Installation) -> None:
    board.start_worker()
    for number in range(2):
        board.finished(board.submit("hopeless", {"key": f"hopeless-{number}"}), 20)
    found = letters(board, task_type="hopeless")
    assert len({one.fingerprint for one in found}) == 1
    (cluster,) = board.kit.letters.clusters(LetterFilter(task_type="hopeless"), limit=5, offset=0).items
    assert (cluster.count, cluster.error_class) == (2, "Permanent")
    detail = board.kit.letters.detail(found[0], None)
    assert (detail.payload["key"], "raise Permanent" in (detail.traceback or "")) == ("hopeless-1", True)


def test_two_clocks_of_which_one_is_killed_replay_each_task_once(board: Installation) -> None:
    # Given 60 tasks that failed, and two more clocks that are killed one after the other
    board.start_worker()
    board.raise_flag("moody-many")
    ids = board.submit_all([order("moody", {"key": "moody-many"}) for _ in range(60)])
    board.all_finished(ids)
    (board.folder / "moody-many").unlink()
    clocks = [board.start_clock() for _ in range(2)]
    replay_id = open_replay(board, LetterFilter(task_type="moody"), rate=40.0)
    for clock in clocks:
        seen = job_of(board, replay_id).counts["replayed"]
        eventually(lambda seen=seen: job_of(board, replay_id).counts["replayed"] > seen + 5, 20)
        clock.kill()
    # Then each of them ran once more, and completed
    job = ended(board, replay_id)
    assert (job.counts, job.outcomes) == ({"pending": 0, "replayed": 60, "skipped": 0}, {"completed": 60})
    assert board.traces("moody-many") == ["start"] * 120
    assert {board.task(task_id).attempts for task_id in ids} == {2}


def test_a_stage_is_replayed_with_another_payload_and_its_run_completes(board: Installation) -> None:
    # Given a run whose first stage cannot read its payload
    board.start_worker()
    run = board.submit("numbers", 3)
    board.finished(run, 20)
    assert board.task(run).result == 14
    broken = board.submit("fragile_numbers", 1)
    board.finished(broken, 20)
    (letter,) = letters(board, task_type="fragile_numbers.fragile")
    # When it is replayed with one that it can
    edit = board.kit.workbench.edit(letter, 0)
    assert board.kit.ledger.replay(letter.dead_letter_id, edit, by="user:ann").result(10) == "replayed"
    # Then it runs with that
    assert letter.task_id is not None
    eventually(lambda: f"fragile-0 {broken}" in board.traces(), 20)
    assert board.task(letter.task_id).payload == 0
