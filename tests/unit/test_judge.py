"""Judging from observations: what counts is what changed while somebody looked, never what a clock says."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tasks.ids import new_id
from tasks.judge import Judge, Loss, Sighting

LEASE, GRACE, LOOK = 15.0, 0.5, 0.25
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Process:
    """A process as it is seen."""

    def __init__(self) -> None:
        self.id = new_id()
        self.heartbeat: datetime | None = NOON
        self.locked = True
        self.renewed = True

    def beat(self, seconds: float = 3.0) -> None:
        assert self.heartbeat is not None
        self.heartbeat += timedelta(seconds=seconds)

    @property
    def sighting(self) -> Sighting:
        return Sighting(self.id, self.heartbeat, self.locked, self.renewed)

    @property
    def died(self) -> list[Loss]:
        return [Loss(self.id, died=True)]

    @property
    def froze(self) -> list[Loss]:
        return [Loss(self.id, died=False)]


class Court:
    """A judge and the time that passes for him."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.judge = Judge(lease=LEASE, grace=GRACE)

    def look(self, *processes: Process, after: float = LOOK) -> list[Loss]:
        self.now += after
        return self.judge.look(self.now, [one.sighting for one in processes])

    def looks(self, *processes: Process, seconds: float) -> Sequence[list[Loss]]:
        """What is said at each of the looks during some seconds."""
        return [self.look(*processes) for _ in range(round(seconds / LOOK))]


@pytest.fixture
def court() -> Court:
    return Court()


@pytest.fixture
def process() -> Process:
    return Process()


# --- who died ----------------------------------------------------------------------------------------


def test_a_process_whose_lock_stays_free_for_the_grace_time_died(court: Court, process: Process) -> None:
    court.look(process)
    process.locked = False
    assert court.looks(process, seconds=GRACE) == [[], []]
    assert court.look(process) == process.died


def test_a_judge_that_has_just_begun_needs_no_more_than_the_grace_time_for_a_death(
    court: Court, process: Process
) -> None:
    process.locked = False
    assert court.looks(process, seconds=3 * LOOK)[-1] == process.died


def test_a_lock_that_is_taken_again_within_the_grace_time_is_no_death(court: Court, process: Process) -> None:
    for _ in range(5):
        process.locked = False
        assert court.looks(process, seconds=GRACE) == [[], []]
        process.locked = True
        assert court.look(process) == []


def test_who_beats_lives_although_the_server_has_not_given_the_lock_back_yet(
    court: Court, process: Process
) -> None:
    process.locked = False
    for _ in range(100):
        process.beat(0.25)
        assert court.look(process) == []


def test_a_judge_that_was_away_looks_again_before_it_says_that_somebody_died(
    court: Court, process: Process
) -> None:
    process.locked = False
    court.look(process)
    assert court.look(process, after=3_600) == []
    assert court.look(process) == process.died


def test_the_death_of_one_says_nothing_of_the_others(court: Court) -> None:
    dead, alive = Process(), Process()
    dead.locked = False
    assert court.looks(dead, alive, seconds=3 * LOOK)[-1] == dead.died


# --- who froze ---------------------------------------------------------------------------------------


def test_a_process_that_holds_its_lock_but_has_not_beaten_for_a_lease_froze(
    court: Court, process: Process
) -> None:
    said = court.looks(process, seconds=LEASE)
    assert said == [[]] * len(said)
    assert court.look(process) == process.froze


def test_a_process_that_beats_now_and_then_is_not_lost(court: Court, process: Process) -> None:
    for _ in range(20):
        assert not any(court.looks(process, seconds=LEASE - 1))
        process.beat()


@pytest.mark.parametrize("jump", [timedelta(days=-3_000), timedelta(hours=-1), timedelta(days=3_000)])
def test_a_jump_of_the_clock_of_postgres_makes_nobody_look_frozen(
    court: Court, process: Process, jump: timedelta
) -> None:
    court.looks(process, seconds=5)
    assert process.heartbeat is not None
    process.heartbeat += jump
    assert not any(court.looks(process, seconds=LEASE - 1))


def test_a_frozen_process_is_found_whatever_the_time_of_its_last_heartbeat(
    court: Court, process: Process
) -> None:
    process.heartbeat = NOON + timedelta(days=30_000)
    assert court.looks(process, seconds=LEASE + 2 * LOOK)[-1] == process.froze


def test_a_judge_that_was_frozen_itself_does_not_count_that_time(court: Court, process: Process) -> None:
    """A machine that was paused, with all that runs on it, must not find everybody frozen when it goes on."""
    court.looks(process, seconds=LEASE / 2)
    assert court.look(process, after=3_600) == []
    assert not any(court.looks(process, seconds=LEASE / 2 - 2))
    process.beat()
    assert not any(court.looks(process, seconds=LEASE - 1))


# --- who judges must be able to see ------------------------------------------------------------------


def test_after_an_outage_nobody_is_lost_before_one_lease_of_looking(court: Court, process: Process) -> None:
    court.look(process)
    court.judge.lost_sight()
    process.locked = False
    said = court.looks(process, seconds=LEASE)
    assert said == [[]] * len(said)
    assert court.look(process) == process.died


def test_every_outage_begins_the_wait_anew(court: Court, process: Process) -> None:
    process.locked = False
    for _ in range(5):
        court.judge.lost_sight()
        assert not any(court.looks(process, seconds=LEASE - 1))


def test_those_who_come_back_after_an_outage_are_not_lost_and_those_who_do_not_are(court: Court) -> None:
    # Given an outage that freed all locks
    back, gone = Process(), Process()
    court.look(back, gone)
    court.judge.lost_sight()
    back.locked = gone.locked = False
    assert court.looks(back, gone, seconds=5)[-1] == []
    # When one of two comes back, then only the other one is found, once a lease is over
    back.locked = True
    for _ in range(20):
        back.beat()
        said = court.looks(back, gone, seconds=1)
    assert said[-1] == gone.died


def test_a_lock_that_was_lost_with_another_postgres_says_nothing_before_one_lease(
    court: Court, process: Process
) -> None:
    """Also for a judge that has seen no outage, because it began after it."""
    process.locked = process.renewed = False
    said = court.looks(process, seconds=LEASE)
    assert said == [[]] * len(said)
    assert court.look(process) == process.died


def test_who_claimed_after_it_was_given_up_is_lost_but_did_not_die(court: Court, process: Process) -> None:
    process.heartbeat, process.locked = None, False
    assert court.looks(process, seconds=3 * LOOK)[-1] == process.froze


def test_suspects_are_those_whose_locks_are_free(court: Court, process: Process) -> None:
    other = Process()
    process.locked = False
    court.look(process, other)
    assert court.judge.suspects == {process.id}
    process.locked = True
    court.look(process, other)
    assert court.judge.suspects == set()
