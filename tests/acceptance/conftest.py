"""Whole Callboards for the acceptance tests, on the embedded default and on RabbitMQ; and the API alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from falcon.testing import TestClient

from pipelines.bootstrap import Kit, open_kit
from tasks.settings import Settings
from tests.support.api import api_on
from tests.support.callbacks import CALLBACK_SECRET
from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, deployment
from tests.support.servers import RabbitNode

#: The types of the documents' examples, which are users' own.
SPEC_ACTORS = "tests.support.spec_actors"


@pytest.fixture(scope="session")
def file_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder that ``file_path`` may name."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def embedded(file_root: Path) -> Iterator[Deployment]:
    """Callboard as it comes, with its own Postgres, but that it may fetch from and call this machine."""
    environ = {
        "CALLBOARD_FILE_ROOTS": str(file_root),
        "CALLBOARD_ACTORS": SPEC_ACTORS,
        "CALLBOARD_FETCH_ALLOW_PRIVATE": "1",
        "CALLBOARD_CALLBACK_ALLOW_PRIVATE": "1",
        "CALLBOARD_CALLBACK_SECRET": CALLBACK_SECRET,
    }
    with deployment(environ) as running:
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
            "CALLBOARD_ACTORS": SPEC_ACTORS,
            "CALLBOARD_PROCESSES": "2",
        }
        with deployment(environ) as running:
            yield running


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, data_dir=tmp_path, actors=("tests.support.api",), port=0)


@pytest.fixture
def kit(settings: Settings) -> Iterator[Kit]:
    kit = open_kit(settings)
    yield kit
    kit.close()


@pytest.fixture
def client(kit: Kit) -> Iterator[TestClient]:
    """The API on an empty record, called without a server."""
    with api_on(kit) as client:
        yield client
