"""A deployment that fails, played through on RabbitMQ: what died is looked at, mended and replayed, once."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import combinations, count
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, deployment
from tests.support.processes import message_count
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually

LETTERS, TASKS = "/api/v1/dead-letters", "/api/v1/tasks"
TYPES = ("pay", "pack", "post")
NUMBERS = count()
#: How many tasks die of which cause.
CAUSES = {"bank": 220, "stock": 120, "disk": 100, "price": 60}
CANARY, RATE = 10, 50


class Shop:
    """A running Callboard with the shop's actors, and what they did."""

    def __init__(self, running: Deployment, folder: Path) -> None:
        self.running = running
        self.http = running.http
        self.folder = folder

    def breaks(self, *parts: str) -> None:
        for part in parts:
            (self.folder / part).touch()

    def mend(self, part: str) -> None:
        (self.folder / part).unlink()

    def traces(self, file: str) -> Counter[str]:
        """How often what was done, by the key of the order."""
        path = self.folder / file
        return Counter(path.read_text().split() if path.exists() else ())

    def submit(self, needs: str, number: int, **payload: Any) -> dict[str, str]:
        """Submit so many orders that need a part of the shop, of all types: the key of each by its task."""
        keys = [f"{needs}-{next(NUMBERS)}" for _ in range(number)]
        orders = [
            {"task_type": TYPES[place % 3], "payload": {"key": key, "needs": needs, **payload}}
            for place, key in enumerate(keys)
        ]
        answer = self.http.post(f"{TASKS}/batch", json={"tasks": orders})
        answer.raise_for_status()
        return dict(zip((task["task_id"] for task in answer.json()["tasks"]), keys, strict=True))

    def ask(self, path: str, **params: Any) -> Any:
        answer = self.http.get(LETTERS + path, params=params)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(LETTERS + path, json=body)
        answer.raise_for_status()
        return answer.json()

    def cluster(self, words: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.ask("/clusters")["clusters"]
        return next(one for one in found if words in one["message"])

    def replay(self, **body: Any) -> str:
        return str(self.post("/replay", **body)["replay_id"])

    def job(self, replay_id: str, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/replays/{replay_id}", **params)
        return found

    def ended(self, replay_id: str, timeout: float = 40.0) -> dict[str, Any]:
        """A job, once it has ended and all that it replayed is over."""

        def over() -> dict[str, Any] | None:
            job = self.job(replay_id, limit=1_000)
            is_over = job["outcomes"].keys() <= {"completed", "failed", "cancelled"}
            return job if job["ended_at"] and is_over else None

        found = eventually(over, timeout)
        assert found is not None
        return found

    def open_letters(self) -> int:
        return int(self.ask("", limit=1)["total"])


@pytest.fixture(scope="module")
def shop(
    postgres_url: str, rabbit_node: RabbitNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with fresh_database(postgres_url) as url:
        environ = {
            "CALLBOARD_DATABASE_URL": url,
            "CALLBOARD_BROKER_URL": rabbit_node.url,
            "CALLBOARD_ACTORS": "tests.support.letter_actors",
            "CALLBOARD_PROCESSES": "2",
            "CALLBOARD_DRAIN_SECONDS": "1",
            "EFFECTS": str(folder),
        }
        with deployment(environ) as running:
            yield Shop(running, folder)


def test_a_failing_deployment_is_looked_at_mended_and_replayed(shop: Shop, rabbit_node: RabbitNode) -> None:
    # Given 500 tasks of three types that die of four causes
    shop.breaks("bank", "stock", "disk")
    orders: dict[str, str] = {}
    for needs, number in CAUSES.items():
        orders |= shop.submit(needs, number)
    eventually(lambda: shop.open_letters() == len(orders) == 500, 60)
    eventually(lambda: message_count(rabbit_node.url, "default.XQ") == 500, 30)
    # Then there are four clusters, whatever was at hand in each case
    page = shop.ask("/clusters")
    assert page["total"] == 4
    assert [one["count"] for one in page["clusters"]] == list(CAUSES.values())
    assert all(one["task_types"] == sorted(TYPES) for one in page["clusters"])
    assert shop.traces("done") == Counter()

    _mend_the_prices(shop)
    _find_out_by_canaries_that_the_stock_is_broken(shop)
    _replay_slowly_abort_and_go_on(shop)

    # When the rest is mended, then nothing is left, and nothing was done twice
    shop.mend("disk")
    rest = shop.ended(shop.replay(filter={"error_class": "OSError"}))
    assert rest["outcomes"] == {"completed": CAUSES["disk"]}
    assert shop.open_letters() == 0
    eventually(lambda: message_count(rabbit_node.url, "default.XQ") == 0, 30)
    assert shop.traces("done") == Counter(orders.values())
    canaries = CANARY  # these alone failed once more
    assert shop.traces("started").total() == 2 * len(orders) + canaries
    for task_id in orders:
        assert shop.running.wait_for_task(task_id)["status"] == "completed"


def _mend_the_prices(shop: Shop) -> None:
    """What lacks something in its payload is replayed with it; a dry run tells what would happen."""
    wanted = {"cluster": shop.cluster("no currency")["fingerprint"]}
    before = shop.traces("started")
    wrong = shop.post("/replay", filter=wanted, dry_run=True, payload_patch={"currency": 7})
    assert (wrong["eligible"], wrong["ineligible"]) == (0, CAUSES["price"])
    assert list(wrong["reasons"].values()) == [CAUSES["price"]]
    assert next(iter(wrong["reasons"])).startswith("payload.currency: ")
    right = shop.post("/replay", filter=wanted, dry_run=True, payload_patch={"currency": "EUR"})
    assert right == {"eligible": CAUSES["price"], "ineligible": 0, "reasons": {}}
    assert shop.traces("started") == before
    # One by hand, then all the others
    letter = shop.ask("", limit=1, **wanted)["dead_letters"][0]
    payload = {**shop.ask(f"/{letter['dead_letter_id']}")["payload"], "currency": "NOK"}
    shop.post(f"/{letter['dead_letter_id']}/replay", payload=payload)
    done = shop.ended(shop.replay(filter=wanted, payload_patch={"currency": "EUR"}))
    assert done["outcomes"] == {"completed": CAUSES["price"] - 1}
    task = shop.running.wait_for_task(letter["task_id"])
    assert (task["result"], task["payload"]) == ("NOK", payload)
    kept = shop.ask(f"/{done['items'][0]['dead_letter_id']}")
    assert (kept["task"]["payload"]["currency"], "currency" in kept["payload"]) == ("EUR", False)


def _find_out_by_canaries_that_the_stock_is_broken(shop: Shop) -> None:
    """What was not mended stops at its canaries; when it is, somebody goes on."""
    wanted = {"error_class": "KeyError", "task_type": "pack"}
    number = CAUSES["stock"] // 3
    job = shop.replay(filter=wanted, canary=CANARY)
    stopped = shop.ended(job)
    assert (stopped["status"], stopped["reason"].startswith("canary: task ")) == ("stopped", True)
    assert stopped["counts"] == {"pending": number - CANARY, "replayed": CANARY, "skipped": 0}
    shop.mend("stock")
    shop.post(f"/replays/{job}/resume")
    resumed = shop.ended(job)
    assert resumed["status"] == "completed"
    assert resumed["outcomes"] == {"failed": CANARY, "completed": number - CANARY}
    again = shop.ended(shop.replay(filter={"error_class": "KeyError"}))
    assert again["outcomes"] == {"completed": CAUSES["stock"] - number + CANARY}


def _replay_slowly_abort_and_go_on(shop: Shop) -> None:
    """Ten must complete before the others follow at 50 a second; an abort leaves the rest where it is."""
    shop.mend("bank")
    job = shop.replay(filter={"error_class": "BankAway"}, canary=CANARY, rate=RATE)
    # When it is aborted in the middle
    eventually(lambda: shop.job(job)["counts"]["replayed"] > CANARY + 20, 20)
    aborted = shop.post(f"/replays/{job}/abort")
    assert (aborted["status"], aborted["counts"]["pending"] > 0) == ("aborted", True)
    # Then what it has begun completes, and nothing else begins
    left = aborted["counts"]["pending"]
    over = shop.ended(job)
    assert over["counts"] == aborted["counts"]
    assert shop.ask("", error_class="BankAway")["total"] == left
    # And resumed it does the rest, each with its result, no faster than its rate
    shop.post(f"/replays/{job}/resume")
    done = shop.ended(job)
    assert done["outcomes"] == {"completed": CAUSES["bank"]}
    assert [item["status"] for item in done["items"]] == ["replayed"] * CAUSES["bank"]
    assert [item["is_canary"] for item in done["items"]].index(False) == CANARY
    begun = sorted(datetime.fromisoformat(item["replayed_at"]) for item in done["items"])
    for first, last in combinations(range(len(begun)), 2):
        seconds = (begun[last] - begun[first]).total_seconds()
        assert last - first <= RATE * (seconds + 1) + 1  # of one second it may catch up


def test_of_twenty_clients_that_replay_one_dead_letter_one_does_it(shop: Shop) -> None:
    # Given a task that failed, and is mended
    shop.breaks("bank")
    ((task_id, key),) = shop.submit("bank", 1).items()
    shop.running.wait_for_task(task_id)
    shop.mend("bank")
    (letter,) = shop.ask("", q=task_id)["dead_letters"]
    path = f"{LETTERS}/{letter['dead_letter_id']}/replay"
    # When twenty clients replay it at once
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: httpx.post(shop.running.url + path, timeout=20), range(20)))
    # Then one gets the task, and the others a conflict
    assert sorted(one.status_code for one in answers) == [202, *[409] * 19]
    assert shop.running.wait_for_task(task_id)["status"] == "completed"
    assert (shop.traces("started")[key], shop.traces("done")[key]) == (2, 1)


def test_after_a_cancel_nobody_replays(shop: Shop) -> None:
    # Given a task that failed, was replayed, and is cancelled while it runs
    shop.breaks("bank")
    ((task_id, key),) = shop.submit("bank", 1, seconds=60).items()
    shop.running.wait_for_task(task_id)
    shop.mend("bank")
    (letter,) = shop.ask("", q=task_id)["dead_letters"]
    path = f"{LETTERS}/{letter['dead_letter_id']}/replay"
    shop.http.post(path, json={}).raise_for_status()
    eventually(lambda: shop.traces("started")[key] == 2)
    shop.http.post(f"{TASKS}/{task_id}/cancel").raise_for_status()
    # When twenty clients replay its dead letter, then none does
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: httpx.post(shop.running.url + path, timeout=20), range(20)))
    assert {one.status_code for one in answers} == {409}
    assert shop.ended(shop.replay(filter={"q": task_id, "status": "any"}))["counts"]["replayed"] == 0
    assert shop.running.wait_for_task(task_id)["status"] == "cancelled"
    assert (shop.traces("started")[key], shop.traces("done")[key]) == (2, 0)


def test_a_replay_goes_on_although_the_api_is_killed_in_its_middle(shop: Shop) -> None:
    # Given 100 tasks that failed, and a replay of them under way
    shop.breaks("stock")
    orders = shop.submit("stock", 100)
    eventually(lambda: shop.open_letters() == 100, 30)
    shop.mend("stock")
    job = shop.replay(filter={"error_class": "KeyError"}, rate=RATE)
    eventually(lambda: shop.job(job)["counts"]["replayed"] >= 20, 20)
    # When the API is killed
    kill(shop.running, "api.process")
    eventually(shop.running.is_ready, 30)
    # Then it goes on, and each of them is done once
    done = shop.ended(job)
    assert (done["status"], done["outcomes"]) == ("completed", {"completed": 100})
    assert done["counts"] == {"pending": 0, "replayed": 100, "skipped": 0}
    for key in orders.values():
        assert (shop.traces("started")[key], shop.traces("done")[key]) == (2, 1)


def kill(running: Deployment, module: str) -> None:
    """Kill a process of a Callboard and all that it started."""
    children = psutil.Process(running.process.pid).children()
    found = next(child for child in children if module in child.cmdline())
    family = [found, *found.children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, 10)
