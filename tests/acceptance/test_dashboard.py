"""Dramatiq's dashboard at ``/dramatiq``: what it shows, what its buttons do, and what it is guarded against.

The same pages stand on RabbitMQ and on the embedded default.
"""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from falcon.testing import Result, TestClient

from actors.submission import Order
from api import caller
from api.caller import Caller
from pipelines.bootstrap import Kit, open_kit
from tasks.ids import new_id
from tasks.settings import Settings
from tasks.values import NewTask, TaskError
from tests.support.api import api_on
from tests.support.processes import channel_to
from tests.support.servers import RabbitNode, free_port
from tests.support.waiting import eventually

OOPS = TaskError("actor_error", "RuntimeError: oops <b>bold</b>", "Traceback …", "RuntimeError")
ROW = re.compile(r'<a href="/dramatiq/queues/([^"/]+)">.*?</a>(.*?)</tr>', re.DOTALL)
CELL = re.compile(r'<td class="table__number [^"]*">\s*(\S+)\s*</td>')
TOKEN = re.compile(r'name="__dd_csrf" value="([^"]*)"')
ANSWERED = re.compile(r"__dd_csrf=([0-9a-f]{64}); HttpOnly; Path=/dramatiq; SameSite=Strict")


class Page:
    """A browser of few words: it keeps the dashboard's cookie and presses its buttons."""

    def __init__(self, client: TestClient, kit: Kit) -> None:
        self.client, self.kit = client, kit
        self.cookie = ""

    def get(self, path: str = "") -> Result:
        answer = self.client.simulate_get(f"/dramatiq{path}", headers=self._headers())
        self._remember(answer)
        return answer

    def press(self, button: str, queue: str, job: object, **other: str) -> Result:
        """Press a button of a page that was loaded."""
        form = {"__dd_csrf": self.cookie, "queue": queue, "id": str(job)} | other
        body = "&".join(f"{name}={value}" for name, value in form.items())
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self._headers()}
        return self.client.simulate_post(f"/dramatiq/{button}", body=body, headers=headers)

    def counts(self) -> dict[str, tuple[str, ...]]:
        """Ready, delayed and failed jobs by queue, as the page says."""
        text = self.get().text
        return {name: tuple(CELL.findall(cells)) for name, cells in ROW.findall(text)}

    def _headers(self) -> dict[str, str]:
        return {"Cookie": f"__dd_csrf={self.cookie}"} if self.cookie else {}

    def _remember(self, answer: Result) -> None:
        found = ANSWERED.search(answer.headers.get("set-cookie", ""))
        if found is not None:
            self.cookie = found[1]

    # --- jobs ------------------------------------------------------------------------------------

    def fail(self, payload: Any = None) -> tuple[UUID, UUID]:
        """A job that failed for good: its task and its dead letter."""
        task = NewTask(task_type="benchmark", queue_name="default", payload=payload or {})
        self.kit.ledger.submit([task]).result(10)
        (claim,) = self.kit.ledger.fetch(["default"], ["benchmark"], 1).result(10)
        assert self.kit.ledger.fail(claim, OOPS, retry_in=None).result(10)
        with psycopg.connect(self.kit.database_url) as connection:
            row = connection.execute("SELECT id FROM dead_letters WHERE task_id = %s", (task.id,)).fetchone()
        assert row is not None
        return task.id, row[0]

    def submit(self, **order: Any) -> UUID:
        prepared = self.kit.submission.prepare(Order(task_type="benchmark", **order))
        self.kit.submission.record([prepared]).result(10)
        return prepared[0].id

    def status(self, task_id: UUID) -> str:
        task = self.kit.queries.task(task_id)
        assert task is not None
        return task.status


@pytest.fixture
def page(kit: Kit) -> Iterator[Page]:
    with api_on(kit) as client:
        yield Page(client, kit)


# --- what it shows -------------------------------------------------------------------------------


def test_the_first_page_counts_what_is_ready_delayed_and_failed(page: Page) -> None:
    page.fail()
    page.submit()
    page.submit()
    page.submit(delay=3_600)
    assert page.counts()["default"] == ("2", "1", "1")
    answer = page.get()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_nothing_on_its_pages_comes_from_elsewhere(page: Page) -> None:
    _, letter = page.fail()
    for path in ("", "/queues/default", "/queues/default/failed", f"/queues/default/failed/{letter}"):
        text = page.get(path).text
        assert not re.search(r"https?://|<script|<link|<img|url\(|@import", text), path


