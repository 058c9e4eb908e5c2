"""Two counts tell whether a queue holds something that the record knows nothing of."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.rabbitmq import surplus
from actors.rabbitmq.surplus import Surplus


def test_a_queue_that_nobody_has_looked_into_is_looked_into_once() -> None:
    counts = Surplus()
    assert counts.is_there(3, 3, is_quiet=True)
    counts.walked(0)
    assert not counts.is_there(3, 3, is_quiet=True)


def test_an_empty_queue_needs_no_look() -> None:
    counts = Surplus()
    assert not counts.is_there(0, 5, is_quiet=True)
    assert counts.is_there(1, 5, is_quiet=True)


def test_what_is_counted_while_copies_come_and_go_is_used_only_if_that_never_ends() -> None:
    counts = Surplus()
    counts.walked(0)
    assert not counts.is_there(4, 3, is_quiet=False)
    counts._quiet_at -= surplus.PATIENCE_SECONDS
    assert counts.is_there(4, 3, is_quiet=False)


def test_now_and_then_a_queue_is_looked_into_without_a_reason() -> None:
    counts = Surplus()
    counts.walked(0)
    counts._walked_at -= 2 * surplus.ANYWAY_SECONDS
    assert not counts.is_there(0, 0, is_quiet=True)
    counts._walked_at -= 2 * surplus.ANYWAY_SECONDS
    assert counts.is_there(3, 3, is_quiet=True)


class Queue(RuleBasedStateMachine):
    """Copies that come, are lost and are resolved, and messages of others: none of those is overlooked."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Surplus()
        self.copies = self.lost = self.foreign = 0

    @rule(count=st.integers(1, 3))
    def publish_copies(self, count: int) -> None:
        self.copies += count

    @precondition(lambda self: self.copies)
    @rule()
    def lose_a_copy(self) -> None:
        self.copies -= 1
        self.lost += 1

    @precondition(lambda self: self.lost)
    @rule()
    def forget_a_lost_copy_after_a_walk(self) -> None:
        self.lost -= 1
        self.foreign = 0
        self.counts.walked(-self.lost)

    @rule(count=st.integers(1, 2), looks=st.booleans())
    def throw_in(self, count: int, looks: bool) -> None:
        self.look()  # every second
        self.foreign += count

    @invariant()
    def nothing_is_overlooked(self) -> None:
        self.look()

    def look(self) -> None:
        counted, expected = self.copies + self.foreign, self.copies + self.lost
        if self.counts.is_there(counted, expected, is_quiet=True):
            self.foreign = 0
            self.counts.walked(-self.lost)
        assert self.foreign == 0


TestQueue = Queue.TestCase
