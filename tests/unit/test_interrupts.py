"""Interrupting actors: in time, and never anybody else."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any
from uuid import UUID

import pytest

from actors import context
from actors.context import Cancelled, CurrentTask, Drained, Resources, TimedOut, current_task
from actors.errors import ActorsError
from actors.interrupts import INTERRUPTIONS, Interrupts
from tasks.ids import new_id
from tasks.values import Claimed, Json
from tests.support.waiting import eventually

LONG = 60.0


def a_claim(task_id: UUID | None = None) -> Claimed:
    return Claimed(
        id=task_id or new_id(),
        token=1,
        attempt=1,
        failures=0,
        deaths=0,
        task_type="work",
        queue="default",
        payload=Json(b"{}"),
        max_retries=0,
        backoff=None,
        timeout=LONG,
        priority=5,
        user_id="",
        project_id=None,
        kb_id=None,
        tags=[],
        run_id=None,
        stage=None,
        stage_index=None,
    )


class Reports:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str | None, str | None, dict[str, Any]]] = []

    def __call__(
        self, claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
    ) -> None:
        self.seen.append((percent, phase, message, details))


def save_nothing(claim: Claimed, version: int, state: object) -> Future[bool]:
    raise AssertionError("no checkpoint is taken here")


def a_task(report: Any = None) -> CurrentTask:
    return CurrentTask(a_claim(), {}, report or Reports(), save_nothing, Resources())


class Attempt:
    """A call on a thread of its own; `outcome` is what it returned or raised."""

    def __init__(self, interrupts: Interrupts, task: CurrentTask, timeout: float, call: Callable[[], Any]):
        self.inside = threading.Event()
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, args=(interrupts, task, timeout, call))
        self._thread.start()

    def _run(
        self, interrupts: Interrupts, task: CurrentTask, timeout: float, call: Callable[[], Any]
    ) -> None:
        def entered() -> Any:
            self.inside.set()
            return call()

        try:
            self.outcome = interrupts.run(task, timeout, entered)
        except BaseException as error:
            self.outcome = error

    def end(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the actor was not interrupted"
        return self.outcome


def work_on() -> None:
    """An actor that never looks up."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    started = Interrupts().start()
    yield started
    started.close()


# --- in time -----------------------------------------------------------------------------------------


def test_an_actor_that_is_not_interrupted_returns_its_result(interrupts: Interrupts) -> None:
    assert interrupts.run(a_task(), LONG, lambda: 42) == 42
    assert interrupts.count == 0


