"""Supervising processes: one that dies is started again, its siblings go on, and all of them end together."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from actors.supervisor import UNUSABLE as UNUSABLE_CODE
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]

CHILD = """
import os, pathlib, signal, sys, threading
from actors.supervisor import stop_on_signals, stop_with_parent

stop = threading.Event()
stop_on_signals(stop)
stop_with_parent(stop)
said = pathlib.Path(os.environ["SAID"])
with said.open("a") as file:
    file.write(f"start {sys.argv[1]} {os.getpid()} {os.environ.get('COLOUR', 'none')}\\n")
stop.wait(60)
with said.open("a") as file:
    file.write(f"stop {sys.argv[1]} {os.getpid()}\\n")
"""

STUBBORN = """
import os, pathlib, signal, sys, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
with pathlib.Path(os.environ["SAID"]).open("a") as file:
    file.write(f"start {sys.argv[1]} {os.getpid()} none\\n")
time.sleep(60)
"""

UNUSABLE = """
import os, pathlib, sys
from actors.supervisor import UNUSABLE

with pathlib.Path(os.environ["SAID"]).open("a") as file:
    file.write(f"start {sys.argv[1]} {os.getpid()} none\\n")
sys.exit(UNUSABLE)
"""

SUPERVISOR = """
import sys
from actors.supervisor import Child, Supervisor

names = sys.argv[2:]
children = [Child(name, name.partition("-")[0], [name], {"COLOUR": name}) for name in names]
sys.exit(Supervisor(children, patience=float(sys.argv[1])).run())
"""


class Company:
    """A supervisor in a process of its own, and what its children said."""

    def __init__(self, folder: Path, names: Sequence[str], patience: float) -> None:
        self._said = folder / "said"
        self._said.touch()
        path = os.pathsep.join([str(folder), str(REPOSITORY)])
        environ: Mapping[str, str] = {**os.environ, "PYTHONPATH": path, "SAID": str(self._said)}
        command = [sys.executable, "-c", SUPERVISOR, str(patience), *names]
        self.process = subprocess.Popen(command, env=environ, cwd=folder)

    def _lines(self, word: str, name: str) -> list[list[str]]:
        lines = [line.split() for line in self._said.read_text().splitlines()]
        return [line for line in lines if line[:2] == [word, name]]

    def starts(self, name: str) -> list[int]:
        """The ids of the processes that ``name`` has had so far."""
        return [int(line[2]) for line in self._lines("start", name)]

    def stops(self, name: str) -> list[int]:
        """Those of them that stopped in an orderly way."""
        return [int(line[2]) for line in self._lines("stop", name)]

    def running(self, name: str, *, lives: int = 1) -> int:
        """Wait until ``name`` was started ``lives`` times; its process."""
        eventually(lambda: len(self.starts(name)) >= lives, timeout=30)
        return self.starts(name)[-1]

    def colour(self, name: str) -> str:
        return self._lines("start", name)[0][3]

    def end(self) -> None:
        """Kill whatever is left."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
        self.process.kill()
        self.process.wait()


class Companies:
    """Starts companies and ends them after the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Company] = []
        (folder / "child.py").write_text(CHILD)
        (folder / "stubborn.py").write_text(STUBBORN)
        (folder / "unusable.py").write_text(UNUSABLE)

    def of(self, *names: str, patience: float = 20) -> Company:
        company = Company(self._folder, names, patience)
        self._started.append(company)
        return company

    def end(self) -> None:
        for company in self._started:
            company.end()


@pytest.fixture
def companies(tmp_path: Path) -> Iterator[Companies]:
    kept = Companies(tmp_path)
    yield kept
    kept.end()


def is_gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_settings_that_cannot_be_used_end_everything_at_once(companies: Companies) -> None:
    # Given a child that cannot use its settings, beside one that can
    company = companies.of("child-a", "unusable-b")

    # Then nothing is tried again, and the exit code says what is wrong.
    assert company.process.wait(30) == UNUSABLE_CODE
    assert len(company.starts("unusable-b")) == 1
    eventually(lambda: all(is_gone(one) for one in company.starts("child-a")), timeout=30)


def test_a_child_that_was_killed_is_started_again_while_its_siblings_go_on(companies: Companies) -> None:
    # Given two children
    company = companies.of("child-a", "child-b")
    killed, sibling = company.running("child-a"), company.running("child-b")

    # When one of them dies
    os.kill(killed, signal.SIGKILL)

    # Then it has a successor, and the other has noticed nothing.
    successor = company.running("child-a", lives=2)
    assert successor != killed
    assert company.starts("child-b") == [sibling]
    assert not is_gone(sibling)
    assert company.process.poll() is None


def test_a_child_that_ends_by_itself_is_started_again_too(companies: Companies) -> None:
    company = companies.of("child-a")

    os.kill(company.running("child-a"), signal.SIGTERM)

    company.running("child-a", lives=2)
    assert len(company.stops("child-a")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_children_in_order_and_the_supervisor_cleanly(
    companies: Companies, number: signal.Signals
) -> None:
    company = companies.of("child-a", "child-b")
    children = [company.running("child-a"), company.running("child-b")]

    company.process.send_signal(number)

    assert company.process.wait(20) == 0
    assert [*company.stops("child-a"), *company.stops("child-b")] == children
    assert all(is_gone(child) for child in children)


def test_a_child_that_does_not_stop_in_time_is_killed_and_the_exit_code_says_so(
    companies: Companies,
) -> None:
    company = companies.of("stubborn", "child-a", patience=1)
    stubborn = company.running("stubborn")
    company.running("child-a")

    company.process.terminate()

    assert company.process.wait(20) == 1
    assert is_gone(stubborn)
    assert len(company.stops("child-a")) == 1


def test_the_children_of_a_supervisor_that_was_killed_stop_by_themselves(companies: Companies) -> None:
    company = companies.of("child-a", "child-b")
    children = [company.running("child-a"), company.running("child-b")]

    company.process.kill()
    company.process.wait()

    eventually(lambda: all(is_gone(child) for child in children), timeout=20)
    assert [*company.stops("child-a"), *company.stops("child-b")] == children


def test_a_child_has_its_own_environment_beside_the_common_one(companies: Companies) -> None:
    company = companies.of("child-a", "child-b")
    company.running("child-a")
    company.running("child-b")

    assert (company.colour("child-a"), company.colour("child-b")) == ("child-a", "child-b")