def test_the_tabs_list_the_jobs_and_each_has_a_page(page: Page) -> None:
    task_id, letter = page.fail({"key": "failed"})
    ready = page.submit(payload={"key": "ready"})
    delayed = page.submit(payload={"key": "delayed"}, delay=3_600)
    for tab, job, key in (
        ("standard", ready, "ready"),
        ("delayed", delayed, "delayed"),
        ("failed", letter, "failed"),
    ):
        text = page.get(f"/queues/default/{tab}").text
        assert f"/dramatiq/queues/default/{tab}/{job}" in text
        one = page.get(f"/queues/default/{tab}/{job}").text
        assert f"{{&#39;key&#39;: &#39;{key}&#39;}}" in one
    assert str(task_id) in one
    assert "actor_error: RuntimeError: oops &lt;b&gt;bold" in one


def test_the_page_of_a_failed_job_has_a_button_to_requeue_it(page: Page) -> None:
    _, letter = page.fail()
    delayed = page.submit(delay=60)
    failed = page.get(f"/queues/default/failed/{letter}").text
    waiting = page.get(f"/queues/default/delayed/{delayed}").text
    assert [">Requeue<" in text for text in (failed, waiting)] == [True, False]
    assert [">Delete<" in text for text in (failed, waiting)] == [True, True]
    assert failed.count(f'name="id" value="{letter}"') == 2


def test_a_payload_with_a_script_is_shown_inert(page: Page) -> None:
    evil = {"x": "</pre><script>alert(1)</script>", "<img src=x onerror=alert(2)>": "'\""}
    _, letter = page.fail(evil)
    page.submit(payload=evil, delay=60)
    for path in ("/queues/default/failed", f"/queues/default/failed/{letter}", "/queues/default/delayed"):
        text = page.get(path).text
        assert "alert(1)" in text
        assert "<script" not in text
        assert "<img" not in text


def test_a_large_payload_makes_no_large_list(page: Page) -> None:
    for _ in range(3):
        page.fail({"text": "x" * 100_000})
    assert len(page.get("/queues/default/failed").text) < 30_000


def test_many_jobs_come_in_pages(page: Page) -> None:
    for _ in range(101):
        page.submit(delay=60)
    first = page.get("/queues/default/delayed").text
    assert "/dramatiq/queues/default/delayed?cursor=100" in first
    second = page.client.simulate_get("/dramatiq/queues/default/delayed", params={"cursor": 100}).text
    assert second.count('class="table__actions"') == 1
    assert "Next page" not in second


# --- what its buttons do -------------------------------------------------------------------------


def test_a_failed_job_is_requeued_once(page: Page) -> None:
    task_id, letter = page.fail()
    page.get("/queues/default/failed")
    answer = page.press("requeue-message", "default.XQ", letter)
    assert (answer.status_code, answer.headers["location"]) == (302, "/dramatiq/queues/default/failed")
    # The page shows it at once
    assert page.counts()["default"] == ("1", "0", "0")
    assert str(letter) not in page.get("/queues/default/failed").text
    assert page.status(task_id) == "queued"
    # and who is late is told so
    assert page.press("requeue-message", "default.XQ", letter).status_code == 410
    assert len(page.kit.ledger.fetch(["default"], ["benchmark"], 5).result(10)) == 1


def test_a_failed_job_that_is_deleted_is_discarded(page: Page) -> None:
    task_id, letter = page.fail()
    page.get("/queues/default")
    assert page.press("delete-message", "default.XQ", letter).status_code == 302
    assert page.counts()["default"] == ("0", "0", "0")
    assert page.status(task_id) == "failed"
    with psycopg.connect(page.kit.database_url) as connection:
        resolved = connection.execute("SELECT resolution, resolver FROM dead_letters").fetchall()
    assert resolved == [("discarded", "user:anonymous")]