def test_what_an_actor_raises_goes_through(interrupts: Interrupts) -> None:
    with pytest.raises(ZeroDivisionError):
        interrupts.run(a_task(), LONG, lambda: 1 // 0)
    assert interrupts.count == 0


def test_an_actor_that_runs_for_too_long_is_interrupted(interrupts: Interrupts) -> None:
    attempt = Attempt(interrupts, a_task(), 0.05, work_on)

    assert isinstance(attempt.end(), TimedOut)
    assert interrupts.count == 0


def test_a_cancelled_actor_is_interrupted_and_knows_why(interrupts: Interrupts) -> None:
    task = a_task()
    attempt = Attempt(interrupts, task, LONG, work_on)
    attempt.inside.wait(10)

    interrupts.cancel(task.id)

    assert isinstance(attempt.end(), Cancelled)
    assert task.cancelled


def test_cancelling_one_task_leaves_the_others_alone(interrupts: Interrupts) -> None:
    go_on, one, other = threading.Event(), a_task(), a_task()
    cancelled = Attempt(interrupts, one, LONG, work_on)
    untouched = Attempt(interrupts, other, LONG, lambda: go_on.wait(10))
    cancelled.inside.wait(10)
    untouched.inside.wait(10)

    interrupts.cancel(one.id)
    assert isinstance(cancelled.end(), Cancelled)
    go_on.set()

    assert untouched.end() is True
    assert not other.cancelled


def test_cancelling_a_task_that_is_not_here_does_nothing(interrupts: Interrupts) -> None:
    interrupts.cancel(new_id())


def test_a_process_that_must_stop_interrupts_all_its_actors(interrupts: Interrupts) -> None:
    attempts = [Attempt(interrupts, a_task(), LONG, work_on) for _ in range(4)]
    eventually(lambda: interrupts.count == 4)
    for attempt in attempts:
        attempt.inside.wait(10)

    interrupts.everything()

    assert [type(attempt.end()) for attempt in attempts] == [Drained] * 4


def test_no_actor_can_swallow_an_interrupt_by_catching_errors(interrupts: Interrupts) -> None:
    def stubborn() -> None:
        while True:
            try:
                work_on()
            except Exception:
                continue

    assert isinstance(Attempt(interrupts, a_task(), 0.05, stubborn).end(), TimedOut)


def test_an_actor_may_clean_up_when_it_is_interrupted(interrupts: Interrupts) -> None:
    cleaned = []

    def tidy() -> None:
        try:
            work_on()
        finally:
            cleaned.append(True)

    assert isinstance(Attempt(interrupts, a_task(), 0.05, tidy).end(), TimedOut)
    assert cleaned == [True]


def test_an_actor_is_interrupted_once_and_may_finish_what_it_catches(interrupts: Interrupts) -> None:
    task = a_task()

    def calm() -> str:
        try:
            work_on()
        except Cancelled:
            interrupts.cancel(task.id)  # again
            return "put away"
        return "not interrupted"

    attempt = Attempt(interrupts, task, LONG, calm)
    attempt.inside.wait(10)
    interrupts.cancel(task.id)

    assert attempt.end() == "put away"


# --- in another process ------------------------------------------------------------------------------


def test_an_attempt_in_another_process_is_told_to_stop_by_a_reason_and_nothing_is_raised(
    interrupts: Interrupts,
) -> None:
    task_id = new_id()
    with interrupts.watch(task_id) as watch:
        assert (watch.reason, interrupts.count) == (None, 1)
        interrupts.cancel(task_id)
        interrupts.everything()
        assert isinstance(watch.reason, Cancelled)  # the first reason counts
    assert interrupts.count == 0


def test_an_attempt_in_another_process_is_told_when_its_deadline_has_passed(interrupts: Interrupts) -> None:
    with interrupts.watch(new_id()) as watch:
        watch.deadline = time.monotonic() + 0.05
        eventually(lambda: isinstance(watch.reason, TimedOut))


def test_an_attempt_that_comes_after_the_end_is_told_at_once(interrupts: Interrupts) -> None:
    interrupts.everything()
    with interrupts.watch(new_id()) as watch:
        assert isinstance(watch.reason, Drained)


# --- progress ----------------------------------------------------------------------------------------


def test_progress_is_reported_as_a_percentage_or_as_steps() -> None:
    reports = Reports()
    task = a_task(reports)

    task.progress(12.5, "under way")
    task.progress(step="pages", done=3, total=4)
    task.progress(120)
    task.progress(-1)

    assert reports.seen == [
        (12.5, None, "under way", {}),
        (75.0, "pages", None, {"step": "pages", "steps_done": 3, "steps_total": 4}),
        (100.0, None, None, {}),
        (0.0, None, None, {}),
    ]


@pytest.mark.parametrize("numbers", [{}, {"done": 3}, {"total": 4}, {"done": 0, "total": 0}], ids=str)
def test_progress_without_sense_is_an_error_of_the_actor(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a percentage, or done and total"):
        a_task().progress(**numbers)


@pytest.mark.parametrize("reason", [Cancelled, TimedOut, Drained])
def test_progress_raises_once_the_task_was_interrupted(reason: type[BaseException]) -> None:
    reports = Reports()
    task = a_task(reports)
    task.interrupt(reason())

    with pytest.raises(reason):
        task.progress(50)
    with pytest.raises(reason):
        task.check()
    assert reports.seen == []


def test_the_first_reason_counts() -> None:
    task = a_task()
    task.interrupt(TimedOut())
    task.interrupt(Cancelled())

    with pytest.raises(TimedOut):
        task.check()
    assert not task.cancelled


def test_an_interrupt_waits_until_a_report_has_been_handed_over(interrupts: Interrupts) -> None:
    reporting, go_on, whole = threading.Event(), threading.Event(), []

    def slow_report(*_: Any) -> None:
        reporting.set()
        go_on.wait(10)
        whole.append(True)

    task = a_task(slow_report)
    attempt = Attempt(interrupts, task, LONG, lambda: (task.progress(1), work_on()))
    reporting.wait(10)

    # When the cancel comes in the middle of our own code
    canceller = threading.Thread(target=interrupts.cancel, args=(task.id,))
    canceller.start()
    go_on.set()

    # Then it lets that end, and raises in the actor's code.
    assert isinstance(attempt.end(), Cancelled)
    assert whole == [True]
    canceller.join(10)


def test_the_current_task_is_the_one_of_this_thread() -> None:
    task = a_task()
    context.enter(task)
    try:
        assert current_task() is task
        elsewhere: list[BaseException] = []

        def look() -> None:
            try:
                current_task()
            except ActorsError as error:
                elsewhere.append(error)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert "called directly" in str(elsewhere[0])
    finally:
        context.enter(None)


def test_an_actor_that_waits_until_another_of_its_threads_has_saved_is_interrupted_all_the_same(
    interrupts: Interrupts,
) -> None:
    # Given a task of which one thread saves, for ever, and another one waits for its turn
    saves: list[int] = []

    def save_for_ever(claim: Claimed, version: int, state: object) -> Future[bool]:
        saves.append(version)
        return Future()

    task = CurrentTask(a_claim(), {}, Reports(), save_for_ever, Resources())
    ends: list[BaseException] = []

    def save_too() -> None:
        try:
            task.checkpoint(1)
        except BaseException as error:
            ends.append(error)

    other = threading.Thread(target=save_too)
    other.start()
    eventually(lambda: saves)
    attempt = Attempt(interrupts, task, LONG, lambda: task.checkpoint(2))
    attempt.inside.wait(10)
    # When it is cancelled, then both end, and nothing was saved twice
    interrupts.cancel(task.id)
    assert isinstance(attempt.end(), Cancelled)
    other.join(10)
    assert [type(error) for error in ends] == [Cancelled]
    assert saves == [1]


# --- never too late ----------------------------------------------------------------------------------


class Crew:
    """Threads that run one short task after the other, as a worker does; each has one that interrupts it."""

    def __init__(self, interrupts: Interrupts, enough: int) -> None:
        self.interrupts = interrupts
        self.enough = enough
        self.deadline = time.monotonic() + 15
        self.astray: list[str] = []
        self.finished = 0
        self.interrupted = 0
        self.slowest = 0.0

    @property
    def goes_on(self) -> bool:
        return min(self.finished, self.interrupted) < self.enough and time.monotonic() < self.deadline

    def work(self) -> None:
        calls: SimpleQueue[UUID | None] = SimpleQueue()
        interrupter = threading.Thread(target=self._interrupt, args=(calls,))
        interrupter.start()
        try:
            while self.goes_on:
                self._one_task(calls)
        except BaseException as error:
            self.astray.append(f"our own code was hit: {error!r}")
        calls.put(None)
        interrupter.join(10)

    def _interrupt(self, calls: "SimpleQueue[UUID | None]") -> None:
        while (task_id := calls.get()) is not None:
            self.interrupts.cancel(task_id)

    def _one_task(self, calls: "SimpleQueue[UUID | None]") -> None:
        task, doomed = a_task(), random.random() < 0.7
        began = time.monotonic()
        try:
            self.interrupts.run(task, LONG, lambda: self._act(task, calls, doomed))
            self.finished += 1
        except Cancelled:
            self.interrupted += 1
            if not doomed:
                self.astray.append("a task was interrupted that was never cancelled")
        for _ in range(random.choice((0, 50))):  # our own code: recording, acknowledging, fetching
            threading.Lock().acquire()
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _act(self, task: CurrentTask, calls: "SimpleQueue[UUID | None]", doomed: bool) -> None:
        if doomed:
            calls.put(task.id)
        for step in range(random.randrange(200)):  # the interrupt comes now, later, or too late
            if step % 40 == 0:
                task.progress(step)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_an_interrupt_that_comes_late_hits_neither_the_next_task_nor_our_own_code(
    interrupts: Interrupts, quick_switches: None
) -> None:
    crew = Crew(interrupts, enough=300)
    threads = [threading.Thread(target=crew.work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not [thread for thread in threads if thread.is_alive()]
    assert crew.astray == []
    assert interrupts.count == 0
    assert crew.finished >= crew.enough
    assert crew.interrupted >= crew.enough
    assert crew.slowest < 2, "somebody waited for a lock that was never given back"


def test_all_three_interruptions_pass_by_what_catches_errors() -> None:
    assert not [kind for kind in INTERRUPTIONS if issubclass(kind, Exception)]
