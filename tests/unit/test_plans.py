"""How long plans are kept."""

from tasks.plans import KEPT_SECONDS, SMALL_BYTES, are_stale

LARGE = 100 * SMALL_BYTES


def test_plans_are_made_anew_when_any_table_has_grown_to_twice_its_size() -> None:
    assert are_stale(1.1, (LARGE, 0), (2 * LARGE + 1, 0))
    assert are_stale(1.1, (LARGE, 0), (LARGE, 2 * SMALL_BYTES + 1))


def test_tasks_that_come_one_by_one_seldom_wait_for_a_plan() -> None:
    assert not are_stale(1.1, (0, 0), (SMALL_BYTES, 0))
    assert not are_stale(KEPT_SECONDS - 0.1, (LARGE, 0), (LARGE + SMALL_BYTES, SMALL_BYTES))


def test_no_plan_is_kept_for_long() -> None:
    assert are_stale(KEPT_SECONDS + 0.1, (LARGE, 0), (LARGE, 0))
