"""Running tasks in processes of their own: the worker's side, with real children."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.attempt import Attempts, Completed, Failed, GivenUp, Lost, Verdict, describe
from actors.context import Resources
from actors.definitions import Actor
from actors.errors import Permanent
from actors.interrupts import Interrupts
from actors.isolation import children
from actors.isolation import runner as module
from actors.isolation.children import Child, Children, Program
from actors.isolation.runner import Runner
from actors.isolation.wire import Message
from actors.registry import Registry, load_module, members
from tasks.errors import Unavailable
from tasks.values import Claimed, Json
from tests.support.claims import a_claim
from tests.support.waiting import eventually

ACTORS = "tests.support.actors_alone"
REPOSITORY = Path(__file__).parents[2]
ENVIRON = {"CALLBOARD_ACTORS": ACTORS, "PYTHONPATH": str(REPOSITORY), "CALLBOARD_DATABASE_URL": ""}
PROGRAM = Program((sys.executable, "-m", "pipelines.isolated"), ENVIRON)
EXTRA_SECONDS = 3.0  # what killing a child may take on a busy machine


class House:
    """A worker's runner without a worker: what would go to the record is kept here."""

    def __init__(self, program: Program = PROGRAM, **children: Any) -> None:
        self.interrupts = Interrupts().start()
        self.children = Children(program, **{"most_idle": 4, **children})
        self.reports: list[tuple[float, str | None, str | None, dict[str, Any]]] = []
        self.saved: list[tuple[int, Any]] = []
        self.answer: bool | Exception = True
        registry = Registry(members(load_module(ACTORS), Actor))
        self.attempts = Attempts(registry, Resources(), self.interrupts, self._report, self._save)
        self.runner = Runner(
            registry, self.attempts, self.interrupts, self.children, self._report, self._save
        )

    def run(self, task_type: str, payload: Any = None, **claim: Any) -> Verdict:
        """The verdict on a task."""
        return self.runner.run(self.claim(task_type, payload, **claim))

    def result(self, task_type: str, payload: Any = None, **claim: Any) -> Any:
        """What a task returns."""
        verdict = self.run(task_type, payload, **claim)
        assert isinstance(verdict, Completed), verdict
        return verdict.result

    def start(self, task_type: str, payload: Any = None, **claim: Any) -> "Started":
        """A task on a thread of its own."""
        return Started(self, self.claim(task_type, payload, **claim))

    @staticmethod
    def claim(task_type: str, payload: Any, **claim: Any) -> Claimed:
        encoded = Json(msgspec.json.encode(payload))
        return a_claim(**{"task_type": task_type, "payload": encoded, "backoff": None, **claim})

    def _report(
        self, claim: Claimed, percent: float, phase: str | None, message: str | None, details: dict[str, Any]
    ) -> None:
        self.reports.append((percent, phase, message, details))

    def _save(self, claim: Claimed, version: int, state: Any) -> "Future[bool]":
        saved: Future[bool] = Future()
        if isinstance(self.answer, Exception):
            saved.set_exception(self.answer)
        else:
            self.saved.append((version, msgspec.json.decode(msgspec.json.encode(state))))
            saved.set_result(self.answer)
        return saved


class Started:
    """A task that runs on a thread."""

    def __init__(self, house: House, claim: Claimed) -> None:
        self.claim = claim
        self._verdict: Verdict | None = None
        self._thread = threading.Thread(target=self._run, args=(house, claim))
        self._thread.start()
        eventually(lambda: house.interrupts.count or self._verdict)

    def _run(self, house: House, claim: Claimed) -> None:
        self._verdict = house.runner.run(claim)

    def verdict(self, seconds: float) -> Verdict:
        self._thread.join(seconds)
        assert self._verdict is not None, f"no verdict within {seconds} s"
        return self._verdict


@pytest.fixture
def house() -> Iterator[House]:
    with_children = House()
    yield with_children
    with_children.children.close()
    with_children.interrupts.close()


@pytest.fixture
def make_house() -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(*args: Any, **more: Any) -> House:
        made.append(House(*args, **more))
        return made[-1]

    yield make
    for house in made:
        house.children.close()
        house.interrupts.close()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or at least waits for nothing but its parent's notice."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- as on a thread ------------------------------------------------------------------------------


def test_an_isolated_task_runs_in_another_process_and_an_ordinary_one_does_not(house: House) -> None:
    assert house.result("whoami") != os.getpid()
    assert house.result("ordinary") == os.getpid()


