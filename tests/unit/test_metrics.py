"""What Prometheus is told, and what the dashboard and the alert rules ask for: one vocabulary."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api import traffic
from api.metrics import BOUNDS, exposition
from tasks.figures import Counted, Figures, InQueue, Process
from tasks.statistics import SLOT_GROWTH
from tasks.vitals import Traffic, Vitals
from tests.support.deployment import REPOSITORY
from tests.support.scrapes import Scrape

DEPLOY = REPOSITORY / "deploy"
BEGAN = datetime(2026, 5, 17, tzinfo=UTC)
NOTHING = Figures([], [], Counted({}, {}, {}))

#: What the documents want to be seen, and the query that shows it.
WANTED = {
    # 002, as printed there
    "task_queue_size": 'task_queue_size{queue="document_processing"}',
    "task_processing_duration_seconds": 'task_processing_duration_seconds_count{task_type="chunking"}',
    "task_success_total": 'task_success_total{task_type="embedding"}',
    "task_failure_total": 'task_failure_total{task_type="vectorization"}',
    "worker_pool_active_count": "worker_pool_active_count",
    "worker_pool_idle_count": "worker_pool_idle_count",
    # 000
    "任务创建速率": "rate(tasks_created_total[1m])",
    "任务完成速率": "rate(tasks_completed_total[1m])",
    "平均处理时间": "task_processing_duration_seconds_sum / task_processing_duration_seconds_count",
    "WebSocket连接数": "callboard_open_sockets",
    "错误率": 'sum(callboard_http_requests_total{status="5xx"}) / sum(callboard_http_requests_total)',
    # 003
    "队列长度": "task_queue_size",
    "待执行任务数": 'callboard_queue_tasks{status="queued"}',
    "执行中任务数": 'callboard_queue_tasks{status="running"}',
    "任务执行成功率": "task_success_total / (task_success_total + task_failure_total)",
    "任务平均执行时间": "task_processing_duration_seconds_sum / task_processing_duration_seconds_count",
    "任务失败率": "rate(task_failure_total[5m])",
    "Worker 使用率": "worker_pool_active_count / (worker_pool_active_count + worker_pool_idle_count)",
    "内存使用": "callboard_process_resident_memory_bytes",
    "CPU 使用": "rate(callboard_process_cpu_seconds_total[5m])",
}

#: The words of PromQL that are used here.
WORDS = {
    *("sum", "max", "min", "count", "by", "on", "without", "and", "or"),
    *("absent", "rate", "increase", "delta", "histogram_quantile", "time"),
}
TOKENS = re.compile(
    r"""(?P<name>[a-zA-Z_:][\w:]*) | (?P<text>"[^"]*") | (?P<number>\d+(\.\d+)?(e\d+)?)
      | (?P<range>\[(\d+[smhd]|\$__rate_interval)\]) | (?P<sign>[-+*/(){},]|==|!=|=~|[<>]=?|=)""",
    re.X,
)


def told(figures: Figures) -> Scrape:
    return Scrape(exposition(figures, 0.0).decode())


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for; fails where it is no PromQL."""
    names: set[str] = set()
    depth: list[str] = []
    at, labels = 0, False
    while at < len(expression):
        if expression[at].isspace():
            at += 1
            continue
        token = TOKENS.match(expression, at)
        assert token, f"what is this? {expression[at:]!r} in {expression!r}"
        at = token.end()
        sign = token["sign"]
        if sign in ("(", "{"):
            labels = sign == "{" or bool(re.search(r"\b(by|without|on)\s*$", expression[: token.start()]))
            depth.append(sign)
        elif sign in (")", "}"):
            assert depth.pop() == {")": "(", "}": "{"}[sign], expression
            labels = False
        elif token["name"] and not labels and token["name"] not in WORDS:
            names.add(token["name"])
    assert not depth, f"something is not closed in {expression!r}"
    return names


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard and of the alert rules, by what it is for."""
    dashboard = json.loads((DEPLOY / "grafana/callboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("wanted", WANTED)
def test_everything_that_the_documents_want_to_be_seen_can_be_asked_for(wanted: str) -> None:
    assert names_in(WANTED[wanted]) <= told(NOTHING).names


@pytest.mark.parametrize(("purpose", "expression"), list(expressions()))
def test_the_dashboard_and_the_alerts_ask_for_what_there_is(purpose: str, expression: str) -> None:
    asked = names_in(expression)
    assert asked
    assert asked <= told(NOTHING).names, purpose


def test_an_expression_with_an_error_would_be_found() -> None:
    for wrong in ("sum(rate(x[5m])", "x } 3", "x ? y", 'x{a="b}', "rate(x[5])"):
        with pytest.raises((AssertionError, IndexError)):
            names_in(wrong)


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])


def test_the_dashboard_has_a_place_of_its_own_for_every_panel() -> None:
    panels = json.loads((DEPLOY / "grafana/callboard.json").read_text(encoding="utf-8"))["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")
def test_promtool_accepts_the_configuration_and_finds_that_alerts_ring_when_they_should() -> None:
    for verb, kind, file in (
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        command = ["promtool", verb, kind, str(DEPLOY / "prometheus" / file)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@given(st.dictionaries(st.integers(-48, 400), st.integers(0, 10**12), max_size=60))
def test_durations_fall_into_the_buckets_they_belong_to(slots: Mapping[int, int]) -> None:
    # Given the histogram of a type in slots of 5%
    found = told(Figures([], [], Counted({("a", "q"): {}}, {"a": slots}, {"a": 1_500.0})))

    # When it is told in fixed buckets, then they cumulate to the same count
    name = "task_processing_duration_seconds"
    bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
    numbers = [found.value(f"{name}_bucket", task_type="a", le=bound) for bound in bounds]
    assert numbers == sorted(numbers)
    assert numbers[-1] == found.value(f"{name}_count", task_type="a") == sum(slots.values())
    assert found.value(f"{name}_sum", task_type="a") == 1.5
    # And no slot is farther from its bucket than its own width
    for bound, number in zip(BOUNDS, numbers, strict=False):
        surely = sum(n for slot, n in slots.items() if SLOT_GROWTH ** (slot + 1) / 1_000 <= bound)
        perhaps = sum(n for slot, n in slots.items() if SLOT_GROWTH**slot / 1_000 <= bound)
        assert surely <= number <= perhaps


def process(kind: str = "worker", pid: int = 1, **fields: Any) -> Process:
    values = {"queues": (), "threads": 0, "heartbeat_age_s": 1.0, "vitals": Vitals(), **fields}
    return Process(kind=kind, host="here", pid=pid, started_at=BEGAN, **values)


def test_pools_of_several_workers_are_one() -> None:
    found = told(
        Figures(
            [
                process(pid=1, threads=8, queues=("default", "mail"), vitals=Vitals(busy=3)),
                process(pid=2, threads=4, queues=("default",), vitals=Vitals(busy=4)),
                process("api", pid=3),
            ],
            [queue("default"), queue("mail"), queue("nobody's", queued=5)],
            NOTHING.counted,
        )
    )
    assert found.value("worker_pool_active_count") == 7
    assert found.value("worker_pool_idle_count") == 5
    serving = {one: found.value("callboard_queue_workers", queue=one) for one in ("default", "mail")}
    assert serving == {"default": 2, "mail": 1}
    assert found.count("callboard_queue_workers", queue="nobody's") == 1
    assert found.value("callboard_queue_workers", queue="nobody's") == 0
    assert found.value("callboard_processes", kind="clock") == 0


def queue(name: str, **tasks: int) -> InQueue:
    return InQueue(name=name, paused=False, tasks=tasks, sent=0, dead=0, oldest_age_s=None)


def test_lags_grow_with_the_age_of_the_heartbeat() -> None:
    vitals = Vitals(dispatch_lag_s=0.25, tick_lag_s=0.5, connected=False, ready={"default": 7})
    found = told(Figures([process("clock", heartbeat_age_s=9.0, vitals=vitals)], [], NOTHING.counted))
    assert found.value("callboard_dispatcher_lag_seconds") == 9.25
    assert found.value("callboard_clock_lag_seconds") == 9.5
    assert found.value("callboard_rabbitmq_connected", kind="clock") == 0
    assert found.value("callboard_rabbitmq_ready", queue="default") == 7


def test_a_process_without_rabbitmq_tells_nothing_of_it() -> None:
    found = told(Figures([process("clock"), process("api")], [], NOTHING.counted))
    for name in ("callboard_dispatcher_lag_seconds", "callboard_rabbitmq_connected"):
        assert name in found.names
        assert found.count(name) == 0


def test_names_of_users_are_quoted() -> None:
    odd = 'a "quoted" \\ name\nwith a line'
    found = told(Figures([], [queue(odd, queued=2)], Counted({(odd, odd): {"completed": 3}}, {}, {})))
    assert found.value("task_queue_size", queue=odd) == 2
    assert found.value("task_success_total", task_type=odd) == 3


def test_requests_of_another_version_do_not_break_the_scrape() -> None:
    asked = Traffic("GET", "/x", {"2xx": 3}, [3], 0.5)
    found = told(Figures([process("api", vitals=Vitals(traffic=[asked]))], [], NOTHING.counted))
    assert found.value("callboard_http_requests_total", route="/x", status="2xx") == 3
    assert found.count("callboard_http_request_duration_seconds_count") == 0


def test_an_error_that_has_not_happened_yet_is_told_as_0() -> None:
    asked = Traffic("GET", "/x", {"2xx": 3}, [0] * (len(traffic.BOUNDS) + 1), 0.5)
    found = told(Figures([process("api", vitals=Vitals(traffic=[asked]))], [], NOTHING.counted))
    assert found.count("callboard_http_requests_total", route="/x", status="5xx") == 1
    assert found.value("callboard_http_requests_total", route="/x") == 3
