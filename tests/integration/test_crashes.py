"""What becomes of the work when processes die and connections break: nothing is lost."""

import json
import time
from uuid import UUID

import psycopg
import pytest
from pika.exceptions import ChannelClosedByBroker

from actors.rabbitmq.messages import encode
from actors.rabbitmq.publisher import new_dispatch
from actors.submission import Order
from tasks.ledger import Ledger, NoOutlet
from tasks.values import Hint
from tests.support.processes import Installation, channel_to
from tests.support.waiting import eventually

ON_RABBITMQ = pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="module")


def work(count: int, seconds: float, name: str = "task") -> list[Order]:
    return [
        Order(task_type="work", payload={"key": f"{name}-{number}", "seconds": seconds})
        for number in range(count)
    ]


def is_started(board: Installation, key: str) -> bool:
    return "start" in board.traces(key)


def deaths(board: Installation, task_id: UUID) -> int:
    return int(board.value("SELECT deaths FROM task_state WHERE id = %s", task_id))


def hint_of(board: Installation, task_id: UUID, queue: str = "default") -> Hint:
    """The hint that was published about a task."""
    dispatch = board.value("SELECT dispatch FROM task_state WHERE id = %s", task_id)
    return Hint(task_id, "work", queue, 5, dispatch)


def publish(board: Installation, *bodies: bytes) -> None:
    """Put messages into the default queue as somebody else would."""
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", "default", body)


def ready_messages(board: Installation, queue: str) -> int:
    """RabbitMQ's count of a queue; 0 if it is not there."""
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).method.message_count)
        except ChannelClosedByBroker:
            return 0


# --- workers that die ----------------------------------------------------------------------------


def test_every_task_completes_although_a_worker_is_killed_in_the_middle(board: Installation) -> None:
    # Given two workers in the middle of 200 tasks
    victim = board.start_worker()
    other = board.start_worker()
    eventually(lambda: victim.says("working on") and other.says("working on"), 20)
    ids = board.submit_all(work(200, 0.08))
    eventually(lambda: len(board.traces_of_process(victim.pid)) > 10)
    # When one of them is killed
    victim.kill()
    killed_at = time.time()
    # Then every task completes, each with one legal history
    board.all_finished(ids)
    moves = {task_id: board.moves(task_id) for task_id in ids}
    assert all(states[-1] == "completed" for states in moves.values())
    assert all(states.count("completed") == 1 for states in moves.values())
    # and what the killed one was running, and nothing else, was taken back soon and ran again at once
    lost = {n for n, task_id in enumerate(ids) if deaths(board, task_id)}
    assert 1 <= len(lost) <= 4
    assert [board.ended_attempts(ids[n])[0]["outcome"] for n in lost] == ["lost"] * len(lost)
    taken_back = board.value(
        "SELECT extract(epoch FROM max(ended_at)) FROM attempts WHERE task_id = ANY(%s)", ids
    )
    assert float(taken_back) - killed_at < 2.0
    ran_again = board.value(
        "SELECT extract(epoch FROM max(started_at)) FROM task_state WHERE id = ANY(%s) AND deaths > 0", ids
    )
    assert float(ran_again) - float(taken_back) < 1.0
    of_others = [line for line in board.traces() if int(line.rpartition("-")[2]) not in lost]
    assert len(set(of_others)) == len(of_others) == 2 * (200 - len(lost))


def test_two_clocks_take_each_task_back_once_and_one_of_them_is_enough(board: Installation) -> None:
    # Given two clocks, of which one is killed together with a worker at work
    other_clock = board.start_clock()
    for victim_of, kill_clock in (("first", False), ("second", True)):
        victim = board.start_worker()
        ids = board.submit_all(work(4, 60, victim_of))
        eventually(lambda one=victim: len(board.traces_of_process(one.pid)) == 4, 20)  # type: ignore[misc]
        if kill_clock:
            other_clock.kill()
        # When the worker is killed
        victim.kill()
        # Then each of its tasks is taken back, once
        eventually(lambda ids=ids: all(board.task(one).status == "queued" for one in ids))  # type: ignore[misc]
        assert [deaths(board, one) for one in ids] == [1] * 4
        assert all(board.moves(one) == ["queued", "running", "queued"] for one in ids)
        for one in ids:
            board.kit.ledger.cancel(one).result(10)


def test_a_stage_that_kills_its_worker_runs_again_and_no_finished_stage_does(board: Installation) -> None:
    victim = board.start_worker()
    board.raise_flag("die_first")
    run_id = board.submit("deadly_numbers", 4)
    eventually(lambda: victim.has_ended, 20)
    board.start_worker()
    run = board.finished(run_id)
    assert (run.status, run.result) == ("completed", 1 + 4 + 9 + 16)
    assert board.traces(run_id).count("die_first") == 2
    assert sorted(board.traces(run_id)) == [
        "die_first",
        "die_first",
        "make_list",
        "square-1",
        "square-3",
        "total",
    ]


