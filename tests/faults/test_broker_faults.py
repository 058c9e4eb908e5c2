"""What becomes of the work when RabbitMQ dies, stands still, refuses messages or loses queues."""

import random
import time

import httpx
import pytest

from tests.faults.board import Board
from tests.faults.conftest import Verdict
from tests.faults.load import Load, effects
from tests.faults.rabbit import Rabbit
from tests.support.processes import channel_to
from tests.support.waiting import eventually


@pytest.mark.parametrize("queue_type", ["classic", pytest.param("quorum", marks=pytest.mark.slow)])
def test_nothing_is_lost_when_rabbitmq_is_killed_with_work_in_flight(
    board: Board, rabbit: Rabbit, chance: random.Random, verdict: Verdict, queue_type: str
) -> None:
    # Given 300 accepted tasks, most of them on RabbitMQ, and two workers in the middle of them
    api = board.start_api(QUEUE_TYPE=queue_type)
    board.start_clock(QUEUE_TYPE=queue_type)
    board.start_worker(QUEUE_TYPE=queue_type)
    board.start_worker(QUEUE_TYPE=queue_type)
    board.wait_for_workers(2)
    accepted = Load(api.url, effects(0.1), count=300).wait(30)
    board.wait_for_starts(chance.randint(10, 80))
    # When RabbitMQ is killed, stays away for a moment, and comes back
    rabbit.kill()
    time.sleep(chance.uniform(0.0, 3.0))
    rabbit.start()
    back_at = time.monotonic()
    # Then all of it completes, and what runs twice is recorded once
    board.all_done()
    report = verdict(accepted, done_after_s=round(time.monotonic() - back_at, 1))
    assert report.completed == 300
    # and RabbitMQ itself has put nothing aside
    with channel_to(rabbit.url) as channel:
        assert channel.queue_declare("default.XQ", passive=True).method.message_count == 0


@pytest.mark.slow
def test_submissions_are_answered_at_once_while_rabbitmq_has_no_memory_left(
    board: Board, rabbit: Rabbit, verdict: Verdict
) -> None:
    # Given a RabbitMQ that blocks publishers for 30 s
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.wait_for_workers(1)
    rabbit.raise_alarm()
    # When clients submit all that time
    load = Load(api.url, effects(), pause=0.2, clients=3)
    time.sleep(30)
    accepted = load.stop()
    rabbit.clear_alarm()
    # Then every one of them had its 202 within 2 s
    assert len(accepted) >= 200
    assert not load.refused
    assert load.slowest < 2.0
    # and afterwards every task runs, once
    board.all_done()
    report = verdict(accepted, slowest_post_s=round(load.slowest, 3))
    assert report.completed == report.starts == len(accepted)


@pytest.mark.slow
def test_the_api_answers_within_two_seconds_while_rabbitmq_stands_still(
    board: Board, rabbit: Rabbit, verdict: Verdict
) -> None:
    # Given work that waits on RabbitMQ, and clients that go on submitting
    api = board.start_api()
    board.start_clock()
    board.start_worker(threads=2)
    board.wait_for_workers(1)
    waiting = Load(api.url, effects(0.2), count=200).wait(30)
    # When RabbitMQ stands still for 20 s
    rabbit.freeze()
    frozen_at = time.monotonic()
    load = Load(api.url, effects(), pause=0.2, clients=2)
    slowest = cancelled = 0.0
    with httpx.Client(base_url=f"{api.url}/api/v1", timeout=30) as http:
        while time.monotonic() - frozen_at < 20:
            task_id = waiting[-1 - int(cancelled)]
            began = time.monotonic()
            assert http.get(f"/tasks/{task_id}").status_code == 200
            assert http.post(f"/tasks/{task_id}/cancel").status_code == 202
            slowest = max(slowest, time.monotonic() - began)
            cancelled += 1
            time.sleep(0.5)
    accepted = load.stop()
    rabbit.thaw()
    # Then all that time tasks were accepted, shown and cancelled within 2 s
    assert not load.refused
    assert max(slowest, load.slowest) <= 2.0
    # and afterwards all runs that was not cancelled
    board.all_done()
    report = verdict(
        waiting + accepted, slowest_post_s=round(load.slowest, 3), slowest_other_s=round(slowest, 3)
    )
    assert report.cancelled == cancelled
    assert report.completed == len(waiting) + len(accepted) - cancelled


def test_nothing_is_lost_when_queues_are_deleted_under_load(
    board: Board, rabbit: Rabbit, chance: random.Random, verdict: Verdict
) -> None:
    # Given two workers in the middle of 300 tasks, while more are submitted
    api = board.start_api()
    board.start_clock()
    board.start_worker(threads=2)
    board.start_worker(threads=2)
    board.wait_for_workers(2)
    load = Load(api.url, effects(0.02), count=300, clients=2, pause=0.01)
    # When their queue is deleted, three times, together with all of its messages
    for _ in range(3):
        time.sleep(chance.uniform(0.1, 0.8))
        with channel_to(rabbit.url) as channel:
            channel.queue_delete("default")
    accepted = load.wait(30)
    # Then all of it completes
    board.all_done()
    assert verdict(accepted).completed == 300


def test_failing_tasks_are_retried_or_fail_although_rabbitmq_refuses_their_messages(
    board: Board, rabbit: Rabbit, verdict: Verdict
) -> None:
    # Given 40 tasks that fail once and 10 that fail for good, all of them in the window on RabbitMQ
    api = board.start_api()
    board.start_clock()
    again = Load(api.url, effects(0.05, failures=1), count=40).wait(30)
    never = Load(api.url, effects(0.05, hopeless=True), count=10).wait(30)
    with channel_to(rabbit.url) as channel:
        eventually(lambda: channel.queue_declare("default", passive=True).method.message_count == 50)
    # When RabbitMQ refuses everything that is published while they fail
    rabbit.refuse_publishes()
    board.start_worker(threads=8)
    failed = "SELECT count(*) FROM attempts"
    eventually(lambda: board.ask(failed) == 50, 30)
    rabbit.allow_publishes()
    # Then the ones are tried again and complete, and the others fail
    board.all_done()
    report = verdict(again + never)
    assert (report.completed, report.failed) == (40, 10)
    # and each of those is a dead letter, of which RabbitMQ has a copy
    buried = "SELECT array_agg(task_id) FROM dead_letters WHERE code = 'hopeless'"
    assert sorted(board.ask(buried)) == sorted(never)
    eventually(lambda: board.ask("SELECT count(*) FROM dead_letters WHERE copied_at IS NULL") == 0, 30)
    with channel_to(rabbit.url) as channel:
        eventually(lambda: channel.queue_declare("default.XQ", passive=True).method.message_count == 10)


@pytest.mark.slow
def test_a_task_that_runs_for_longer_than_rabbitmq_lets_consumers_wait_is_recorded_once(
    board: Board, rabbit: Rabbit, verdict: Verdict
) -> None:
    # Given a RabbitMQ that closes the channel of whoever does not acknowledge within 10 s
    rabbit.limit_consumers(10)
    api = board.start_api()
    board.start_clock()
    board.start_worker()
    board.start_worker()
    board.wait_for_workers(2)
    # When four tasks take 30 s, and others pass beside them
    long = Load(api.url, effects(30.0), count=4).wait(30)
    load = Load(api.url, effects(0.1), count=200, clients=2, pause=0.15)
    short = load.wait(60)
    # Then RabbitMQ closed channels, and each task ran once all the same
    board.all_done()
    assert board.any_log_says("PRECONDITION_FAILED")
    report = verdict(long + short)
    assert report.completed == report.starts == 204
