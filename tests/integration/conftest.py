"""What most integration tests begin with: a clock, on the embedded default and on RabbitMQ."""

from collections.abc import Iterator

import pytest

from tests.support.processes import Installation, installation


@pytest.fixture(scope="module", params=["local", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("rabbit_node").url) if request.param == "rabbitmq" else None


@pytest.fixture(scope="module")
def house(
    postgres_url: str, broker_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A clock, shared by the tests of a module."""
    with installation(postgres_url, broker_url, tmp_path_factory.mktemp("house")) as house:
        house.start_clock()
        yield house


@pytest.fixture
def board(house: Installation) -> Iterator[Installation]:
    """A clock, and neither a worker nor work yet."""
    yield house
    house.show_logs()
    house.sweep()
