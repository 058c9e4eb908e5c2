"""Who is next: the order of candidates, and what of it may be published."""

from collections.abc import Sequence
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tasks.ids import new_id
from tasks.ledger.order import FLOOD, MOST_LEVEL, MOST_STEPS, RANK_EVERY, Candidate, Choice, Sent, choose, fit

LOW, NORMAL, HIGH, CRITICAL = 2, 5, 8, 10
ANN, BOB, CID = 1, 2, 3
MINUTE = 60.0

#: Tasks of a few tenants: the tenant, the priority, and since when it waits, in seconds.
WORK = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 10), st.integers(0, 2_000)), max_size=80)


def ready(tenant: int, count: int, priority: int = NORMAL, since: float = 0.0) -> list[Candidate]:
    """Tasks that became ready so many seconds ago."""
    return [Candidate(new_id(), tenant, -since - priority * MINUTE, priority) for _ in range(count)]


def made_of(work: Sequence[tuple[int, int, int]]) -> list[Candidate]:
    return [task for tenant, priority, since in work for task in ready(tenant, 1, priority, since)]


def tenants(choices: Sequence[Choice]) -> list[int]:
    return [one.task.tenant for one in choices]


def places(choices: Sequence[Choice], tasks: Sequence[Candidate]) -> list[int]:
    order = [one.task.id for one in choices]
    return [order.index(task.id) for task in tasks]


@given(WORK)
def test_everybody_has_a_place_and_nobody_two(work: list[tuple[int, int, int]]) -> None:
    found = made_of(work)
    assert sorted(one.task.id for one in choose(found)) == sorted(task.id for task in found)


@given(WORK)
def test_within_a_tenant_the_rank_decides_alone(work: list[tuple[int, int, int]]) -> None:
    chosen = list(choose(made_of(work)))
    for tenant in range(1, 5):
        ranks = [one.task.rank for one in chosen if one.task.tenant == tenant]
        assert ranks == sorted(ranks)


@given(st.lists(st.sampled_from([NORMAL, HIGH]), min_size=1, max_size=60))
def test_what_was_submitted_together_keeps_its_order(priorities: list[int]) -> None:
    together = [task for priority in priorities for task in ready(ANN, 1, priority)]
    chosen = [one.task for one in choose(together)]
    for priority in (NORMAL, HIGH):
        alike = [task for task in together if task.boost == priority]
        assert [task for task in chosen if task.boost == priority] == alike


def test_a_critical_task_is_first_although_its_tenant_has_many_low_ones() -> None:
    low, critical = ready(ANN, 500, LOW, since=100), ready(ANN, 1, CRITICAL)
    others = ready(BOB, 10, LOW, since=100)
    assert next(choose(low + critical + others)).task == critical[0]


def test_a_few_tasks_come_before_the_many_of_another_tenant_however_long_these_wait() -> None:
    many, few = ready(ANN, 500, since=100_000), ready(BOB, 10)
    chosen = list(choose(many + few))
    assert max(places(chosen, few)) <= 10 + 10 // (RANK_EVERY - 1) + 1


def test_a_flood_of_high_ones_comes_after_a_few_normal_ones_of_others() -> None:
    flood, few = ready(ANN, 500, HIGH), ready(BOB, 3)
    assert max(places(list(choose(flood + few)), few)) <= 3 + 1


def test_a_tenant_is_judged_by_all_that_it_has_ready_although_little_of_it_was_read() -> None:
    # Given the first tasks of a flood, and of one that has something critical behind its own
    flood = [task._replace(crowd=FLOOD, top=HIGH) for task in ready(ANN, 2, HIGH, since=500)]
    urgent = [task._replace(crowd=FLOOD, top=CRITICAL) for task in ready(BOB, 2, LOW, since=300)]
    few = ready(CID, 2)
    # Then the flood is last, and who has something critical first
    levels = {one.task.tenant: one.level for one in choose(flood + urgent + few)}
    assert levels == {ANN: HIGH - MOST_STEPS, BOB: CRITICAL - MOST_STEPS, CID: NORMAL}
    assert all(one.yields == (one.task.tenant != CID) for one in choose(flood + urgent + few))


def test_floods_take_turns() -> None:
    chosen = list(choose(ready(ANN, 100, since=500) + ready(BOB, 100) + ready(CID, 100, since=50)))
    for tenant in (ANN, BOB, CID):
        assert 25 <= tenants(chosen[:120]).count(tenant) <= 60


def test_every_eighth_place_is_for_the_best_rank_of_all() -> None:
    # Given an old flood, and always enough of others that are not
    old, others = ready(ANN, 40, since=1_000), [task for n in range(10, 60) for task in ready(n, 1)]
    chosen = list(choose(old + others))[:48]
    assert tenants(chosen).count(ANN) == 48 // RANK_EVERY
    assert all(one.early == (one.task.tenant == ANN) for one in chosen)


def test_one_place_at_a_time_the_best_rank_is_chosen_now_and_then() -> None:
    old, new = ready(ANN, 40, since=1_000), ready(BOB, 1)
    firsts = [next(choose(old + new)).task.tenant for _ in range(800)]
    assert 40 <= firsts.count(ANN) <= 200


# --- the wire ----------------------------------------------------------------------------------


def wires(found: Sequence[Candidate], sent: Sequence[Sent] = (), window: int = 1_000) -> dict[UUID, int]:
    return {one.id: one.wire for one in fit(choose(found, sent), sent, window)}


def test_a_message_has_the_priority_of_its_task() -> None:
    for priority in range(MOST_LEVEL + 1):
        (task,) = ready(ANN, 1, priority)
        assert wires([task]) == {task.id: priority}


def test_a_full_window_stays_closed_to_what_would_wait_and_is_open_to_what_overtakes() -> None:
    full = [Sent(ANN, False, LOW, -1_000.0, 64)]
    assert wires(ready(ANN, 5, LOW), full, 64) == {}
    (critical,) = ready(ANN, 1, CRITICAL, since=1_000)
    assert wires([critical], full, 64) == {critical.id: 10 - 4}


def test_what_came_when_the_time_of_a_low_one_was_over_does_not_overtake_it() -> None:
    # Given a message of low priority that has waited for long
    sent = [Sent(ANN, False, LOW, -LOW * MINUTE - 7 * MINUTE, 1)]
    old, young = ready(BOB, 1, HIGH, since=2 * MINUTE), ready(BOB, 1, HIGH)
    # Then a high one overtakes it that came before its time was over, and a younger one does not
    assert wires(old, sent) == {old[0].id: HIGH}
    assert wires(young, sent) == {young[0].id: LOW}


def test_a_few_overtake_the_many_messages_of_another_tenant_but_not_its_own() -> None:
    sent = [Sent(ANN, True, 1, -100_000.0, FLOOD)]
    (other,), (own,) = ready(BOB, 1), ready(ANN, 1)
    assert wires([other], sent) == {other.id: NORMAL}
    assert wires([own], sent) == {own.id: 1}


@given(WORK, st.integers(1, 50))
def test_of_no_priority_more_than_a_window_is_published(
    work: list[tuple[int, int, int]], window: int
) -> None:
    stamps = fit(choose(made_of(work)), [], window)
    for level in range(MOST_LEVEL + 1):
        assert sum(one.wire == level for one in stamps) <= window