def test_a_suspect_runs_in_another_process_whatever_its_actor_says(house: House) -> None:
    assert house.result("ordinary", suspect=True) != os.getpid()


def test_an_actor_knows_its_task_there_too(house: House) -> None:
    claim = house.claim("about_itself", {"a": 1}, attempt=3, state=Json(b'{"made": 2}'), snapshot=1)
    verdict = house.runner.run(claim)
    assert verdict == Completed(
        {"id": str(claim.id), "attempt": 3, "payload": {"a": 1}, "state": {"made": 2}}
    )


def test_payloads_and_results_may_be_large(house: House) -> None:
    text = "wörter " * 500_000
    assert house.result("echo", text) == text


def test_what_an_actor_raises_is_judged_there(house: House) -> None:
    failed = house.run("broken", False, failures=0, max_retries=1)
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.message) == ("actor_error", "RuntimeError: out of order")
    assert 'raise RuntimeError("out of order")' in (failed.error.traceback or "")
    assert failed.retry_in is not None
    last = house.run("broken", False, failures=1, max_retries=1)
    assert isinstance(last, Failed)
    assert last.retry_in is None
    permanent = house.run("broken", True)
    assert isinstance(permanent, Failed)
    assert (permanent.error.code, permanent.retry_in) == ("page_missing", None)


def test_what_an_actor_reports_arrives_and_what_it_prints_does_no_harm(house: House) -> None:
    assert house.result("talking") is None
    assert house.reports == [
        (25.0, None, "begun", {}),
        (75.0, "pages", None, {"step": "pages", "steps_done": 3, "steps_total": 4}),
        (90.0, None, "a lone surrogate ?, which JSON cannot hold", {}),
    ]


def test_a_thread_that_a_task_left_behind_reports_for_no_other_task(house: House) -> None:
    house.result("haunting", "boo", token=1)
    house.reports.clear()
    house.result("silent", 0.3, token=2)
    assert house.reports == []


@pytest.mark.parametrize("alone", [True, False])
def test_values_of_other_types_than_asked_for_are_taken_as_text_or_are_an_error_of_the_actor(
    house: House, alone: bool
) -> None:
    def run(task_type: str, payload: Any = None) -> Verdict:
        claim = house.claim(task_type, payload, failures=0, max_retries=1)
        return house.runner.run(claim) if alone else house.attempts.run(claim)

    assert run("careless", "step") == Completed("done")
    assert house.reports == [
        (50.0, None, "3", {}),
        (75.0, "3", None, {"step": "3", "steps_done": 3, "steps_total": 4}),
    ]
    assert run("careless", "total") == Completed("done")
    gone = run("careless", "code")
    assert isinstance(gone, Failed)
    assert (gone.error.code, gone.error.message, gone.retry_in) == ("404", "gone", None)
    wait = run("careless", "wait")
    assert isinstance(wait, Failed)
    assert (wait.error.code, wait.error.error_class) == ("actor_error", "TypeError")
    assert "timedelta" in wait.error.message
    assert wait.retry_in is not None
    late = run("late_wait")
    assert isinstance(late, Failed)
    assert (late.error.code, late.retry_in) == ("actor_error", 0.0)


def test_an_error_that_cannot_be_judged_is_a_failure_all_the_same(house: House) -> None:
    class Odd(Permanent):
        @property
        def code(self) -> str:  # type: ignore[override]
            raise RuntimeError("no code")

    assert describe(house.claim("whoami", None), Odd("odd")).code == "actor_error"
    claim = house.claim("broken", False, failures=0, max_retries=1, backoff={"kind": "unknown"})
    failed = house.attempts.run(claim)
    assert isinstance(failed, Failed)
    assert (failed.error.message, failed.retry_in) == ("RuntimeError: out of order", None)


# --- checkpoints ---------------------------------------------------------------------------------


def test_checkpoints_are_saved_by_the_worker_under_ascending_versions(house: House) -> None:
    assert house.result("saving", [{"made": 1}, "two", None], snapshot=4) is None
    assert house.saved == [(5, {"made": 1}), (6, "two"), (7, None)]


def test_threads_of_one_task_that_save_at_once_take_different_versions(house: House) -> None:
    assert house.result("saving_at_once", 8) is None
    assert [version for version, _ in house.saved] == list(range(1, 9))
    assert sorted(state for _, state in house.saved) == list(range(8))


