"""Dramatiq's dashboard on RabbitMQ, as people use it: in a real browser, with real workers behind it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.chromium import BrowserMissing, browser
from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, deployment
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually

ACTORS = "tests.support.actors_for_tests"
EVIL = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
COUNT = re.compile(r"(\w+) \((\S+)\)")


class Desk:
    """A Callboard, the browser in front of it, and RabbitMQ's own view."""

    def __init__(self, callboard: Deployment, chrome: Chrome, node: RabbitNode, folder: Path) -> None:
        self.callboard, self.chrome, self.node, self.folder = callboard, chrome, node, folder

    def submit(self, key: str, **fields: object) -> str:
        order = {"task_type": "moody", "payload": {"key": key}, **fields}
        answer = self.callboard.http.post("/api/v1/tasks", json=order).raise_for_status()
        return str(answer.json()["task_id"])

    def on_rabbitmq(self) -> tuple[int, int]:
        """RabbitMQ's own counts of the queue and of its dead letters."""
        with pika.BlockingConnection(pika.URLParameters(self.node.url)) as connection:
            channel = connection.channel()
            counts = [
                channel.queue_declare(name, passive=True).method.message_count
                for name in ("default", "default.XQ")
            ]
        return counts[0], counts[1]

    def open(self, path: str = "") -> None:
        self.chrome.get(f"{self.callboard.url}/dramatiq{path}")

    def row(self) -> list[str]:
        """What the first page says of the queue: ready, delayed and failed jobs."""
        self.open()
        found = self.chrome.find_element(By.XPATH, "//tr[td/a[normalize-space()='default']]")
        return [cell.text for cell in found.find_elements(By.CLASS_NAME, "table__number")]

    def tabs(self) -> dict[str, str]:
        """What the tabs of the page that is open say."""
        words = self.chrome.find_element(By.CLASS_NAME, "tabs").text
        return {name.lower(): count for name, count in COUNT.findall(words)}

    def jobs(self) -> list[str]:
        """The titles of the jobs that are listed."""
        return [one.text for one in self.chrome.find_elements(By.CSS_SELECTOR, ".table__subject a")]

    def press(self, button: str, job: str) -> None:
        """Press a button beside the job whose title has these words."""
        row = self.chrome.find_element(By.XPATH, f"//tr[td/a[contains(., '{job}')]]")
        self.click(row.find_element(By.XPATH, f".//button[normalize-space()='{button}']"))

    def click(self, found: WebElement) -> None:
        """Click on what leads to another page, and wait for that."""
        found.click()
        WebDriverWait(self.chrome, 20).until(staleness_of(found))


@pytest.fixture
def desk(postgres_url: str, rabbit_node: RabbitNode, tmp_path: Path) -> Iterator[Desk]:
    folder = tmp_path / "effects"
    folder.mkdir()
    with fresh_database(postgres_url) as url:
        environ = {
            "CALLBOARD_DATABASE_URL": url,
            "CALLBOARD_BROKER_URL": rabbit_node.url,
            "CALLBOARD_ACTORS": ACTORS,
            "CALLBOARD_PROCESSES": "1",
            "EFFECTS": str(folder),
        }
        try:
            with browser(tmp_path / "profile") as chrome, deployment(environ) as callboard:
                yield Desk(callboard, chrome, rabbit_node, folder)
        except BrowserMissing as error:
            pytest.skip(f"no browser: {error}")


@pytest.mark.timeout(600)  # where there is no browser it is installed
def test_a_failed_job_is_seen_requeued_and_completes_and_all_counts_agree(desk: Desk) -> None:
    # Given two jobs that failed, and one that waits for its time
    flags = [desk.folder / key for key in ("first", "second")]
    for flag in flags:
        flag.touch()
    first, second = (desk.submit(flag.name, tags=[EVIL]) for flag in flags)
    waiting = desk.submit(f"third {EVIL}", delay=3_600)
    for task_id in (first, second):
        assert desk.callboard.wait_for_task(task_id)["status"] == "failed"
    # Then the first page counts them as RabbitMQ does
    eventually(lambda: desk.on_rabbitmq() == (0, 2) and desk.row() == ["0", "1", "2"], 15)
    # and the tab of failed jobs leads to the page of each, which says what went wrong
    desk.click(desk.chrome.find_element(By.LINK_TEXT, "default"))
    desk.click(desk.chrome.find_element(By.PARTIAL_LINK_TEXT, "FAILED"))
    assert len(desk.jobs()) == 2
    desk.click(desk.chrome.find_element(By.XPATH, "//a[contains(., 'first')]"))
    shown = desk.chrome.find_element(By.TAG_NAME, "body").text
    assert all(words in shown for words in (first, "moody", "'key': 'first'", "RuntimeError: not now"))
    # When its reason is gone and it is requeued
    for flag in flags:
        flag.unlink()
    desk.open("/queues/default/failed")
    desk.press("Requeue", "first")
    # Then the page shows so at once, it completes, and its copy leaves RabbitMQ
    assert desk.tabs()["failed"] == "1"
    assert [job for job in desk.jobs() if "first" in job] == []
    assert desk.callboard.wait_for_task(first)["status"] == "completed"
    # (while the janitor looks at the copies, RabbitMQ counts none of those that it has in hand)
    eventually(lambda: desk.on_rabbitmq() == (0, 1) and desk.row() == ["0", "1", "1"], 15)
    # When the other one is deleted, then nothing runs again
    desk.open("/queues/default/failed")
    desk.press("Delete", "second")
    assert desk.tabs() == {"standard": "0", "delayed": "1", "failed": "0"}
    eventually(lambda: desk.on_rabbitmq() == (0, 0), 15)
    assert desk.callboard.wait_for_task(second)["status"] == "failed"
    # When the one that waits is deleted, then it is cancelled; what it brought is shown and does nothing
    desk.open("/queues/default/delayed")
    assert "window.pwned" in desk.jobs()[0]
    assert desk.chrome.execute_script("return [window.pwned, document.scripts.length]") == [None, 0]
    loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert desk.chrome.execute_script(loaded) == []
    desk.press("Delete", "third")
    assert desk.tabs()["delayed"] == "0"
    assert desk.callboard.wait_for_task(waiting)["status"] == "cancelled"