@pytest.mark.parametrize(("order", "queue"), [({}, "default"), ({"delay": 60}, "default.DQ")])
def test_a_job_that_waits_and_is_deleted_is_cancelled(page: Page, order: dict[str, Any], queue: str) -> None:
    task_id = page.submit(**order)
    page.get("/queues/default")
    assert page.press("delete-message", queue, task_id).status_code == 302
    assert page.status(task_id) == "cancelled"
    # What is gone needs no second deletion
    assert page.press("delete-message", queue, task_id).status_code == 302


def test_a_job_whose_task_was_cancelled_meanwhile_says_why_it_is_not_run(page: Page) -> None:
    task_id, letter = page.fail()
    with psycopg.connect(page.kit.database_url) as connection:
        connection.execute("UPDATE task_state SET status = 'completed' WHERE id = %s", (task_id,))
    page.get("/queues/default")
    answer = page.press("requeue-message", "default.XQ", letter)
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")


# --- what it is guarded against ------------------------------------------------------------------


@pytest.mark.parametrize(
    "evil",
    [
        '"><script>alert(1)</script>',
        "xyzzy",
        "0" * 63,
        "0" * 65,
        "A" * 64,
        '"' + "0" * 64 + '"><b>"',
    ],
)
def test_a_cookie_that_is_no_token_of_ours_is_not_echoed(page: Page, evil: str) -> None:
    _, letter = page.fail()
    page.cookie = evil
    answer = page.client.simulate_get(
        f"/dramatiq/queues/default/failed/{letter}", headers={"Cookie": f"a=b; __dd_csrf={evil}; c=d"}
    )
    assert evil not in answer.text
    assert "<script" not in answer.text
    assert re.fullmatch(r"[0-9a-f]{64}", TOKEN.findall(answer.text)[0])
    # and nothing can be done with it
    assert page.press("delete-message", "default.XQ", letter).status_code == 403


def test_two_cookies_or_one_of_a_name_alike_are_none(page: Page) -> None:
    mine, other = "a" * 64, "b" * 64
    for cookies in (f"__dd_csrf={mine}; __dd_csrf={other}", f"x__dd_csrf={mine}"):
        answer = page.client.simulate_get("/dramatiq/queues/default", headers={"Cookie": cookies})
        assert mine not in answer.headers["set-cookie"]


def test_a_form_without_the_token_of_the_page_does_nothing(page: Page) -> None:
    task_id, letter = page.fail()
    assert page.press("requeue-message", "default.XQ", letter).status_code == 403
    page.get("/queues/default/failed")
    answer = page.press("requeue-message", "default.XQ", letter, __dd_csrf="0" * 64)
    assert answer.status_code == 403
    assert page.status(task_id) == "failed"


def test_a_token_that_is_answered_is_the_one_that_was_brought(page: Page) -> None:
    page.submit()
    page.get("/queues/default")
    token = page.cookie
    text = page.get("/queues/default").text
    assert page.cookie == token
    assert set(TOKEN.findall(text)) == {token}


def test_only_administrators_see_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    _, letter = page.fail()
    page.get("/queues/default/failed")
    monkeypatch.setattr(caller, "caller_of", lambda req: Caller("ann"))
    assert page.get().status_code == 403
    assert page.get("/queues/default/failed").status_code == 403
    assert page.press("requeue-message", "default.XQ", letter).status_code == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/queues/nothing", 404),
        ("/queues/nothing/failed", 404),
        ("/queues/%00", 404),
        ("/queues/%F0%9F%98%80", 404),
        ("/queues/default/failed/none", 302),
        ("/queues/default/nowhere", 404),
        ("/elsewhere", 404),
        ("/delete-message", 405),
        ("/requeue-message", 405),
        ("/queues/default?cursor=x", 422),
        ("/queues/default?cursor=-1", 422),
        ("/queues/default?cursor=9999999999", 422),
        ("/queues/default?cursor=999999999", 200),
        ("/queues/default?cursor=", 422),
        ("/", 200),
        ("/queues/default/", 200),
    ],
)
def test_a_wrong_address_is_no_server_error(page: Page, path: str, status: int) -> None:
    page.submit()
    address, _, query = path.partition("?")
    answer = page.client.simulate_get(f"/dramatiq{address}", query_string=query)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 403),
        (b"\xff\xfe=1", 403),
        (b"__dd_csrf={}", 422),
        (b"__dd_csrf={}&queue=default.XQ", 422),
        (b"__dd_csrf={}&queue=default.XQ&id=", 422),
        (b"__dd_csrf={}&queue=a%0d%0ab&id=1", 422),
        (b"__dd_csrf={}&queue=default.XQ&id=none", 410),
        (b"__dd_csrf={}&queue=nothing.XQ&id=none", 410),
        (b"__dd_csrf={}&queue=default&id=none", 410),
        (b"x" * 20_000, 413),
    ],
)
def test_a_wrong_form_is_no_server_error(page: Page, body: bytes, status: int) -> None:
    page.submit()
    page.get("/queues/default")
    filled = body.replace(b"{}", page.cookie.encode())
    headers = {"Cookie": f"__dd_csrf={page.cookie}", "Content-Type": "application/x-www-form-urlencoded"}
    answer = page.client.simulate_post("/dramatiq/requeue-message", body=filled, headers=headers)
    assert answer.status_code == status


