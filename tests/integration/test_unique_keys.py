"""Unique keys: of all tasks of an owner with the same key there is one, whoever submits them at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.submission import Defaults, Order, Submission
from pipelines.catalogue import collect
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.queries import Queries
from tasks.values import Accepted, NewTask, Once

PIPELINE = "shouting"


class Office:
    """Two processes that submit on one record."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger, self.other = Ledger(url).start(), Ledger(url).start()
        self.queries = Queries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        catalogue = collect(["tests.support.api"])
        self.submission = Submission(catalogue, self.ledger, self.queries, Defaults())

    def close(self) -> None:
        self.ledger.close()
        self.other.close()
        self.sql.close()

    def submit(self, *tasks: NewTask, once: Once | None = None) -> list[Accepted]:
        asked = [task.id for task in tasks if task.run_id is None]
        return self.ledger.submit(tasks, once=once, asked=asked).result(10)

    def order(self, task_type: str, payload: Any = None, **fields: Any) -> list[Accepted]:
        order = Order(task_type=task_type, payload=payload, **fields)
        return self.submission.record([self.submission.prepare(order)]).result(10)

    def count(self, table: str = "tasks") -> int:
        row = self.sql.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def office(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Office]:
    opened = Office(shared, url)
    opened.sql.execute("TRUNCATE tasks, task_state, events, dependencies, idempotency_keys, queues")
    yield opened
    opened.close()


def a_task(key: str | None = None, **fields: Any) -> NewTask:
    return NewTask(task_type="work", queue_name="default", unique_key=key, **fields)


def test_the_same_key_answers_with_the_task_that_has_it(office: Office) -> None:
    # Given a task with a key
    (first,) = office.submit(a_task("order-7", payload=1))

    # When another one with that key is submitted, also with other contents
    (again,) = office.submit(a_task("order-7", payload=2))

    # Then the answer is the first one, and nothing else was stored
    assert again == first
    assert (office.count("tasks"), office.count("task_state")) == (1, 1)


def test_a_key_counts_for_its_owner_alone(office: Office) -> None:
    accepted = office.submit(a_task("k", user_id="ann"), a_task("k", user_id="bob"), a_task("k"))

    assert len({one.id for one in accepted}) == 3


def test_tasks_without_a_key_are_all_different(office: Office) -> None:
    office.submit(a_task(), a_task())

    assert office.count() == 2


def test_a_key_that_appears_twice_in_one_batch_is_one_task(office: Office) -> None:
    # Given a task that is on record
    (known,) = office.submit(a_task("old"))

    # When a batch repeats its key, and another key within itself
    new, plain = a_task("new"), a_task()
    accepted = office.submit(a_task("old"), new, plain, a_task("new"))

    # Then every place is answered with the task that has its key
    assert [one.id for one in accepted] == [known.id, new.id, plain.id, new.id]
    assert office.count() == 3


def test_fifty_submissions_at_once_from_two_processes_are_one_task(office: Office) -> None:
    with ThreadPoolExecutor(50) as crowd:
        ledgers = [office.ledger, office.other] * 25
        futures = list(crowd.map(lambda ledger: ledger.submit([a_task("stampede")]), ledgers))
    answers = [future.result(10) for future in futures]

    assert len({one.id for (one,) in answers}) == 1
    assert office.count() == 1


def test_two_processes_submit_many_keys_at_once_each_of_them_once(office: Office) -> None:
    # When both submit the same keys, in different orders, alone and in batches
    keys = [f"key-{n}" for n in range(300)]
    futures = []
    for ledger, order in ((office.ledger, keys), (office.other, keys[::-1])):
        futures += [ledger.submit([a_task(key)]) for key in order[:100]]
        futures.append(ledger.submit([a_task(key) for key in order]))
    for future in futures:
        future.result(10)

    assert office.count() == 300


