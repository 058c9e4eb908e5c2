"""Callbacks with everything that they need: workers that end tasks, and clocks that tell of it."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from actors.deliverer import CallbackBody
from actors.web.signatures import verify
from tasks.callbacks import NewWebhook, WebhookFilter
from tasks.ids import new_id
from tests.support.processes import ACTORS, Installation, Running, installation
from tests.support.waiting import eventually
from tests.support.web import Site, answer, hang, in_turn, site

SECRET = "the secret of this webhook"


@pytest.fixture(scope="module")
def house(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation without a clock, shared by the tests of a module."""
    with installation(postgres_url, broker_url, tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as running:
        running.answers["/"] = answer(200)
        yield running


def start_clock(board: Installation) -> Running:
    """A clock that may call this machine, and does not wait for long."""
    return board.start_clock(ACTORS=f"{ACTORS},tests.support.quick_callbacks", CALLBACK_ALLOW_PRIVATE="1")


@pytest.fixture
def webhook(board: Installation, web: Site) -> Iterator[NewWebhook]:
    made = NewWebhook(
        id=new_id(),
        owner=None,
        url=f"http://{web.address}/",
        secret=SECRET,
        events=("cancelled", "completed", "failed"),
        filter=WebhookFilter(),
        created_by="system",
    )
    assert board.kit.ledger.add_webhook(made).result(10)
    yield made
    assert board.kit.ledger.remove_webhook(made.id).result(10)


def bodies(web: Site) -> list[CallbackBody]:
    return [msgspec.json.decode(one.body, type=CallbackBody) for one in web.posted]


def test_whatever_becomes_of_tasks_and_runs_is_told(
    board: Installation, web: Site, webhook: NewWebhook
) -> None:
    # Given a clock, a worker, and tasks that complete, fail and are cancelled, and a run of a pipeline
    clock = start_clock(board)
    board.start_worker()
    done, run = board.submit("work", {"key": "told"}), board.submit("numbers", 5)
    lost = board.submit("hopeless", {"key": "told"}, max_retries=0)
    dropped = board.submit("work", {"key": "told"}, delay=600.0)
    board.kit.ledger.cancel(dropped).result(10)
    # Then each is told once, as it ended, and no stage is
    eventually(lambda: len(web.posted) >= 4, 20)
    expected = {done: "completed", run: "completed", lost: "failed", dropped: "cancelled"}
    assert {body.task.task_id: body.event for body in bodies(web)} == expected
    for body in bodies(web):
        assert body.task == board.task(body.task.task_id)
        assert body.task.status == body.event
    assert all(verify(SECRET, one.headers["X-Callboard-Signature"], one.body) for one in web.posted)
    assert len({body.delivery_id for body in bodies(web)}) == len(web.posted) == 4
    # and a clock ends without waiting
    board.wait_for_copies()
    clock.terminate()
    assert clock.exit_code(5) == 0


def test_what_a_clock_was_sending_when_it_was_killed_is_sent_by_another(
    board: Installation, web: Site, webhook: NewWebhook
) -> None:
    # Given a clock that waits for the answer of a receiver
    web.answers["/"] = in_turn(hang(web), answer(200))
    clock = start_clock(board)
    task_id = board.submit("work", {"key": "killed"}, delay=600.0)
    board.kit.ledger.cancel(task_id).result(10)
    eventually(lambda: web.posted, 20)
    # When it is killed and another one takes over
    clock.kill()
    other = start_clock(board)
    # Then the same delivery arrives
    eventually(lambda: len(web.posted) == 2, 20)
    first, second = bodies(web)
    assert first == second
    eventually(lambda: _delivered(board, task_id))
    other.kill()


def _delivered(board: Installation, task_id: Any) -> bool:
    found, _ = board.kit.callbacks.deliveries(task_id, owner=None, limit=10, offset=0)
    return [one.status for one in found] == ["delivered"]
