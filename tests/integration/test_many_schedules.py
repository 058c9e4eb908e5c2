"""Many schedules that are due in the same second: how late the last one is."""

import os

import pytest

from tests.benchmarks.schedules import measure

ROUNDS = 3


def patience() -> float:
    """A second, or as many times longer as there are others here for each core."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("clocks", [1, 3])
def test_ten_thousand_schedules_of_one_second_are_less_than_a_second_late(
    postgres_url: str, clocks: int
) -> None:
    rounds = [measure(postgres_url, None, clocks)["over"] for _ in range(ROUNDS)]

    assert min(rounds) < patience(), rounds


def test_a_thousand_schedules_of_one_second_are_less_than_a_second_late(postgres_url: str) -> None:
    assert measure(postgres_url, None, 1, count=1_000)["over"] < patience()