def test_a_checkpoint_of_a_task_that_was_taken_away_ends_the_attempt(house: House) -> None:
    house.answer = False
    assert house.run("saving", [1, 2]) == GivenUp(hand_back=False)
    assert len(house.saved) == 1


def test_a_checkpoint_that_cannot_be_saved_is_an_error_with_its_code(house: House) -> None:
    house.answer = Unavailable("Postgres cannot be reached now")
    failed = house.run("saving", [1])
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.message) == ("unavailable", "Postgres cannot be reached now")


# --- the end of their time -----------------------------------------------------------------------


@pytest.mark.parametrize("task_type", ["blocked", "hogging"])
def test_a_task_that_notices_no_interrupt_is_killed_soon_after_its_timeout(
    house: House, task_type: str
) -> None:
    began = time.monotonic()
    failed = house.run(task_type, 600, timeout=0.3, max_retries=0)
    assert isinstance(failed, Failed)
    assert failed.error.code == "timeout"
    assert failed.error.message == "it ran for longer than its timeout of 0.3 s"
    assert time.monotonic() - began < 0.3 + module.GRACE_SECONDS + EXTRA_SECONDS


def test_an_actor_may_clean_up_when_its_time_is_up_and_its_process_serves_nobody_else(
    house: House, tmp_path: Path
) -> None:
    before = house.result("whoami")
    failed = house.run("tidy", str(tmp_path / "traces"), timeout=0.3)
    assert isinstance(failed, Failed)
    assert failed.error.code == "timeout"
    assert (tmp_path / "traces").read_text() == "cleaned up"
    assert is_gone(before)
    assert house.result("whoami") != before


def test_the_time_that_a_child_takes_to_start_is_not_the_tasks(house: House) -> None:
    assert house.result("whoami", timeout=0.05)


def test_a_cancelled_task_is_killed_at_once(house: House) -> None:
    pid = house.result("whoami")
    blocked = house.start("blocked", 600)
    house.interrupts.cancel(blocked.claim.id)
    assert blocked.verdict(2) == GivenUp(hand_back=False)
    eventually(lambda: is_gone(pid))


def test_a_worker_that_must_stop_kills_its_isolated_tasks_and_hands_them_back(house: House) -> None:
    blocked = [house.start("blocked", 600) for _ in range(2)]
    house.interrupts.everything()
    assert [one.verdict(2) for one in blocked] == [GivenUp(hand_back=True)] * 2
    # and those that come too late are not even started
    assert house.run("blocked", 600) == GivenUp(hand_back=True)


def test_a_task_that_comes_too_late_does_not_begin_in_a_process_that_is_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert house.result("whoami")
    sent: list[Message] = []
    monkeypatch.setattr(Child, "send", lambda self, message: sent.append(message))
    house.interrupts.everything()
    assert house.run("whoami") == GivenUp(hand_back=True)
    assert sent == []


# --- processes that die --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ({"by_signal": int(signal.SIGKILL)}, "was ended by signal 9"),
        ({"by_signal": int(signal.SIGSEGV)}, "was ended by signal 11"),
        ({"by_signal": int(signal.SIGTERM)}, "was ended by signal 15"),
        ({"code": 3}, "ended with exit code 3"),
        ({"code": 0}, "ended with exit code 0"),
    ],
    ids=str,
)
def test_the_death_of_the_process_is_the_loss_of_its_task_alone(
    house: House, end: dict[str, int], how: str
) -> None:
    neighbour = house.start("silent", 0.5)
    assert house.run("ending", end) == Lost(f"The process of its own that ran the task {how}")
    assert neighbour.verdict(10) == Completed(None)


def test_a_death_is_noticed_although_what_the_process_started_lives_on(house: House) -> None:
    lost = house.run("ending_beside_its_child")
    assert lost == Lost("The process of its own that ran the task ended with exit code 9")


