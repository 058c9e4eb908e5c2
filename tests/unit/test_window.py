"""The window of a queue: it grows when workers run dry, and shrinks when it is larger than it has to be."""

from hypothesis import given
from hypothesis import strategies as st

from actors.window import FIRST, LARGEST, LAZY_SECONDS, SMALLEST, Window

REFILL_SECONDS = 0.02


def work(window: Window, rate: float, refills: int) -> int:
    """Refill a window while workers take ``rate`` messages a second; how often they had nothing to do."""
    sent, dry = 0.0, 0
    for n in range(refills):
        window.seen(int(sent), n * REFILL_SECONDS)
        sent = max(sent, window.size)
        window.refilled(int(sent))
        dry += sent < rate * REFILL_SECONDS
        sent = max(0.0, sent - rate * REFILL_SECONDS)
    return dry


def test_a_window_that_workers_half_empty_doubles_until_they_do_not() -> None:
    window = Window()
    work(window, 20_000, 20)
    assert 800 <= window.size <= 2_000
    assert work(window, 20_000, 100) == 0


def test_a_window_that_stays_more_than_half_full_is_halved_every_second() -> None:
    window = Window(1_024)
    window.seen(1_000, 0)
    window.seen(1_000, LAZY_SECONDS)
    window.seen(1_000, LAZY_SECONDS + 0.5)
    assert window.size == 512
    work(window, 5, 1_000)
    assert window.size == SMALLEST


def test_a_window_that_was_never_filled_is_not_too_small() -> None:
    # Given little work that is done at once
    window = Window()
    for n in range(10):
        window.seen(0, n)
        window.refilled(3)
    assert window.size == FIRST


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 10))))
def test_a_window_stays_in_its_bounds_whatever_it_sees(steps: list[tuple[int, int, float]]) -> None:
    window, now = Window(), 0.0
    for before, after, seconds in steps:
        now += seconds
        window.seen(before, now)
        window.refilled(after)
        assert SMALLEST <= window.size <= LARGEST


@given(st.floats(1, 20_000))
def test_at_any_speed_the_window_settles_where_workers_are_busy_and_little_waits(
    rate: float,
) -> None:
    window = Window()
    work(window, rate, 600)
    assert work(window, rate, 300) == 0
    assert window.size <= max(SMALLEST, 8 * rate * REFILL_SECONDS, 4)


def test_tasks_share_messages_only_where_a_window_has_grown() -> None:
    sizes = (SMALLEST, FIRST, 128, 512, 1_024, LARGEST)
    assert [Window(size).together for size in sizes] == [1, 1, 2, 8, 16, 16]