def test_a_key_is_free_again_when_its_task_is_gone(office: Office) -> None:
    (first,) = office.submit(a_task("k"))
    office.sql.execute("DELETE FROM task_state")
    office.sql.execute("DELETE FROM tasks")

    (second,) = office.submit(a_task("k"))

    assert second.id != first.id


def test_a_run_whose_key_exists_stores_no_stages_either(office: Office) -> None:
    run, stage = office.order(PIPELINE, {"words": ["a"]}, unique_key="once")

    again = office.order(PIPELINE, {"words": ["a"]}, unique_key="once")

    assert [one.id for one in again] == [run.id]
    assert office.count() == 2
    state = office.queries.run(run.id)
    assert state is not None
    assert [one.id for one in state.stages] == [stage.id]


def test_what_waits_for_a_repeated_task_waits_for_the_one_that_has_its_key(office: Office) -> None:
    (first,) = office.submit(a_task("k"))
    repeated = a_task("k")

    _, second = office.submit(repeated, a_task(depends_on=(repeated.id, first.id)))

    task = office.queries.task(second.id)
    assert task is not None
    assert (task.status, task.depends_on) == ("blocked", [first.id])


def test_both_kinds_of_keys_go_together(office: Office) -> None:
    once = Once("ann", "POST /tasks", "request-1", "fingerprint")
    (first,) = office.submit(a_task("k"))

    (again,) = office.submit(a_task("k"), once=once)
    (repeated,) = office.submit(a_task("k"), once=once)

    assert again == repeated == first
    assert office.count() == 1


def test_the_same_submission_twice_after_an_unknown_outcome_is_one(office: Office) -> None:
    task = a_task("k")

    assert office.submit(task) == office.submit(task)


def test_a_batch_with_more_keys_than_there_are_locks_is_recorded(office: Office) -> None:
    tasks = [a_task(f"key-{n}") for n in range(10_000)]

    assert len(office.submit(*tasks)) == 10_000
    assert [one.id for one in office.submit(*(a_task(f"key-{n}") for n in range(10_000)))] == [
        task.id for task in tasks
    ]
    assert office.count() == 10_000


def test_a_callback_url_and_a_parent_are_kept_with_the_task(office: Office) -> None:
    parent = new_id()
    (accepted,) = office.submit(a_task(callback_url="https://example.org/hook", parent_id=parent))

    found = office.sql.execute("SELECT callback_url, parent_id FROM tasks WHERE id = %s", (accepted.id,))
    assert found.fetchone() == ("https://example.org/hook", parent)


def test_a_key_whose_task_is_just_being_removed_is_free_after_that(office: Office) -> None:
    # Given a task with a key, which somebody is removing
    (first,) = office.submit(a_task("order-7"))
    with psycopg.connect(office.sql.info.dsn, password=office.sql.info.password) as remover:
        remover.execute("SELECT FROM task_state WHERE id = %s FOR UPDATE", (first.id,))

        # When another one with that key is submitted meanwhile
        new = a_task("order-7")
        submitted = office.ledger.submit([new], asked=[new.id])
        other = a_task("order-8")
        office.ledger.submit([other]).result(10)
        remover.execute("DELETE FROM task_state WHERE id = %s", (first.id,))
        remover.execute("DELETE FROM tasks WHERE id = %s", (first.id,))

    # Then it is recorded as soon as the key is free, and holds up nobody until then
    assert [one.id for one in submitted.result(10)] == [new.id]


def test_who_answers_with_a_task_lets_it_go_on(office: Office) -> None:
    # Given a task that runs, on whose row its worker writes
    (first,) = office.submit(a_task("order-7"))
    with psycopg.connect(office.sql.info.dsn, password=office.sql.info.password) as worker:
        worker.execute("SELECT FROM task_state WHERE id = %s FOR NO KEY UPDATE", (first.id,))

        # Then its key answers with it all the same
        assert office.submit(a_task("order-7")) == [first]