def test_what_an_isolated_task_started_is_killed_with_it(house: House, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    started = house.start("parent", str(file))
    eventually(lambda: file.exists() and file.read_text())
    house.interrupts.cancel(started.claim.id)
    started.verdict(2)
    eventually(lambda: is_gone(int(file.read_text())))


def test_signals_that_all_processes_of_a_service_get_do_not_end_a_task(house: House) -> None:
    assert house.result("signalled") == "untouched"


# --- starting, keeping and ending them -----------------------------------------------------------


def test_a_process_is_used_again_for_the_next_task(house: House) -> None:
    assert len({house.result("whoami") for _ in range(5)}) == 1


def test_a_suspect_runs_in_a_process_that_serves_nobody_before_and_after(house: House) -> None:
    before = house.result("whoami")
    suspect = house.result("whoami", suspect=True)
    after = house.result("whoami")
    assert before == after != suspect
    assert is_gone(suspect)


def test_a_child_starts_small_and_what_it_does_not_need_is_not_imported(house: House) -> None:
    assert house.result("imported") == []


def test_no_process_is_started_before_a_task_needs_one(house: House) -> None:
    before = threading.active_count()
    house.result("ordinary")
    assert threading.active_count() == before
    assert not [one for one in os.listdir("/proc") if one.isdigit() and is_our_child(int(one))]


def is_our_child(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return (
            b"pipelines.isolated" in words
            and f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{pid}/status").read_text()
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_that_nobody_needs_for_a_while_is_ended(make_house: Callable[..., House]) -> None:
    house = make_house(idle_seconds=0.2)
    pid = house.result("whoami")
    eventually(lambda: is_gone(pid), 5)
    assert house.result("whoami") != pid


def test_a_process_that_has_served_many_tasks_is_ended(make_house: Callable[..., House]) -> None:
    house = make_house(tasks_per_child=2)
    pids = [house.result("whoami") for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert is_gone(pids[0])


def test_an_idle_process_that_was_killed_is_replaced(house: House) -> None:
    pid = house.result("whoami")
    os.kill(pid, signal.SIGKILL)
    # Then at worst the next task is handed back, because it had not begun
    verdicts = [house.run("whoami"), house.run("whoami")]
    assert all(isinstance(one, Completed | GivenUp) for one in verdicts)
    assert isinstance(verdicts[1], Completed)
    assert verdicts[1].result not in (pid, os.getpid())


def test_the_processes_end_with_their_worker(house: House) -> None:
    pid = house.result("whoami")
    house.children.close()
    assert is_gone(pid)


@pytest.mark.parametrize("command", ["/bin/false", "/no/such/program"])
def test_a_task_whose_process_cannot_be_started_is_handed_back(
    make_house: Callable[..., House], command: str
) -> None:
    house = make_house(Program((command,)))
    assert house.run("whoami") == GivenUp(hand_back=True)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("embedded null byte")], ids=repr)
def test_whatever_keeps_a_process_from_being_started_is_no_fault_of_the_task(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise error

    with monkeypatch.context() as refused:
        refused.setattr(subprocess, "Popen", refuse)
        assert house.run("whoami") == GivenUp(hand_back=True)
    assert house.result("whoami")


def test_a_keeper_of_processes_that_could_not_be_started_is_started_for_the_next_task(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as refused:
        refused.setattr(threading.Thread, "start", refuse)
        assert house.run("whoami") == GivenUp(hand_back=True)
    assert house.result("whoami")


def test_a_process_that_comes_when_nobody_waits_for_it_any_more_is_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process whose start takes too long
    late: list[Child] = []

    class Late(Child):
        def __init__(self, program: Program) -> None:
            time.sleep(0.3)
            super().__init__(program)
            late.append(self)

    monkeypatch.setattr(children, "SPAWN_SECONDS", 0.1)
    monkeypatch.setattr(children, "Child", Late)
    assert house.run("whoami") == GivenUp(hand_back=True)
    # When it is there at last, then it is ended
    eventually(lambda: late and late[0].has_ended)


def test_a_task_of_a_type_that_its_process_does_not_know_is_handed_back_after_a_pause(
    make_house: Callable[..., House],
) -> None:
    knows_nothing = Program(PROGRAM.command, {**ENVIRON, "CALLBOARD_ACTORS": ""})
    house = make_house(knows_nothing)
    began = time.monotonic()
    assert house.run("whoami") == GivenUp(hand_back=True)
    assert time.monotonic() - began >= module.PAUSE_SECONDS


def test_a_task_whose_process_does_not_become_ready_is_handed_back_too(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    house = make_house(Program(("/bin/sh", "-c", "exec sleep 600")))
    assert house.run("whoami") == GivenUp(hand_back=True)


def test_a_child_ends_when_its_worker_hangs_up(make_house: Callable[..., House]) -> None:
    # Given a child in the middle of a task, whose other end of the wire is closed as by the worker's death
    child = Child(PROGRAM)
    eventually(lambda: child.receive(0.1))
    child._wire.close()
    # Then it ends by itself
    eventually(lambda: child.has_ended, 5)
