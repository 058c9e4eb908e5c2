"""Acknowledging in groups: every delivery once, and no multi-ack over one that is not done."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.rabbitmq.acknowledgements import Acknowledgements


class Channel:
    """RabbitMQ's side of a channel: what is unacknowledged, and whether an ack makes sense there."""

    def __init__(self) -> None:
        self.unacknowledged: list[int] = []

    def ack(self, tag: int, multiple: bool) -> list[int]:
        """The tags that an ack covers; RabbitMQ closes the channel on one that covers none."""
        covered = [one for one in self.unacknowledged if one <= tag] if multiple else [tag]
        assert tag in self.unacknowledged, f"unknown delivery tag {tag}"
        self.unacknowledged = [one for one in self.unacknowledged if one not in covered]
        return covered


class Acknowledging(RuleBasedStateMachine):
    """Deliveries come in, are done in any order, and are collected at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.acks = Acknowledgements()
        self.channel = Channel()
        self.next_tag = 1
        self.working: list[int] = []
        self.waiting: set[int] = set()

    @rule(count=st.integers(1, 6))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            self.acks.delivered(self.next_tag)
            self.channel.unacknowledged.append(self.next_tag)
            self.working.append(self.next_tag)
            self.next_tag += 1

    @rule()
    def deliver_a_foreign_message(self) -> None:
        """It is rejected at once, on its own: its tag is never ours to acknowledge."""
        self.next_tag += 1

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(self.working))
        self.working.remove(tag)
        somebody_collects = bool(self.waiting)
        assert self.acks.done(tag) is not somebody_collects
        self.waiting.add(tag)

    @precondition(lambda self: self.next_tag > 1)
    @rule(data=st.data())
    def finish_what_is_not_out(self, data: st.DataObject) -> None:
        """A late word about a tag that was acknowledged already changes nothing."""
        gone = sorted(set(range(1, self.next_tag)) - set(self.channel.unacknowledged))
        if gone:
            assert self.acks.done(data.draw(st.sampled_from(gone))) is False

    @rule()
    def collect(self) -> None:
        acked = [tag for ack in self.acks.collect() for tag in self.channel.ack(*ack)]
        assert sorted(acked) == sorted(self.waiting), "all that is done, nothing else, and each once"
        self.waiting.clear()

    @invariant()
    def what_is_not_done_is_not_acknowledged(self) -> None:
        assert set(self.working) <= set(self.channel.unacknowledged)


TestAcknowledging = Acknowledging.TestCase


@given(st.permutations(range(1, 30)))
def test_all_that_is_done_in_the_end_is_acknowledged_by_one_ack(order: list[int]) -> None:
    acks = Acknowledgements()
    for tag in sorted(order):
        acks.delivered(tag)
    for tag in order:
        acks.done(tag)
    assert acks.collect() == [(29, True)]
    assert acks.collect() == []


def test_a_gap_is_not_acknowledged_over() -> None:
    # Given four deliveries of which the second is still at work
    acks = Acknowledgements()
    for tag in (1, 2, 3, 4):
        acks.delivered(tag)
    for tag in (4, 1, 3):
        acks.done(tag)
    # Then those behind it are acknowledged one by one
    assert acks.collect() == [(1, True), (3, False), (4, False)]
    # and it itself when it is done
    acks.done(2)
    assert acks.collect() == [(2, True)]


def test_only_the_first_word_wakes_the_consumer() -> None:
    acks = Acknowledgements()
    acks.delivered(1)
    acks.delivered(2)
    assert acks.done(1) is True
    assert acks.done(2) is False
    acks.collect()
    acks.delivered(3)
    assert acks.done(3) is True


def test_a_message_about_several_tasks_is_acknowledged_when_all_of_them_are_settled() -> None:
    acks = Acknowledgements()
    acks.delivered(1, 3)
    acks.delivered(2)
    assert [acks.done(1), acks.done(1)] == [False, False]
    acks.done(2)
    assert acks.collect() == [(2, False)]
    assert acks.done(1) is True
    assert acks.collect() == [(1, True)]


def test_a_message_that_was_given_back_is_never_acknowledged_however_many_of_its_tasks_end_later() -> None:
    acks = Acknowledgements()
    acks.delivered(1, 3)
    acks.done(1)
    acks.forget(1)
    assert [acks.done(1), acks.done(1)] == [False, False]
    assert acks.collect() == []
