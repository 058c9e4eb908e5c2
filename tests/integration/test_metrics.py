"""Figures of a whole deployment: two workers, two APIs, and both tell the same truth."""

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import UUID

import httpx
import psutil
import pytest

from actors.submission import Order
from tests.support.processes import Installation, Running
from tests.support.scrapes import Scrape, scrape
from tests.support.servers import free_port
from tests.support.waiting import eventually

#: The figures that come from the record itself. The others are as old as a heartbeat.
OF_THE_RECORD = ("task_", "tasks_", "callboard_tasks_", "callboard_retries_", "callboard_dead_letters")
COMPLETED, FLAKY, HOPELESS, STAGED = 240, 30, 26, 4
SECONDS_OF_A_BEAT = 10.0


#: What has nothing to do with how tasks travel is looked at once.
once = pytest.mark.parametrize("broker_url", ["local"], indirect=True, scope="module")


class Deployment:
    """An installation with two workers and two APIs."""

    def __init__(self, house: Installation, workers: list[Running], apis: list[httpx.Client]) -> None:
        self.house = house
        self.workers = workers
        self.apis = apis

    def scrapes(self) -> list[Scrape]:
        return [scrape(api) for api in self.apis]

    def processes(self, kind: str) -> list[dict[str, object]]:
        found = self.apis[0].get("/api/v1/stats/workers", params={"limit": 100}).json()["workers"]
        return [one for one in found if one["kind"] == kind]


@pytest.fixture(scope="module")
def running(house: Installation) -> Iterator[Deployment]:
    ports = [free_port(), free_port()]
    workers = [house.start_worker(threads=3), house.start_worker(threads=5)]
    for port in ports:
        house.start_api(port)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20))
            for port in ports
        ]
        for client in clients:
            eventually(lambda client=client: is_ready(client), 30)  # type: ignore[misc]
        made = Deployment(house, workers, clients)
        eventually(lambda: len(made.processes("worker")) == 2, 20)
        yield made
        house.show_logs()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def settled(running: Deployment) -> Scrape:
    """What both tell of the record, as soon as they tell the same."""

    def same() -> Scrape | None:
        first, second = running.scrapes()
        return first if first.of(*OF_THE_RECORD) == second.of(*OF_THE_RECORD) else None

    found = eventually(same)
    assert found is not None
    return found


def play(running: Deployment) -> dict[str, list[UUID]]:
    """Run 300 tasks of four kinds to their ends; their ids."""
    orders = {
        "work": [Order(task_type="work", payload={"key": f"w{n}"}) for n in range(COMPLETED)],
        "flaky": [
            Order(task_type="flaky", payload={"key": f"f{n}", "failures": 2}, max_retries=3)
            for n in range(FLAKY)
        ],
        "hopeless": [
            Order(task_type="fail", payload={"message": "no luck"}, max_retries=1, backoff=QUICK)
            for _ in range(HOPELESS)
        ],
        "sleep": [Order(task_type="sleep", payload={"seconds": 0.1}) for _ in range(STAGED)],
    }
    running.house.submit_all([order for some in orders.values() for order in some])
    ids = {kind: [order.id for order in some] for kind, some in orders.items()}
    running.house.all_finished([one for some in ids.values() for one in some], 60)
    return ids


QUICK = {"kind": "fixed", "base": 0.1}


