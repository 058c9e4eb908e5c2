"""Whole Callboards for the acceptance tests: one on the embedded default, one on RabbitMQ and Postgres."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, deployment
from tests.support.servers import RabbitNode


@pytest.fixture(scope="session")
def file_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder that ``file_path`` may name."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def embedded(file_root: Path) -> Iterator[Deployment]:
    """Callboard as it comes: its own Postgres, no RabbitMQ."""
    with deployment({"CALLBOARD_FILE_ROOTS": str(file_root)}) as running:
        yield running


@pytest.fixture(scope="module")
def on_rabbitmq(postgres_url: str, rabbit_node: RabbitNode, file_root: Path) -> Iterator[Deployment]:
    """Callboard on a real RabbitMQ and Postgres, with two worker processes.

    It ends with its module: two installations on one RabbitMQ would take each other's messages.
    """
    with fresh_database(postgres_url) as url:
        environ = {
            "CALLBOARD_DATABASE_URL": url,
            "CALLBOARD_BROKER_URL": rabbit_node.url,
            "CALLBOARD_FILE_ROOTS": str(file_root),
            "CALLBOARD_PROCESSES": "2",
        }
        with deployment(environ) as running:
            yield running
