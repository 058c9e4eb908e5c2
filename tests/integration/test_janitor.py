"""The janitor of dead letters on RabbitMQ: what is settled leaves ``.XQ``, what is not ours is recorded."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, cast
from uuid import UUID, uuid4

import pika
import psycopg
import pytest
from dramatiq import Message
from playhouse.pool import PooledPostgresqlDatabase

from actors.rabbitmq import janitor, topology, walk
from actors.rabbitmq.foreign import kept
from actors.rabbitmq.janitor import Janitor
from actors.rabbitmq.messages import letters_for
from actors.rabbitmq.topology import declarations
from actors.submission import Order
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.strays import Keep, ReplayForeign
from tasks.locks import PostgresLocks
from tasks.strays import StrayQueries
from tasks.values import DeadLetter, NewTask, TaskError
from tests.support.processes import channel_to, installation
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …", "RuntimeError")
A_WEEK = 7 * 86_400.0


class Dying:
    """A ledger whose process dies at one of the first verbs."""

    def __init__(self, ledger: Ledger, chance: Random) -> None:
        self._ledger = ledger
        self._left = chance.randint(0, 3)
        self._after_commit = chance.random() < 0.5

    def __getattr__(self, name: str) -> Any:
        def verb(*given: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after_commit:
                raise OSError("it was killed")
            answer = getattr(self._ledger, name)(*given)
            if self._left < 0:
                answer.result(10)
                raise OSError("it was killed")
            return answer

        return verb


class House:
    """A record, a queue on RabbitMQ with its dead letters, and a janitor that is told when to look."""

    def __init__(
        self, database: PooledPostgresqlDatabase, url: str, node: RabbitNode, queue_type: str
    ) -> None:
        self.url, self.node, self.queue_type = url, node, queue_type
        self.queue = f"queue-{uuid4().hex[:8]}"
        self.dead = f"{self.queue}.XQ"
        self.ledger = Ledger(url).start()
        self.queries = StrayQueries(database)
        self.locks = PostgresLocks(url)
        self.sql = psycopg.connect(url, autocommit=True)
        self.connection = pika.BlockingConnection(pika.URLParameters(node.url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        for name, arguments in declarations(self.queue, queue_type):
            self.channel.queue_declare(name, durable=True, arguments=arguments)
        self.sql.execute("INSERT INTO queues (name) VALUES (%s)", (self.queue,))
        self.janitor = self.new_janitor()
        self.sent: list[UUID] = []
        self.lost: set[UUID] = set()

    def new_janitor(self, locks: PostgresLocks | None = None) -> Janitor:
        urls = topology.parameters([self.node.url])
        return Janitor(urls, self.queue_type, self.ledger, self.queries, locks or self.locks)

    def close(self) -> None:
        self.janitor.close()
        self.locks.close()
        for name in (self.queue, self.dead):
            self.channel.queue_delete(name)
        self.connection.close()
        self.sql.execute("DELETE FROM queues")
        self.sql.close()
        self.ledger.close()

    # --- dead letters ----------------------------------------------------------------------------

    def fail(self, count: int) -> list[UUID]:
        """The tasks of so many new dead letters."""
        tasks = [NewTask(task_type="work", queue_name=self.queue) for _ in range(count)]
        self.ledger.submit(tasks).result(30)
        claims = self.ledger.fetch([self.queue], ["work"], count).result(30)
        for answer in [self.ledger.fail(claim, OOPS, retry_in=None) for claim in claims]:
            assert answer.result(30)
        return [task.id for task in tasks]

    def send_copies(self, *, noted: bool = True) -> list[UUID]:
        """Publish the copies that are owed, as the dispatcher does: the letters in their order."""
        rows = self.sql.execute(
            "SELECT id, task_id FROM dead_letters WHERE queue_name = %s AND copied_at IS NULL"
            " ORDER BY failed_at, id",
            (self.queue,),
        ).fetchall()
        for letter, task_id in rows:
            self.send_copy(letter, task_id)
            self.sent.append(letter)
        if noted:
            self.sql.execute(
                "UPDATE dead_letters SET copied_at = now() WHERE id = ANY(%s)", ([row[0] for row in rows],)
            )
        return [row[0] for row in rows]

    def open_letters(self) -> list[UUID]:
        sql = (
            "SELECT id FROM dead_letters WHERE queue_name = %s AND task_id IS NOT NULL AND resolution IS NULL"
        )
        return [row[0] for row in self.sql.execute(sql, (self.queue,))]

    def lose_a_copy(self) -> None:
        """Take the first message away, if it is a copy."""
        method, properties, _ = self.channel.basic_get(self.dead)
        if method is None:
            return
        letter = (properties.headers or {}).get("dead_letter")
        if letter is None:
            self.channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            self.channel.basic_ack(method.delivery_tag)
            self.lost.add(UUID(letter))

    def die_in_a_walk(self, chance: Random) -> None:
        """Let another janitor look that dies at one of its first writes, before or after its commit."""
        dying = self.new_janitor()
        dying._ledger = cast(Ledger, Dying(self.ledger, chance))
        with suppress(OSError):
            dying.step()
        dying.close()
        wait(dying._promised, 10)

    def send_copy(self, letter: UUID, task_id: UUID) -> None:
        dead = DeadLetter(letter, task_id, "work", self.queue, 1, "actor_error", "oops", None, 1)
        [made] = letters_for([dead])
        self.channel.basic_publish("", self.dead, made.body, made.properties)

    def in_dead_letters(self) -> list[tuple[Any, bytes]]:
        """What lies there, in order; it goes back."""
        with channel_to(self.node.url) as channel:
            found = []
            while True:
                method, properties, body = channel.basic_get(self.dead)
                if method is None:
                    return found
                found.append((properties, body))

    def copies(self) -> list[UUID]:
        """The letters of the copies that lie there, in order."""
        return [UUID(properties.headers["dead_letter"]) for properties, _ in self.in_dead_letters()]

    def to_remove(self) -> int:
        return self.queries.shelves(A_WEEK)[self.queue].resolved

    # --- messages that are not ours --------------------------------------------------------------

    def throw_in(self, body: bytes, **properties: Any) -> None:
        self.channel.basic_publish("", self.dead, body, pika.BasicProperties(**properties))

    def foreign(self) -> list[UUID]:
        sql = "SELECT id FROM dead_letters WHERE queue_name = %s AND task_id IS NULL ORDER BY failed_at, id"
        return [row[0] for row in self.sql.execute(sql, (self.queue,))]

    def column(self, letter: UUID, name: str, table: str = "dead_letters", key: str = "id") -> Any:
        row = self.sql.execute(f"SELECT {name} FROM {table} WHERE {key} = %s", (letter,)).fetchone()
        assert row is not None
        return row[0]

    def in_queue(self) -> list[tuple[Any, bytes]]:
        """What lies in the queue itself; it is taken."""
        found = []
        while True:
            method, properties, body = self.channel.basic_get(self.queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, body))


@pytest.fixture(autouse=True)
def without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "REST", 0.0)


@pytest.fixture(params=["classic", "quorum"])
def queue_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def house(
    shared: PooledPostgresqlDatabase, url: str, rabbit_node: RabbitNode, queue_type: str
) -> Iterator[House]:
    made = House(shared, url, rabbit_node, queue_type)
    yield made
    made.close()


# --- copies --------------------------------------------------------------------------------------


def test_the_copies_of_resolved_letters_leave_and_the_open_ones_stay_in_order(house: House) -> None:
    # Given six dead letters with their copies
    tasks = house.fail(6)
    letters = house.send_copies()
    of_task = {house.column(letter, "task_id"): letter for letter in letters}
    # When one is replayed, one retried, one recovered or deleted with its task, and one discarded
    assert house.ledger.replay(of_task[tasks[0]]).result(10) == "replayed"
    assert house.ledger.retry(tasks[2]).result(10) == "retried"
    assert house.ledger.delete(tasks[3]).result(10) == "deleted"
    assert house.ledger.discard(of_task[tasks[4]], by="system").result(10) == "discarded"
    house.janitor.step()
    # Then their copies are gone, and those of the others are where they were
    left = [letter for letter in letters if letter in (of_task[tasks[1]], of_task[tasks[5]])]
    assert house.copies() == left
    assert house.to_remove() == 0
    # and once all is in order nobody looks into the queue any more
    house.janitor.step()
    house.janitor.step()
    assert house.copies() == left


def test_a_copy_that_is_missing_is_no_error(house: House) -> None:
    house.fail(3)
    letters = house.send_copies()
    house.channel.queue_purge(house.dead)
    house.ledger.discard(letters[0], by="system").result(10)
    house.janitor.step()
    assert house.to_remove() == 0
    # and what comes after that is noticed although the counts never agree again
    house.throw_in(b"late")
    house.janitor.step()
    assert len(house.foreign()) == 1


def test_a_copy_that_was_sent_when_its_letter_was_resolved_already_leaves_too(house: House) -> None:
    # Given a letter that is resolved while its copy is on its way
    (task_id,) = house.fail(1)
    (letter,) = house.send_copies(noted=False)
    house.ledger.retry(task_id).result(10)
    house.janitor.step()
    assert house.copies() == []
    house.ledger.cancel(task_id).result(10)
    # and one whose confirmation comes after that
    (other,) = house.fail(1)
    house.sql.execute("UPDATE dead_letters SET dispatch = 7 WHERE task_id = %s", (other,))
    house.ledger.retry(other).result(10)
    late = house.sql.execute("SELECT id FROM dead_letters WHERE task_id = %s", (other,)).fetchone()
    assert late is not None
    house.send_copy(late[0], other)
    house.ledger.close_dispatch(7).result(10)
    house.janitor.step()
    assert house.copies() == []
    assert house.to_remove() == 0
    assert letter != late[0]


def test_a_letter_has_one_copy_however_often_it_was_sent(house: House) -> None:
    (task_id,) = house.fail(1)
    (letter,) = house.send_copies()
    house.send_copy(letter, task_id)
    house.janitor.step()
    assert house.copies() == [letter]
    assert house.column(letter, "resolution") is None


def test_a_janitor_that_dies_in_the_middle_loses_nothing(house: House) -> None:
    # Given a janitor that has taken all and acknowledged one, when its connection breaks
    house.fail(4)
    letters = house.send_copies()
    with channel_to(house.node.url) as dying:
        house.ledger.discard(letters[1], by="system").result(10)
        for _ in letters:
            method, properties, _ = dying.basic_get(house.dead)
            if properties.headers["dead_letter"] == str(letters[1]):
                dying.basic_ack(method.delivery_tag)
    # When the next one comes
    house.janitor.step()
    # Then the others are there, and the record knows that the one is gone
    assert house.copies() == [letters[0], *letters[2:]]
    assert house.to_remove() == 0


def test_one_janitor_at_a_time_works_at_a_queue(house: House) -> None:
    (task_id,) = house.fail(1)
    (letter,) = house.send_copies()
    house.ledger.retry(task_id).result(10)
    # Given a lock that another process holds
    others = PostgresLocks(house.url)
    hold = others.try_hold(f"callboard janitor {house.queue}")
    assert hold is not None
    house.janitor.step()
    assert house.copies() == [letter]
    # When it is free
    hold.release()
    others.close()
    house.janitor.step()
    assert house.copies() == []


def test_a_queue_of_dead_letters_that_is_not_there_does_not_stop_the_others(house: House) -> None:
    house.fail(1)
    (letter,) = house.send_copies()
    # Given a queue that is nowhere
    absent = f"absent-{uuid4().hex[:8]}"
    house.sql.execute("INSERT INTO queues (name) VALUES (%s)", (absent,))
    house.ledger.discard(letter, by="system").result(10)
    # and one that RabbitMQ refuses, because somebody made it in another way
    refused = f"refused-{uuid4().hex[:8]}"
    house.channel.queue_declare(refused, durable=False)
    house.sql.execute("INSERT INTO queues (name) VALUES (%s)", (refused,))
    house.janitor.step()
    house.janitor.step()
    assert house.copies() == []
    for name in (absent, refused):
        house.channel.queue_delete(name)
        house.channel.queue_delete(f"{name}.XQ")


@pytest.mark.parametrize("queue_type", ["classic"])
def test_a_thousand_copies_leave_in_one_walk(house: House) -> None:
    measure(house, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_ten_thousand_copies_leave_in_one_walk(house: House, record_property: Any) -> None:
    record_property("figures", f"10,000 copies, 9,000 leave: {measure(house, 10_000):.1f} s")


def measure(house: House, count: int) -> float:
    """Let nine of ten copies leave: the seconds it took."""
    letters = []
    for _ in range(count // 1_000):
        house.fail(1_000)
        letters += house.send_copies()
    gone = [letter for number, letter in enumerate(letters) if number % 10]
    house.sql.execute("UPDATE dead_letters SET resolution = 'discarded' WHERE id = ANY(%s)", (gone,))
    began = time.monotonic()
    house.janitor.step()
    seconds = time.monotonic() - began
    assert house.copies() == letters[::10]
    assert house.to_remove() == 0
    return seconds


@pytest.mark.parametrize("number", range(3))
def test_whatever_happens_in_the_end_the_open_copies_are_there_and_nothing_else(
    house: House, number: int
) -> None:
    # Given a hundred things that happen, among them janitors that die in the middle
    chance = Random(number)
    strange = 0
    for _ in range(100):
        open_ones = house.open_letters()
        match chance.choice(["fail", "copy", "resolve", "delete", "throw", "step", "step", "die", "lose"]):
            case "fail":
                house.fail(chance.randint(1, 3))
            case "copy":
                house.send_copies()
            case "resolve" if open_ones:
                house.ledger.discard(chance.choice(open_ones), by="system").result(10)
            case "delete" if open_ones:
                house.ledger.delete(house.column(chance.choice(open_ones), "task_id")).result(10)
            case "throw":
                strange += 1
                house.throw_in(chance.choice([b"alike", b"other"]))
            case "step":
                house.janitor.step()
            case "die":
                house.die_in_a_walk(chance)
            case "lose":  # a copy that another tool takes
                house.lose_a_copy()
    # When nothing happens any more
    house.send_copies()
    house.janitor.close()
    house.janitor = house.new_janitor()
    house.janitor.step()
    # Then there are the copies of open letters that nobody took, in their order, and the record agrees
    open_ones = set(house.open_letters()) - house.lost
    assert house.copies() == [letter for letter in house.sent if letter in open_ones]
    assert house.to_remove() == 0
    # and every message of others is on record, once
    assert len(house.foreign()) == strange


# --- messages that are not ours ------------------------------------------------------------------


def test_messages_that_are_not_ours_become_dead_letters_without_a_task(house: House) -> None:
    # Given a letter of ours between messages of others
    house.throw_in(b"\xff\xfe not json \x00", content_type="text/plain", headers={"x": 1, "nul": "a\0b"})
    house.fail(1)
    (ours,) = house.send_copies()
    call: Message[Any] = Message(house.queue, "send_mail", ({"to": "ann"},), {}, {}, message_id="m-1")
    house.throw_in(call.encode(), priority=3)
    house.throw_in(b"{}", headers={"dead_letter": str(uuid4())})
    # When the janitor has looked
    house.janitor.step()
    # Then they are on record with all they had, and ours alone is left
    assert house.copies() == [ours]
    letters = house.foreign()
    messages = [house.queries.foreign_message(letter) for letter in letters]
    bodies = {message.body: message for message in messages if message is not None}
    assert bodies.keys() == {b"\xff\xfe not json \x00", call.encode(), b"{}"}
    assert bodies[call.encode()].task_type == "send_mail"
    assert bodies[b"{}"].task_type == ""
    plain = bodies[b"\xff\xfe not json \x00"].properties
    assert plain == {"content_type": "text/plain", "headers": {"x": 1, "nul": "a�b"}}
    columns = "ARRAY[error_class, code, queue_name, resolution]"
    assert house.column(letters[0], columns) == ["ForeignMessage", "foreign_message", house.queue, None]
    assert house.to_remove() == 0


def test_why_a_message_was_rejected_is_told(house: House) -> None:
    house.channel.basic_publish("", house.queue, b"nonsense", pika.BasicProperties(headers={"a": [1, b"2"]}))
    with channel_to(house.node.url) as channel:
        method, _, _ = channel.basic_get(house.queue)
        channel.basic_nack(method.delivery_tag, requeue=False)
    for _ in range(50):
        house.janitor.step()
        if house.foreign():
            break
        time.sleep(0.1)
    (letter,) = house.foreign()
    message = house.column(letter, "message")
    assert message == f"It is no message of Callboard: rejected in {house.queue}."


def test_a_message_that_cannot_be_recorded_stays_and_keeps_no_other_from_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.throw_in(b"first")
    house.throw_in(b"beyond words")
    house.throw_in(b"third")

    def kept_or_not(queue: str, properties: Any, body: bytes) -> Keep:
        if body == b"beyond words":
            raise ValueError("no words for it")
        return kept(queue, properties, body)

    monkeypatch.setattr(walk, "kept", kept_or_not)
    house.janitor.step()
    assert len(house.foreign()) == 2
    assert [body for _, body in house.in_dead_letters()] == [b"beyond words"]
    # and nobody looks again until there is something else
    monkeypatch.undo()
    house.janitor.step()
    assert len(house.foreign()) == 2
    house.throw_in(b"another")
    house.janitor.step()
    assert len(house.foreign()) == 4


def test_equal_messages_are_two_and_one_that_was_recorded_before_a_crash_is_one(house: House) -> None:
    # Given two messages that are alike
    house.throw_in(b"alike")
    house.throw_in(b"alike")
    house.janitor.step()
    assert len(house.foreign()) == 2
    # and two more, of which a janitor records both and dies before it acknowledges the second
    house.throw_in(b"alike")
    house.throw_in(b"alike")
    with channel_to(house.node.url) as dying:
        taken = [dying.basic_get(house.dead) for _ in range(2)]
        for _, properties, body in taken:
            house.ledger.keep_foreign(kept(house.queue, properties, body)).result(10)
        dying.basic_ack(taken[0][0].delivery_tag)
    # When the next one comes
    house.janitor.step()
    # Then there is no third, and nothing is left
    assert len(house.foreign()) == 4
    assert house.copies() == []
    assert house.to_remove() == 0


def test_a_hint_in_the_dead_letters_is_no_letter(house: House) -> None:
    # Given the message about a task that is on record, which somebody moved
    task = NewTask(task_type="work", queue_name=house.queue)
    house.ledger.submit([task]).result(10)
    body = {"queue_name": house.queue, "actor_name": "work", "args": [str(task.id)], "kwargs": {}}
    body |= {"options": {"dispatch": 5}, "message_id": str(task.id), "message_timestamp": 1}
    house.throw_in(json.dumps(body).encode())
    # and one that names a deleted task beside it
    types: dict[str, object] = {"options": {"dispatch": 5, "types": ["work", "work"]}}
    house.throw_in(json.dumps(body | types | {"args": [str(new_id()), str(task.id)]}).encode())
    # and one that only looks like it
    house.throw_in(json.dumps(body | {"args": [str(new_id())]}).encode())
    house.janitor.step()
    assert len(house.foreign()) == 1
    assert house.copies() == []


def test_a_message_that_is_not_ours_goes_back_to_its_queue_as_it_was_and_once(house: House) -> None:
    # Given two of them
    headers = {"x": 1, "CC": ["elsewhere"], "nested": {"deep": [True, None, "ü"]}}
    house.throw_in(b"raw \x00", headers=headers, correlation_id="c", user_id="guest", type="t")
    house.janitor.step()
    (letter,) = house.foreign()
    # When twenty ask at once that it be replayed
    answers = [house.ledger.replay_foreign(ReplayForeign(letter, "system")) for _ in range(20)]
    outcomes = [answer.result(10) for answer in answers]
    house.janitor.step()
    house.janitor.step()
    # Then it is in its queue once, with what it had
    assert sorted(set(outcomes)) == ["replayed", "resolved"]
    assert outcomes.count("replayed") == 1
    ((properties, body),) = house.in_queue()
    assert body == b"raw \x00"
    assert (properties.correlation_id, properties.type) == ("c", "t")
    properties.headers.pop("x-delivery-count", None)
    assert properties.headers == {"x": 1, "nested": {"deep": [True, None, "ü"]}}
    assert house.column(letter, "resolution") == "replayed"


def test_a_repeated_replay_is_one(house: House) -> None:
    house.throw_in(b"x")
    house.janitor.step()
    (letter,) = house.foreign()
    item = ReplayForeign(letter, "system", (NewTask(task_type="work", queue_name=house.queue),))
    assert house.ledger.replay_foreign(item).result(10) == "replayed"
    assert house.ledger.replay_foreign(item).result(10) == "replayed"
    count = house.sql.execute("SELECT count(*) FROM tasks WHERE queue_name = %s", (house.queue,)).fetchone()
    assert count == (1,)
    assert house.column(letter, "replayed_as", "foreign_messages", "dead_letter") == item.tasks[0].id
    house.janitor.step()
    assert house.in_queue() == []


def test_what_is_discarded_or_old_goes(house: House) -> None:
    house.throw_in(b"x")
    house.throw_in(b"y")
    house.janitor.step()
    first, second = house.foreign()
    assert house.ledger.discard(first, by="system").result(10) == "discarded"
    assert house.ledger.discard(first, by="system").result(10) == "resolved"
    assert house.ledger.discard(new_id(), by="system").result(10) == "missing"
    assert house.ledger.replay_foreign(ReplayForeign(first, "system")).result(10) == "resolved"
    # What is old goes with its message, but not while that is owed to its queue
    house.throw_in(b"z")
    house.janitor.step()
    third = house.foreign()[-1]
    assert house.ledger.replay_foreign(ReplayForeign(third, "system")).result(10) == "replayed"
    house.sql.execute(
        "UPDATE dead_letters SET failed_at = now() - interval '8 days' WHERE id = ANY(%s)", ([second, third],)
    )
    assert house.ledger.expire_letters(A_WEEK).result(10) == 1
    assert house.foreign() == [third, first]
    assert house.queries.foreign_message(second) is None
    house.janitor.step()
    assert house.ledger.expire_letters(A_WEEK).result(10) == 1
    assert house.foreign() == [first]


def test_a_janitor_works_until_it_is_told_to_stop(house: House) -> None:
    house.fail(1)
    (letter,) = house.send_copies()
    house.ledger.discard(letter, by="system").result(10)
    stop = threading.Event()
    thread = threading.Thread(target=house.janitor.run, args=(stop,), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while house.to_remove() and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert house.copies() == []


# --- in real clocks ------------------------------------------------------------------------------


@pytest.mark.slow
def test_clocks_that_are_killed_while_they_clear_up_lose_and_double_nothing(
    postgres_url: str, rabbit_node: RabbitNode, tmp_path: Path
) -> None:
    with (
        installation(postgres_url, rabbit_node.url, tmp_path) as board,
        channel_to(rabbit_node.url) as channel,
    ):
        # Given 600 copies, of which two thirds are resolved, and messages of others behind them
        worker, clock = board.start_worker(), board.start_clock()
        orders = [Order(task_type="hopeless", payload={"key": "hopeless"}) for _ in range(600)]
        ids = board.submit_all(orders)
        board.all_finished(ids, 60)
        owed = "SELECT count(*) FROM dead_letters WHERE copied_at IS NULL OR dispatch IS NOT NULL"
        eventually(lambda: board.value(owed) == 0, 30)
        for process in (worker, clock):
            process.kill()
        others = [f"message {number}".encode() for number in range(60)]
        for body in others:
            channel.basic_publish("", "default.XQ", body)
        resolved = "UPDATE dead_letters SET resolution = 'discarded' WHERE task_id = ANY(%s) RETURNING 1"
        assert len(board.rows(resolved, ids[200:])) == 400
        # When clocks come, two at a time, and are killed as soon as they began
        chance = Random(1)
        on_record = "SELECT body FROM foreign_messages"
        for _ in range(5):
            clocks = [board.start_clock() for _ in range(2)]
            for clock in clocks:
                eventually(lambda clock=clock: clock.says("publishing"), 20)
            time.sleep(chance.uniform(0.0, 1.5))
            for clock in clocks:
                clock.kill()
        board.start_clock()
        # Then in the end the open copies are there, and each message of others is on record once
        eventually(lambda: board.value("SELECT count(*) FROM foreign_messages") == 60, 30)
        eventually(lambda: channel.queue_declare("default.XQ", passive=True).method.message_count == 200, 30)
        assert sorted(bytes(body) for (body,) in board.rows(on_record)) == sorted(others)
        copies = [channel.basic_get("default.XQ")[1] for _ in range(200)]
        assert {UUID(properties.message_id) for properties in copies} == set(ids[:200])