def test_an_actor_that_always_kills_its_process_ends_one_worker_and_then_dies_alone(
    board: Installation,
) -> None:
    # Given a task that kills its process on every try, and others behind it
    board.raise_flag("poison")
    poison = board.submit("killer", {"key": "poison"})
    others = board.submit_all(work(20, 0.0, "other"))
    # When a worker was killed by it, and another one comes
    first = board.start_worker()
    eventually(lambda: first.has_ended, 20)
    second = board.start_worker()
    # Then it fails after three deaths in all
    task = board.finished(poison)
    assert task.status == "failed"
    assert task.error == {
        "code": "worker_lost",
        "message": "The process of its own that ran the task was ended by signal 9 (3 of 3).",
    }
    assert board.traces("poison") == ["start"] * 3
    assert [one["outcome"] for one in board.ended_attempts(poison)] == ["lost"] * 3
    assert board.moves(poison) == ["queued", *["running", "queued"] * 2, "running", "failed"]
    # and the second worker does not die of it, nor does what it runs beside it
    board.all_finished(others)
    assert not second.has_ended


# --- workers that are asked to end ---------------------------------------------------------------


def test_a_drained_worker_finishes_what_is_short_and_hands_back_the_rest(board: Installation) -> None:
    # Given a worker with a short task, a long one, and one that notices no interrupt
    drained = board.start_worker(threads=3, queues=["default", "deaf"], DRAIN_SECONDS="3")
    short = board.submit("work", {"key": "short", "seconds": 1.5})
    long = board.submit("work", {"key": "long", "seconds": 60})
    deaf = board.submit("deaf", {"key": "deaf", "seconds": 60}, queue_name="deaf")
    eventually(lambda: all(is_started(board, key) for key in ("short", "long", "deaf")), 20)
    # and others that wait behind them
    waiting = board.submit_all(work(4, 0.0, "waiting"))
    other = board.start_worker(queues=["default"])
    eventually(lambda: other.says("working on"), 20)
    # When it is asked to end, then what it had not started runs elsewhere at once
    drained.terminate()
    board.all_finished(waiting, timeout=2.5)
    # and it finishes what is short, hands back the others, and ends well
    assert drained.exit_code() == 0
    assert (board.task(short).status, board.task(short).attempts) == ("completed", 1)
    eventually(lambda: board.traces("long").count("start") == 2)
    board.has_status(long, "running")
    board.has_status(deaf, "queued")
    assert board.moves(long) == ["queued", "running", "queued", "running"]
    assert board.moves(deaf) == ["queued", "running", "queued"]
    # and no attempt was used up by that
    assert (board.task(long).attempts, board.task(deaf).attempts) == (1, 0)
    for task_id in (long, deaf):
        assert [one["outcome"] for one in board.ended_attempts(task_id)] == ["released"]
        assert deaths(board, task_id) == 0


def test_a_worker_that_lost_its_lease_stops_its_tasks_and_ends(board: Installation) -> None:
    # Given a worker that is at work, and another one
    frozen = board.start_worker()
    task_id = board.submit("work", {"key": "taken", "seconds": 60})
    eventually(lambda: is_started(board, "taken"), 20)
    other = board.start_worker()
    eventually(lambda: other.says("working on"), 20)
    # When the first one is held for dead
    owner = board.value("SELECT worker FROM task_state WHERE id = %s", task_id)
    board.kit.ledger.rescue(owner).result(10)
    # Then it ends, and the task is with the other one
    assert frozen.exit_code() == 1
    holder = "SELECT worker FROM task_state WHERE id = %s AND status = 'running'"
    eventually(lambda: board.value(holder, task_id) not in (None, owner))
    eventually(lambda: board.traces("taken").count("start") >= 2)
    assert "end" not in board.traces("taken")


def test_a_cancel_whose_notice_was_lost_interrupts_all_the_same(board: Installation) -> None:
    board.start_worker(threads=1)
    task_id = board.submit("work", {"key": "unheard", "seconds": 60})
    eventually(lambda: is_started(board, "unheard"), 20)
    with psycopg.connect(board.database_url) as connection:  # as if the notice had got lost
        connection.execute("UPDATE task_state SET status = 'cancelled' WHERE id = %s", (task_id,))
    other = board.submit("work", {"key": "other"})
    assert board.finished(other, 5).status == "completed"
    assert board.traces("unheard") == ["start"]


# --- publishers that die --------------------------------------------------------------


class DiesBeforeItPublishes(NoOutlet):
    def stamp(self) -> int:
        return new_dispatch()

    def room(self, queue: str) -> int:
        return 1


