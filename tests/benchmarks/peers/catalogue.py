"""The peers and their configurations: two worker processes on two cores, as fast as each reasonably goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_APPS = "tests.benchmarks.peers"


@dataclass(frozen=True)
class Peer:
    """A task queue in one configuration."""

    name: str
    environment: str
    #: How many tasks are measured: what takes some seconds.
    tasks: int
    configuration: str
    records: str
    #: Command lines for its Python, each one started once.
    workers: tuple[str, ...]
    #: When each task was completed, by its record; without one, its actors note it in files.
    completed: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    exchanges: tuple[str, ...] = ()
    oldest_python: tuple[int, int] = (3, 11)

    @property
    def app(self) -> str:
        """The module with its task."""
        return f"{_APPS}.{self.environment}_app"


def _dramatiq(name: str, prefetch: str, tasks: int, configuration: str) -> Peer:
    return Peer(
        name=name,
        environment="dramatiq",
        tasks=tasks,
        configuration=configuration,
        records="nothing",
        workers=(f"-m dramatiq {_APPS}.dramatiq_app --processes 2 --threads 8",),
        settings={"dramatiq_queue_prefetch": prefetch},
        queues=("peer_dramatiq", "peer_dramatiq.DQ", "peer_dramatiq.XQ"),
    )


def _oban(limit: int, tasks: int, reason: str) -> Peer:
    return Peer(
        name=f"oban limit {limit}",
        environment="oban",
        tasks=tasks,
        configuration=f"2 processes, limit {limit} each ({reason}), uvloop, orjson, no log line a job",
        records="a row in Postgres",
        workers=(f"-m {_APPS}.oban_app work",) * 2,
        settings={"PEER_LIMIT": str(limit)},
        completed="SELECT completed_at AT TIME ZONE 'UTC' AS at FROM oban_jobs WHERE state = 'completed'",
        oldest_python=(3, 12),
    )


_CELERY = Peer(
    name="celery",
    environment="celery",
    tasks=2_500,
    configuration=(
        "2 prefork children, its default prefetch and early acknowledgement (more children or messages are "
        "no faster; threads are 6 times slower, as results then open a connection a task)"
    ),
    records="a result in Postgres",
    workers=(
        f"-m celery -A {_APPS}.celery_app worker --pool prefork --concurrency 2"
        " --loglevel WARNING --without-gossip --without-mingle --without-heartbeat",
    ),
    settings={"PEER_PREFETCH": "4"},
    completed="SELECT date_done AT TIME ZONE 'UTC' AS at FROM celery_taskmeta WHERE status = 'SUCCESS'",
    queues=("peer_celery",),
    exchanges=("peer_celery", "celeryev", "celery.pidbox", "reply.celery.pidbox"),
)

_PROCRASTINATE = Peer(
    name="procrastinate",
    environment="procrastinate",
    tasks=3_500,
    configuration="2 processes, 8 async tasks at once and a connection for each (20 at once are no faster)",
    records="a row and its events in Postgres",
    workers=(f"-m {_APPS}.procrastinate_app work",) * 2,
    settings={"PEER_CONCURRENCY": "8"},
    completed="SELECT at FROM procrastinate_events WHERE type = 'succeeded'",
)

_TASKIQ = Peer(
    name="taskiq",
    environment="taskiq",
    tasks=12_000,
    configuration=(
        "2 processes, 100 async tasks at once and as many messages prefetched (its default, 10, is a tenth "
        "slower), a classic queue, asyncpg, uvloop"
    ),
    records="a result in Postgres",
    workers=(
        f"-m taskiq worker {_APPS}.taskiq_app:broker --workers 2 --max-async-tasks 100 --log-level WARNING",
    ),
    settings={"PEER_PREFETCH": "100"},
    completed="SELECT written_at AS at FROM taskiq_results",
    queues=("peer_taskiq", "peer_taskiq.dead"),
    exchanges=("peer_taskiq",),
)

PEERS = (
    _dramatiq("dramatiq", "0", 30_000, "2 processes × 8 threads, confirms, its default prefetch: 2 a thread"),
    _dramatiq("dramatiq prefetch 200", "200", 45_000, "the same with 200 messages prefetched: short tasks"),
    _oban(10, 16_000, "its default"),
    _oban(50, 28_000, "for short jobs"),
    _oban(200, 32_000, "the fastest for no-op jobs; 1,000 is no faster"),
    _TASKIQ,
    _PROCRASTINATE,
    _CELERY,
)
