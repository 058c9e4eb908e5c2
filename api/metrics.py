"""The figures of a deployment as Prometheus reads them."""

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from api import traffic
from tasks.figures import Counted, Figures, InQueue, Process
from tasks.ledger.statistics import RETRIED
from tasks.states import CANCELLED, COMPLETED, FAILED
from tasks.statistics import SLOT_GROWTH, SUBMITTED

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
#: The bounds of the histogram of durations, in seconds.
BOUNDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0),
)
#: Told from 0 on, so that the first answer with an error is seen as one more.
STATUSES: Final = ("2xx", "3xx", "4xx", "5xx")
ADDRESS: Final = ("kind", "host", "pid")

Sample = tuple[Sequence[str], float | None]


def exposition(figures: Figures, read_at: float) -> bytes:
    """The figures in the text format 0.0.4; ``read_at`` is in Unix time."""
    registry = CollectorRegistry()
    registry.register(_Told(figures, read_at))
    return generate_latest(registry)


class _Told(Collector):
    """Figures that were read, as a collector."""

    def __init__(self, figures: Figures, read_at: float) -> None:
        self._figures = figures
        self._read_at = read_at

    def collect(self) -> Iterable[Metric]:
        """Every family, also those that have no sample now."""
        found = self._figures
        workers = [one for one in found.processes if one.kind == "worker"]
        return itertools.chain(
            _tasks(found.counted),
            [_durations(found.counted)],
            _queues(found.queues),
            _lines(found.queues, found.processes, workers),
            _pool(workers),
            _processes(found.processes),
            _ledgers(found.processes),
            _upkeep(found.processes),
            _followers(found.processes),
            _requests(found.processes),
            [
                _gauge(
                    "callboard_read_time_seconds",
                    "When this was read, in Unix time.",
                    (),
                    [((), self._read_at)],
                )
            ],
        )

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry is made anew for every scrape."""
        return ()


def _gauge(name: str, words: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for values, number in samples:
        if number is not None:
            family.add_metric(values, number)
    return family


def _counter(name: str, words: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = CounterMetricFamily(name, words, labels=labels)
    for values, number in samples:
        if number is not None:
            family.add_metric(values, number)
    return family


def _tasks(counted: Counted) -> Iterator[Metric]:
    lanes = sorted(counted.words.items())
    by_lane = ("task_type", "queue")
    created = ((lane, words.get(SUBMITTED, 0)) for lane, words in lanes)
    yield _counter("tasks_created", "Tasks that were submitted.", by_lane, created)
    completed = ((lane, words.get(COMPLETED, 0)) for lane, words in lanes)
    yield _counter("tasks_completed", "Tasks that completed.", by_lane, completed)
    types: dict[str, Counter[str]] = defaultdict(Counter)
    for (task_type, _), words in lanes:
        types[task_type].update(words)
    for name, word, meaning in (
        ("task_success", COMPLETED, "Tasks that completed."),
        ("task_failure", FAILED, "Tasks that failed for good."),
        ("callboard_tasks_cancelled", CANCELLED, "Tasks that were cancelled."),
        ("callboard_retries", RETRIED, "Attempts that failed or were lost, and were followed by another."),
    ):
        samples = (((task_type,), words[word]) for task_type, words in types.items())
        yield _counter(name, meaning, ("task_type",), samples)


def _durations(counted: Counted) -> Metric:
    family = HistogramMetricFamily(
        "task_processing_duration_seconds",
        "How long completed tasks took, from their start to their end. The bounds are as exact as 2.5%.",
        labels=("task_type",),
    )
    for task_type, slots in sorted(counted.slots.items()):
        within = [0] * (len(BOUNDS) + 1)
        for slot, number in slots.items():
            seconds = SLOT_GROWTH ** (slot + 0.5) / 1_000
            within[bisect.bisect_left(BOUNDS, seconds)] += number
        spent = counted.spent_ms.get(task_type, 0.0) / 1_000
        family.add_metric((task_type,), _buckets(BOUNDS, within), spent)
    return family


def _buckets(bounds: Sequence[float], within: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulated, as Prometheus has it."""
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    return list(zip(names, map(float, itertools.accumulate(within)), strict=True))


def _queues(queues: Sequence[InQueue]) -> Iterator[Metric]:
    sizes = (((one.name,), one.waiting) for one in queues)
    yield _gauge("task_queue_size", "Tasks that wait in a queue, for whatever it is.", ("queue",), sizes)
    states = (((one.name, state), number) for one in queues for state, number in one.tasks.items())
    yield _gauge("callboard_queue_tasks", "Unfinished tasks of a queue.", ("queue", "status"), states)
    ages = (((one.name,), one.oldest_age_s or 0.0) for one in queues)
    words = "How long the oldest ready task has been waiting for a worker."
    yield _gauge("callboard_queue_oldest_seconds", words, ("queue",), ages)
    sent = (((one.name,), one.sent) for one in queues)
    words = "Ready tasks whose message was published and that no worker has claimed yet."
    yield _gauge("callboard_queue_published", words, ("queue",), sent)
    dead = (((one.name,), one.dead) for one in queues)
    yield _gauge("callboard_dead_letters", "Open dead letters.", ("queue",), dead)
    paused = (((one.name,), float(one.paused)) for one in queues)
    yield _gauge("callboard_queue_paused", "1 if the queue is paused.", ("queue",), paused)


