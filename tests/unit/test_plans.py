"""How long plans are kept."""

from tasks.plans import BUSY_SECONDS, MANY_VERBS, QUIET_SECONDS, are_stale


def test_plans_are_made_anew_every_moment_while_much_is_recorded() -> None:
    assert not are_stale(BUSY_SECONDS, MANY_VERBS)
    assert are_stale(BUSY_SECONDS + 0.1, MANY_VERBS)


def test_tasks_that_come_one_by_one_seldom_wait_for_a_plan() -> None:
    assert not are_stale(BUSY_SECONDS + 0.1, MANY_VERBS - 1)
    assert are_stale(QUIET_SECONDS + 0.1, 1)
