"""Many schedules that are due in the same second: how late the last one is."""

import pytest

from tests.benchmarks.schedules import measure


@pytest.mark.slow
@pytest.mark.parametrize("clocks", [1, 3])
def test_ten_thousand_schedules_of_one_second_are_less_than_a_second_late(
    postgres_url: str, clocks: int
) -> None:
    # What else the machine does makes them late too: one of several rounds is a quiet one.
    rounds = [measure(postgres_url, None, clocks)["over"] for _ in range(3)]

    assert min(rounds) < 1.0, rounds


def test_a_thousand_schedules_of_one_second_are_fired_together(postgres_url: str) -> None:
    assert measure(postgres_url, None, 1, count=1_000)["over"] < 5.0