@ON_RABBITMQ
def test_a_batch_whose_publisher_died_before_it_published_is_published_by_others(
    board: Installation,
) -> None:
    # Given a task that was recorded with the stamp of a publisher that then died
    ledger = Ledger(board.database_url).start()
    ledger.publish_through(DiesBeforeItPublishes())
    [order] = work(1, 0)
    ledger.submit(board.kit.submission.prepare(order)).result(10)
    ledger.close()
    # When a clock and a worker come, then it is run
    board.start_worker()
    assert board.finished(order.id).status == "completed"
    assert board.traces("task-0") == ["start", "end"]


# --- messages that are not what they should be ---------------------------------------------------


@ON_RABBITMQ
def test_tasks_whose_messages_were_deleted_are_sent_again(board: Installation) -> None:
    # Given tasks whose messages were deleted together with their queue
    ids = board.submit_all(work(5, 0))
    eventually(lambda: ready_messages(board, "default") == 5)
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        channel.queue_delete("default")
    # When a clock and a worker come, then they are run
    board.start_worker()
    board.all_finished(ids, 25)
    assert all(board.traces(f"task-{n}") == ["start", "end"] for n in range(5))


@ON_RABBITMQ
def test_a_queue_that_is_deleted_under_a_worker_is_declared_again(board: Installation) -> None:
    board.start_worker()
    board.finished(board.submit("work", {"key": "before"}), 20)
    assert board.broker_url is not None
    with channel_to(board.broker_url) as channel:
        channel.queue_delete("default")
        channel.queue_delete("default.XQ")
    ids = board.submit_all(work(20, 0))
    board.all_finished(ids)
    assert all(board.traces(f"task-{n}") == ["start", "end"] for n in range(20))


@ON_RABBITMQ
def test_duplicate_and_stale_messages_are_dropped(board: Installation) -> None:
    # Given several messages about the same dispatch of a task, and some about dispatches that are over
    [task_id] = board.submit_all(work(1, 0.5))
    eventually(lambda: ready_messages(board, "default") == 1)
    hint = hint_of(board, task_id)
    stale = Hint(task_id, "work", "default", 5, new_dispatch())
    unknown = Hint(new_dispatch_id(), "work", "default", 5, new_dispatch())
    publish(board, *[encode(hint)] * 5, encode(stale), encode(unknown))
    # When a worker takes them
    worker = board.start_worker()
    board.finished(task_id, 20)
    publish(board, encode(hint))
    board.finished(board.submit("work", {"key": "afterwards"}))
    # Then the task ran once, and no message is left
    assert board.traces("task-0") == ["start", "end"]
    worker.terminate()
    assert worker.exit_code() == 0
    assert ready_messages(board, "default") == 0
    assert ready_messages(board, "default.XQ") == 0


def new_dispatch_id() -> UUID:
    """The id of no task."""
    return Order(task_type="none").id


@ON_RABBITMQ
def test_messages_that_are_not_ours_go_to_the_dead_letters(board: Installation) -> None:
    # Given a worker
    board.start_worker()
    board.finished(board.submit("work", {"key": "first"}), 20)
    # When messages come that nobody can read, or that only look like ours
    like_ours = json.loads(encode(Hint(new_dispatch_id(), "work", "default", 5, 1)))
    strange = [
        b"\xff\xfe",
        b"not json",
        b"[]",
        b'{"queue_name": "default"}',
        b"[" * 100_000,
        json.dumps(like_ours | {"args": []}).encode(),
        json.dumps(like_ours | {"args": [7]}).encode(),
        json.dumps(like_ours | {"actor_name": ["work"]}).encode(),
        json.dumps(like_ours | {"options": {"dispatch": 1 << 70}}).encode(),
        json.dumps(like_ours | {"options": {"dispatch": float("inf")}}).encode(),
        json.dumps(like_ours | {"options": None}).encode(),
    ]
    publish(board, *strange)
    # Then they are kept apart, and the worker goes on
    foreign = "SELECT count(*) FROM dead_letters WHERE code = 'foreign_message'"
    eventually(lambda: board.value(foreign) == len(strange), 20)
    eventually(lambda: ready_messages(board, "default.XQ") == 0)
    ids = board.submit_all(work(20, 0))
    board.all_finished(ids)


@ON_RABBITMQ
def test_a_message_that_was_moved_from_another_queue_is_run(board: Installation) -> None:
    # Given a worker of one queue alone, and a task of another queue
    board.start_worker(threads=1, queues=["default"])
    board.finished(board.submit("work", {"key": "first"}), 20)
    [order] = work(1, 0)
    ids = board.submit_all([Order(task_type="work", payload=order.payload, queue_name="far")])
    eventually(lambda: ready_messages(board, "far") == 1)
    # When somebody moves its message over, then it is run, and the worker goes on
    publish(board, encode(hint_of(board, ids[0], "far")))
    board.all_finished(ids)
    assert board.finished(board.submit("work", {"key": "second"})).status == "completed"