@pytest.mark.timeout(120)
def test_counters_are_the_truth_at_both_apis_and_never_fall(running: Deployment) -> None:
    # Given 300 tasks, of which some fail, and some fail twice before they complete
    before = settled(running)
    ids = play(running)

    # When both APIs are scraped, then they tell the same, and the truth
    told = settled(running)
    for task_type, created, completed, failed, retried in (
        ("work", COMPLETED, COMPLETED, 0, 0),
        ("flaky", FLAKY, FLAKY, 0, 2 * FLAKY),
        ("fail", HOPELESS, 0, HOPELESS, HOPELESS),
        ("sleep", STAGED, STAGED, 0, 0),
    ):
        figures = [
            told.value(name, task_type=task_type) - before.value(name, task_type=task_type)
            for name in (
                "tasks_created_total",
                "tasks_completed_total",
                "task_success_total",
                "task_failure_total",
                "callboard_retries_total",
                "task_processing_duration_seconds_count",
            )
        ]
        assert figures == [created, completed, completed, failed, retried, completed], task_type
    assert told.value("callboard_dead_letters", queue="default") == HOPELESS
    slept = told.value("task_processing_duration_seconds_sum", task_type="sleep")
    durations = [running.house.task(one).duration_ms or 0 for one in ids["sleep"]]
    assert slept == pytest.approx(sum(durations) / 1_000, abs=0.01)
    assert told.value("task_processing_duration_seconds_bucket", task_type="sleep", le="0.05") == 0
    assert told.value("task_processing_duration_seconds_bucket", task_type="sleep", le="+Inf") == STAGED

    # When operators run failed ones again, recover a completed one, and remove others
    http = running.apis[0]
    for one in ids["hopeless"][:5]:
        http.post(f"/api/v1/tasks/{one}/retry").raise_for_status()
    http.post(f"/api/v1/tasks/{ids['work'][0]}/recover", json={"mode": "all"}).raise_for_status()
    during = settled(running)
    running.house.all_finished([*ids["hopeless"][:5], ids["work"][0]], 30)
    for one in ids["work"][1:41]:
        assert http.delete(f"/api/v1/tasks/{one}").status_code == 204
    after = settled(running)

    # Then no counter fell, and each run is counted
    for earlier, later in ((before, told), (told, during), (during, after)):
        fallen = {
            key: (value, later.samples.get(key, 0.0))
            for key, value in earlier.counters().items()
            if key[0].startswith(OF_THE_RECORD) and later.samples.get(key, 0.0) < value
        }
        assert not fallen
    assert after.value("task_failure_total", task_type="fail") == HOPELESS + 5
    assert after.value("task_success_total", task_type="work") == COMPLETED + 1
    assert after.value("tasks_created_total", task_type="work") == COMPLETED
    assert after.value("callboard_dead_letters", queue="default") == HOPELESS
    # And statistics count each task once, for its last end
    statistics = http.get("/api/v1/tasks/statistics").json()
    assert (statistics["by_type"]["fail"]["failed"], statistics["by_type"]["work"]["completed"]) == (
        HOPELESS,
        COMPLETED,
    )


def test_whoever_delivers_tells_how_it_is(running: Deployment) -> None:
    # Given processes that had their heartbeats
    eventually(lambda: scrape(running.apis[0]).value("callboard_process_cpu_seconds_total", kind="api") > 0)
    for found in running.scrapes():
        # Then the clock ticks, and ledgers commit
        assert found.value("callboard_clock_lag_seconds") < SECONDS_OF_A_BEAT
        assert found.value("callboard_ledger_commits_total", kind="worker") > 0
        commits, verbs = (found.value(f"callboard_ledger_{one}_total") for one in ("commits", "verbs"))
        assert commits <= verbs
        if running.house.broker_url is None:
            # And without RabbitMQ nothing is said of it
            assert found.count("callboard_dispatcher_lag_seconds") == 0
            assert found.count("callboard_rabbitmq_connected") == 0
        else:
            # And with RabbitMQ the dispatcher is on time, and everybody is connected
            assert found.value("callboard_dispatcher_lag_seconds") < SECONDS_OF_A_BEAT
            for kind in ("worker", "api", "clock"):
                assert found.value("callboard_rabbitmq_connected", kind=kind) > 0
            assert found.value("callboard_rabbitmq_ready", queue="default") == 0


@once
def test_processes_tell_how_they_are(running: Deployment) -> None:
    # Given tasks that run
    house = running.house
    ids = house.submit_all(
        [Order(task_type="work", payload={"key": "busy", "seconds": 60}) for _ in range(4)]
    )
    for one in ids:
        house.has_status(one, "running")

    # When their workers had a heartbeat, then whichever API is asked knows who runs what
    def told() -> list[dict[str, object]] | None:
        found = running.processes("worker")
        return found if sum(int(str(one["busy"])) for one in found) == 4 else None

    workers = eventually(told, SECONDS_OF_A_BEAT)
    assert workers is not None
    assert {one["pid"]: one["threads"] for one in workers} == {
        running.workers[0].pid: 3,
        running.workers[1].pid: 5,
    }
    tasks = [task for one in workers for task in one["running"]]  # type: ignore[attr-defined]
    assert {task["task_id"] for task in tasks} == set(map(str, ids))
    assert {task["task_type"] for task in tasks} == {"work"}
    for one in workers:
        memory = psutil.Process(int(str(one["pid"]))).memory_info().rss
        assert one["memory_bytes"] == pytest.approx(memory, rel=0.5)
        assert one["idle"] == int(str(one["threads"])) - int(str(one["busy"]))
        assert "default" in list(one["queues"])  # type: ignore[call-overload]
        assert float(str(one["cpu_seconds"])) > 0
        assert 0 <= float(str(one["heartbeat_age_s"])) < SECONDS_OF_A_BEAT
    for found in running.scrapes():
        assert found.value("callboard_queue_workers", queue="default") == 2
        assert found.value("callboard_queue_tasks", queue="default", status="running") == 4
        assert found.count("callboard_process_resident_memory_bytes", kind="api") >= 2
        assert found.value("callboard_processes", kind="clock") == 1

    def pool() -> list[float]:
        first, second = running.scrapes()
        names = ("worker_pool_active_count", "worker_pool_idle_count")
        return [one.value(name) for one in (first, second) for name in names]

    eventually(lambda: pool() == [4, 4, 4, 4], SECONDS_OF_A_BEAT)
    for one in ids:
        running.apis[0].post(f"/api/v1/tasks/{one}/cancel").raise_for_status()


