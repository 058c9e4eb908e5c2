"""What operators watch, over HTTP: paging, refusals, the text of /metrics, and who may see it."""

import asyncio
import threading
from typing import Any

import falcon
import pytest
from falcon.testing import TestClient

from api import caller
from api.caller import Caller
from api.desk import Desk
from api.resources import metrics
from api.resources.metrics import Metrics
from api.traffic import OTHER, Requests
from pipelines.bootstrap import Kit
from tasks.errors import Unavailable
from tasks.figures import FigureQueries
from tests.support.scrapes import Scrape

STATS, TASKS = "/api/v1/stats", "/api/v1/tasks"
WORKER = (
    "id kind host pid version queues types threads busy idle running memory_bytes cpu_seconds started_at"
    " heartbeat_age_s"
)


@pytest.fixture
def leased(kit: Kit) -> Kit:
    """A kit whose process is on record."""
    kit.open_lease("api")
    return kit


def test_this_process_is_told_with_all_fields(client: TestClient, leased: Kit) -> None:
    answer = client.simulate_get(f"{STATS}/workers")

    assert (answer.status_code, answer.json["total"], answer.json["next_cursor"]) == (200, 1, None)
    (told,) = answer.json["workers"]
    assert list(told) == WORKER.split()
    assert (told["kind"], told["threads"], told["running"]) == ("api", 0, [])


@pytest.mark.parametrize("what", ["workers", "queues"])
@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1_001}, {"page": "x"}, {"colour": "red"}, {"cursor": "?"}]
)
def test_what_makes_no_sense_is_refused_by_name(
    client: TestClient, what: str, query: dict[str, object]
) -> None:
    answer = client.simulate_get(f"{STATS}/{what}", params=query)

    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["errors"][0]["field"] in query


def test_beyond_the_last_one_there_is_nothing(client: TestClient) -> None:
    for what in ("workers", "queues"):
        answer = client.simulate_get(f"{STATS}/{what}", params={"offset": 1_000})
        assert (answer.status_code, answer.json[what]) == (200, [])


def test_totals_are_those_of_all_queues_whatever_page_is_asked_for(client: TestClient) -> None:
    for queue in ("alpha", "beta", "beta"):
        client.simulate_post(TASKS, json={"task_type": "test", "queue_name": queue})

    page = client.simulate_get(f"{STATS}/queues", params={"limit": 1}).json
    assert [one["name"] for one in page["queues"]] == ["alpha"]
    assert (page["queues"][0]["queued"], page["totals"]["queued"], page["totals"]["size"]) == (1, 3, 3)
    assert page["totals"]["oldest_age_s"] >= page["queues"][0]["oldest_age_s"] > 0


def test_metrics_are_text_that_prometheus_reads(client: TestClient) -> None:
    client.simulate_post(TASKS, json={"task_type": "test", "queue_name": "alpha"})

    answer = client.simulate_get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    told = Scrape(answer.text)
    assert told.value("tasks_created_total", task_type="test", queue="alpha") == 1
    # And what has not happened yet is told as 0: the first time is one more then
    assert told.count("task_failure_total", task_type="fail") == 1
    assert told.value("task_failure_total", task_type="fail") == 0


def test_payloads_and_users_are_in_no_figure(client: TestClient, leased: Kit) -> None:
    body = {"task_type": "test", "payload": {"secret": "kept-quiet"}, "user_id": "ann-of-accounting"}
    client.simulate_post(TASKS, json=body)

    for address in ("/metrics", f"{STATS}/workers", f"{STATS}/queues"):
        text = client.simulate_get(address).text
        assert "kept-quiet" not in text
        assert "ann-of-accounting" not in text


@pytest.mark.parametrize("address", ["/metrics", f"{STATS}/workers", f"{STATS}/queues"])
def test_figures_are_for_administrators(client: TestClient, monkeypatch: Any, address: str) -> None:
    monkeypatch.setattr(caller, "ANYBODY", Caller(user_id="ann"))

    answer = client.simulate_get(address)
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


def test_many_scrapes_at_once_read_the_record_once(kit: Kit, monkeypatch: Any) -> None:
    # Given a record that is read slowly
    reads = []
    gate = threading.Event()
    read = FigureQueries.read

    def slowly(self: FigureQueries) -> Any:
        reads.append(threading.current_thread().name)
        gate.wait(5)
        return read(self)

    monkeypatch.setattr(FigureQueries, "read", slowly)
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 60.0)

    async def scrape_at_once() -> list[bytes | None]:
        desk = Desk(kit)
        resource = Metrics(desk)
        request = falcon.testing.create_asgi_req()
        responses = [falcon.asgi.Response() for _ in range(20)]
        scrapes = asyncio.gather(*(resource.on_get(request, one) for one in responses))
        # When twenty ask while the first waits, the event loop goes on meanwhile
        asyncio.get_running_loop().call_later(0.05, gate.set)
        await scrapes
        desk.close()
        return [one.data for one in responses]

    answers = asyncio.run(scrape_at_once())

    # Then all get what was read once, on another thread
    assert len(reads) == 1
    assert reads[0] != threading.main_thread().name
    assert len(set(answers)) == 1
    assert answers[0]


def test_a_scrape_that_failed_is_tried_again(client: TestClient, monkeypatch: Any) -> None:
    # Given a Postgres that does not answer for a moment
    def away(self: FigureQueries) -> Any:
        raise Unavailable("Postgres cannot be reached now.")

    with monkeypatch.context() as patch:
        patch.setattr(FigureQueries, "read", away)
        assert client.simulate_get("/metrics").status_code == 503
    # When it answers, then so do we
    assert client.simulate_get("/metrics").status_code == 200


def test_requests_are_counted_by_route_and_class_of_status() -> None:
    # Given an application that answers well, badly and not at all
    class Thing:
        async def on_get(self, req: Any, resp: Any, name: str) -> None:
            if name == "bad":
                raise falcon.HTTPServiceUnavailable
            resp.media = {}

    requests = Requests()
    app = falcon.asgi.App(middleware=[requests])
    app.add_route("/things/{name}", Thing())
    client = TestClient(app)

    # When it is asked
    for name in ("a", "b", "bad"):
        client.simulate_get(f"/things/{name}")
    client.simulate_post("/things/a")
    client.simulate_get("/nowhere/at/all")
    client.simulate_request("TRACE", "/things/a")

    # Then names of things and of methods do not multiply what is counted
    told = {(one.method, one.route): one for one in requests.traffic()}
    assert {key: dict(one.statuses) for key, one in told.items()} == {
        ("GET", "/things/{name}"): {"2xx": 2, "5xx": 1},
        ("POST", "/things/{name}"): {"4xx": 1},
        ("GET", OTHER): {"4xx": 1},
        (OTHER, "/things/{name}"): {"4xx": 1},
    }
    assert sum(told["GET", "/things/{name}"].within) == 3
    assert told["GET", "/things/{name}"].seconds > 0
