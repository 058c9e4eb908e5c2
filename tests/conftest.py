"""Servers and databases for the tests: real ones, started once a session and thrown away afterwards."""

import os
import random
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from pipelines.bootstrap import migrate_all
from tasks.database import connect
from tasks.migrations import migrate
from tests.support.databases import empty, fresh_database
from tests.support.servers import RabbitNode, postgres_server, rabbitmq_server

# A busy machine makes any example slow: nothing here is wrong because it took long.
hypothesis.settings.register_profile("callboard", deadline=None)
hypothesis.settings.load_profile("callboard")

#: The files that take longest begin first, so that no worker has one of them left at the end.
LONG = (
    "test_demo.py",
    "test_readme.py",
    "test_crashes.py",
    "test_order.py",
    "test_recovery.py",
    "test_spec_examples.py",
    "test_fuzz.py",
    "test_leases.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


#: The seeds of this run of the fault suite; pytest's helpers on other cores take them from the environment.
SEEDS_VARIABLE = "FAULT_SEED"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, help="how many random seeds the fault suite runs with")


def pytest_configure(config: pytest.Config) -> None:
    _keep_bytecode(config)
    # As a supervisor tells its workers: where each BLAS takes all cores they only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not os.environ.get(SEEDS_VARIABLE):
        seeds = [str(random.randrange(10**6)) for _ in range(config.getoption("--seeds"))]
        os.environ[SEEDS_VARIABLE] = ",".join(seeds)


def _keep_bytecode(config: pytest.Config) -> None:
    """Where no bytecode may lie beside the sources, let our hundreds of processes share it elsewhere."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) and not os.environ.get("PYTHONPYCACHEPREFIX"):
        folder = tempfile.TemporaryDirectory(prefix="callboard-bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(lambda: os.environ.pop("PYTHONPYCACHEPREFIX"))
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        seeds = [int(seed) for seed in os.environ[SEEDS_VARIABLE].split(",")]
        metafunc.parametrize("seed", seeds, ids=lambda seed: f"{SEEDS_VARIABLE}={seed}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the fault suite, which a passing test would keep to itself."""
    reports = [report for one in ("passed", "failed") for report in terminalreporter.getreports(one)]
    lines = [
        f"{report.nodeid.rpartition('::')[2].partition('[')[0]}: {value}"
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "figures"
    ]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def rabbit_node() -> Iterator[RabbitNode]:
    with rabbitmq_server() as node:
        yield node


@pytest.fixture(scope="session")
def used_database_url(postgres_url: str) -> Iterator[str]:
    """A migrated database for one test after the other."""
    with fresh_database(postgres_url) as url:
        database = connect(url)
        migrate_all(database)
        database.close_all()
        yield url


@pytest.fixture
def database_url(used_database_url: str) -> str:
    """A migrated database without a row."""
    empty(used_database_url)
    return used_database_url


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    """A database that all tests of a module share."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def shared(url: str) -> Iterator[PooledPostgresqlDatabase]:
    """A peewee database on the one that a module shares, with the record's tables."""
    shared = connect(url)
    migrate(shared)
    yield shared
    shared.close_all()


@pytest.fixture
def database(database_url: str) -> Iterator[PooledPostgresqlDatabase]:
    """A peewee database on a migrated database without a row."""
    database = connect(database_url)
    yield database
    database.close_all()