@once
def test_what_an_api_is_asked_is_told_by_the_other(running: Deployment) -> None:
    # Given requests to one API, one of them without success, and a stream
    first, second = running.apis
    pid = str(next(one["pid"] for one in running.processes("api") if listens(one, first)))
    for _ in range(7):
        first.get("/api/v1/queues")
    first.get("/api/v1/queues/nothing-here")
    task = running.house.submit("work", {"key": "streamed", "seconds": 30})

    # When a client follows a task there, then the other API tells it all after a heartbeat
    with first.stream("GET", f"/api/v1/tasks/{task}/stream"):

        def told() -> Scrape | None:
            found = scrape(second)
            return found if found.value("callboard_open_streams", pid=pid) == 1 else None

        found = eventually(told, SECONDS_OF_A_BEAT)
    assert found is not None
    asked = {"pid": pid, "method": "GET"}
    assert found.value("callboard_http_requests_total", route="/api/v1/queues", status="2xx", **asked) == 7
    lost = found.value("callboard_http_requests_total", route="/api/v1/queues/{name}", status="4xx", **asked)
    assert lost == 1
    durations = "callboard_http_request_duration_seconds_count"
    assert found.value(durations, route="/api/v1/queues", **asked) == 7
    assert found.value("callboard_open_sockets", pid=pid) == 0
    first.post(f"/api/v1/tasks/{task}/cancel").raise_for_status()


def listens(process: dict[str, object], client: httpx.Client) -> bool:
    """Whether this process, or the one that started it, listens on the port that a client knows."""
    found = psutil.Process(int(str(process["pid"])))
    family = [found, found.parent()]
    ports = {one.laddr.port for each in family if each for one in each.net_connections("inet") if one.laddr}
    return client.base_url.port in ports


@once
def test_all_queues_are_told_with_the_figures_of_each(running: Deployment) -> None:
    # Given queues with different settings, and tasks that wait for the next year in one
    http = running.apis[1]
    http.post("/api/v1/queues", json={"name": "aside", "max_size": 10}).raise_for_status()
    orders = [Order(task_type="work", payload={"key": "x"}, queue_name="aside", delay=1e6) for _ in range(3)]
    running.house.submit_all(orders)

    # When all are asked for, then each has the figures that it has alone
    answer = http.get("/api/v1/stats/queues", params={"limit": 100}).json()
    assert answer["total"] == len(answer["queues"])
    for told in answer["queues"]:
        alone = http.get(f"/api/v1/queues/{told['name']}/stats").json()
        changing = ("throughput", "oldest_age_s")
        assert {**told, **dict.fromkeys(changing)} == {**alone, **dict.fromkeys(changing)}
    for name in ("queued", "running", "scheduled", "retrying", "blocked", "dead", "size"):
        assert answer["totals"][name] == sum(one[name] for one in answer["queues"])
    aside = next(one for one in answer["queues"] if one["name"] == "aside")
    assert (aside["scheduled"], aside["size"], aside["capacity"]) == (3, 3, 10)

    # And page by page they are the same
    pages = [http.get("/api/v1/stats/queues", params={"limit": 2})]
    while cursor := pages[-1].json()["next_cursor"]:
        pages.append(http.get("/api/v1/stats/queues", params={"limit": 2, "cursor": cursor}))
    names = [one["name"] for page in pages for one in page.json()["queues"]]
    assert names == [one["name"] for one in answer["queues"]]
    assert {str(page.json()["totals"]) for page in pages} == {str(answer["totals"])}
    found = scrape(http)
    assert found.value("task_queue_size", queue="aside") == 3
    assert found.value("callboard_queue_tasks", queue="aside", status="scheduled") == 3


def test_a_worker_that_is_killed_vanishes(running: Deployment) -> None:
    # Given a worker that is killed
    victim, left = running.workers
    victim.kill()

    # Then it is told of no more, while the others are
    eventually(lambda: [one["pid"] for one in running.processes("worker")] == [left.pid])
    eventually(lambda: scrape(running.apis[0]).value("callboard_processes", kind="worker") == 1)
    found = scrape(running.apis[0])
    assert found.count("callboard_worker_threads", pid=str(victim.pid)) == 0
    assert found.value("callboard_queue_workers", queue="default") == 1
    assert found.value("worker_pool_idle_count") + found.value("worker_pool_active_count") == 5