def _lines(
    queues: Sequence[InQueue], processes: Sequence[Process], workers: Sequence[Process]
) -> Iterator[Metric]:
    """What processes know of queues."""
    serving = Counter(name for one in workers for name in one.queues)
    samples = (((one.name,), serving[one.name]) for one in queues)
    yield _gauge("callboard_queue_workers", "Worker processes that serve a queue.", ("queue",), samples)
    ready: dict[str, int] = {}
    for one in processes:
        for name, number in one.vitals.ready.items():
            ready[name] = max(ready.get(name, 0), number)
    counts = (((name,), number) for name, number in sorted(ready.items()))
    words = "Ready messages in a queue by RabbitMQ's own count; one names up to 16 tasks."
    yield _gauge("callboard_rabbitmq_ready", words, ("queue",), counts)


def _pool(workers: Sequence[Process]) -> Iterator[Metric]:
    busy = sum(one.vitals.busy for one in workers)
    threads = sum(one.threads for one in workers)
    yield _gauge("worker_pool_active_count", "Worker threads that run a task.", (), [((), busy)])
    words = "Worker threads that run none."
    yield _gauge("worker_pool_idle_count", words, (), [((), max(0, threads - busy))])
    samples: list[Sample] = []
    for one in workers:
        address = _address(one)[1:]
        samples.append(((*address, "busy"), one.vitals.busy))
        samples.append(((*address, "idle"), max(0, one.threads - one.vitals.busy)))
    yield _gauge("callboard_worker_threads", "Threads of a worker.", ("host", "pid", "state"), samples)


def _processes(processes: Sequence[Process]) -> Iterator[Metric]:
    kinds = Counter({"worker": 0, "api": 0, "clock": 0})
    kinds.update(one.kind for one in processes)
    living = (((kind,), number) for kind, number in sorted(kinds.items()))
    yield _gauge("callboard_processes", "Living processes.", ("kind",), living)
    memory = ((_address(one), one.vitals.memory_bytes) for one in processes)
    yield _gauge("callboard_process_resident_memory_bytes", "Memory of a process (RSS).", ADDRESS, memory)
    cpu = ((_address(one), one.vitals.cpu_seconds) for one in processes)
    yield _counter("callboard_process_cpu_seconds", "CPU time of a process.", ADDRESS, cpu)
    began = ((_address(one), one.started_at.timestamp()) for one in processes)
    words = "When a process began, in Unix time."
    yield _gauge("callboard_process_start_time_seconds", words, ADDRESS, began)
    beats = ((_address(one), one.heartbeat_age_s) for one in processes)
    yield _gauge("callboard_heartbeat_age_seconds", "The age of the last heartbeat.", ADDRESS, beats)


def _ledgers(processes: Sequence[Process]) -> Iterator[Metric]:
    commits = ((_address(one), one.vitals.commits) for one in processes)
    yield _counter("callboard_ledger_commits", "Group commits of a process.", ADDRESS, commits)
    verbs = ((_address(one), one.vitals.verbs) for one in processes)
    yield _counter("callboard_ledger_verbs", "Verbs in these group commits.", ADDRESS, verbs)
    largest = ((_address(one), one.vitals.largest_group) for one in processes)
    words = "The most verbs in a group commit since the heartbeat before."
    yield _gauge("callboard_ledger_largest_group", words, ADDRESS, largest)


def _upkeep(processes: Sequence[Process]) -> Iterator[Metric]:
    lags = ((_address(one)[1:], _aged(one, one.vitals.dispatch_lag_s)) for one in processes)
    words = "How long ago a dispatcher last finished a step; without RabbitMQ there is none."
    yield _gauge("callboard_dispatcher_lag_seconds", words, ADDRESS[1:], lags)
    ticks = ((_address(one)[1:], _aged(one, one.vitals.tick_lag_s)) for one in processes)
    yield _gauge("callboard_clock_lag_seconds", "How long ago a clock last ticked.", ADDRESS[1:], ticks)
    links = (
        (_address(one), None if one.vitals.connected is None else float(one.vitals.connected))
        for one in processes
    )
    words = "1 if a process can publish to RabbitMQ."
    yield _gauge("callboard_rabbitmq_connected", words, ADDRESS, links)


def _followers(processes: Sequence[Process]) -> Iterator[Metric]:
    sockets = ((_address(one)[1:], one.vitals.sockets) for one in processes)
    yield _gauge("callboard_open_sockets", "Open WebSockets of an API process.", ADDRESS[1:], sockets)
    streams = ((_address(one)[1:], one.vitals.streams) for one in processes)
    yield _gauge("callboard_open_streams", "Open event streams of an API process.", ADDRESS[1:], streams)
    delays = ((_address(one)[1:], one.vitals.stream_delay_s) for one in processes)
    words = "The longest time from an event to those who follow its task, since the heartbeat before."
    yield _gauge("callboard_stream_delay_seconds", words, ADDRESS[1:], delays)


def _requests(processes: Sequence[Process]) -> Iterator[Metric]:
    labels = ("method", "route", "host", "pid")
    asked = [
        ((one.method, one.route, *_address(process)[1:]), one)
        for process in processes
        for one in process.vitals.traffic
    ]
    statuses = (
        ((*at, status), number)
        for at, one in asked
        for status, number in (dict.fromkeys(STATUSES, 0) | dict(one.statuses)).items()
    )
    words = "Answered requests by class of status."
    yield _counter("callboard_http_requests", words, (*labels, "status"), statuses)
    family = HistogramMetricFamily(
        "callboard_http_request_duration_seconds",
        "How long requests took; streams, until they began.",
        labels=labels,
    )
    for at, one in asked:
        if len(one.within) == len(traffic.BOUNDS) + 1:  # else it is of another version
            family.add_metric(at, _buckets(traffic.BOUNDS, one.within), one.seconds)
    yield family


def _address(process: Process) -> tuple[str, str, str]:
    return process.kind, process.host, str(process.pid)


def _aged(process: Process, seconds: float | None) -> float | None:
    """What was so long ago at the last heartbeat is longer ago by now."""
    return None if seconds is None else seconds + process.heartbeat_age_s