def test_other_methods_and_other_addresses_are_not_the_dashboards(page: Page) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        answer = page.client.simulate_request(method, "/dramatiq")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert page.client.simulate_get("/dramatiqs").status_code == 404
    assert page.client.simulate_post(f"/dramatiq/{new_id()}").status_code == 403


# --- on RabbitMQ ---------------------------------------------------------------------------------


@pytest.fixture
def on_rabbitmq(settings: Settings, rabbit_node: RabbitNode) -> Iterator[Page]:
    """The pages of an API process that knows a RabbitMQ; nobody else is at work."""
    kit = open_kit(msgspec.structs.replace(settings, broker_urls=(rabbit_node.url,)))
    try:
        with api_on(kit) as client:
            yield Page(client, kit)
    finally:
        kit.close()


def test_the_counts_of_queues_and_dead_letters_are_rabbitmqs_own(
    on_rabbitmq: Page, rabbit_node: RabbitNode
) -> None:
    # Given messages that the record knows nothing of, in a queue that it knows
    queue = f"queue-{new_id().hex[-8:]}"
    on_rabbitmq.submit(queue_name=queue)
    with channel_to(rabbit_node.url) as channel:
        assert on_rabbitmq.counts()[queue] == ("0", "0", "0")
        for name, count in ((queue, 3), (f"{queue}.XQ", 2)):
            channel.queue_declare(name)
            for _ in range(count):
                channel.basic_publish("", name, b"")
        eventually(lambda: on_rabbitmq.counts()[queue] == ("3", "0", "2"))
        # and the tab lists what was published, and no more
        assert "There are no jobs in this queue" in on_rabbitmq.get(f"/queues/{queue}").text
        for name in (queue, f"{queue}.XQ"):
            channel.queue_delete(name)


def test_a_requeued_copy_does_not_count_though_the_janitor_has_not_come_yet(
    on_rabbitmq: Page, rabbit_node: RabbitNode
) -> None:
    task_id, letter = on_rabbitmq.fail()
    with channel_to(rabbit_node.url) as channel:
        for name in ("default", "default.XQ"):
            channel.queue_delete(name)
            channel.queue_declare(name)
        channel.basic_publish("", "default.XQ", b"")
        eventually(lambda: on_rabbitmq.counts()["default"] == ("0", "0", "1"))
        with psycopg.connect(on_rabbitmq.kit.database_url) as connection:
            connection.execute("UPDATE dead_letters SET copied_at = now()")
        assert str(letter) in on_rabbitmq.get("/queues/default/failed").text
        assert on_rabbitmq.press("requeue-message", "default.XQ", letter).status_code == 302
        assert on_rabbitmq.counts()["default"] == ("0", "0", "0")
        assert on_rabbitmq.status(task_id) == "queued"
        for name in ("default", "default.XQ"):
            channel.queue_delete(name)


def test_the_pages_work_while_rabbitmq_is_away(settings: Settings) -> None:
    away = f"amqp://guest:secret@127.0.0.1:{free_port()}/%2F"
    kit = open_kit(msgspec.structs.replace(settings, broker_urls=(away,)))
    try:
        with api_on(kit) as client:
            page = Page(client, kit)
            page.fail()
            page.submit()
            assert page.counts()["default"] == ("1", "0", "1")
    finally:
        kit.close()
