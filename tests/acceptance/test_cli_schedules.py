"""``callboard schedules`` against a whole Callboard."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.cli import main
from tests.support.deployment import Deployment


class Shell:
    """Calls ``callboard schedules``."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(main, ["schedules", *words, "--url", self._url])
        assert done.exit_code == code, done.output
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture
def shell(embedded: Deployment) -> Iterator[Shell]:
    shell = Shell(embedded.url)
    yield shell
    for one in shell.json("list")["scheduled_tasks"]:
        shell.run("delete", one["name"])


def test_a_schedule_is_made_changed_and_deleted(shell: Shell) -> None:
    # Given a schedule with most of what can be said
    made = shell.json(
        "create", "morning", "test", "0 9 * * mon-fri", "--timezone", "Asia/Shanghai", "--overlap", "skip",
        "--misfire", "all", "--jitter", "30", "--payload", '{"a": 1}', "--priority", "8", "--tag", "x",
    )  # fmt: skip
    assert (made["timezone"], made["overlap"], made["misfire"]) == ("Asia/Shanghai", "skip", "all")
    assert (made["jitter"], made["payload"], made["priority"], made["tags"]) == (30, {"a": 1}, 8, ["x"])
    # When it is looked at, then people are told when it runs
    shown = shell.run("show", "morning").stdout
    assert "morning: test at 0 9 * * mon-fri (Asia/Shanghai)" in shown
    assert "next at" in shown
    assert "morning" in shell.run("list").stdout
    # When it is changed, paused and resumed, then the rest stays
    assert shell.json("update", "morning", "--cron", "@daily")["payload"] == {"a": 1}
    assert "paused" in shell.run("pause", "morning").stdout
    assert shell.json("resume", "morning")["is_active"]
    # When it is deleted, then it is not there any more
    assert "deleted" in shell.run("delete", "morning").stdout
    assert "There is no schedule morning" in shell.run("show", "morning", code=1).stderr


def test_a_schedule_is_run_and_backfilled(shell: Shell, embedded: Deployment) -> None:
    shell.run("create", "hours", "benchmark", "@hourly", "--paused")
    # When it is run at once
    task_id = shell.run("run", "hours").stdout.strip()
    assert embedded.wait_for_task(task_id)["status"] == "completed"
    # and a range of hours is made up for, after a look at it
    span = ("hours", "--from", "2026-02-01T00:00:00Z", "--to", "2026-02-01T03:00:00Z")
    dry = shell.run("backfill", *span, "--dry-run").stdout
    assert "4 fire times would be run" in dry
    assert len(dry.splitlines()) == 5
    assert "4 fire times run, 0 had been run before" in shell.run("backfill", *span).stdout
    assert shell.json("backfill", *span)["fired_before"] == 4
    # Then it is told what became of each
    shown = shell.json("show", "hours")
    outcomes = sorted(one["outcome"] for one in shown["runs"])
    assert outcomes == ["backfilled"] * 4 + ["manual"]
    assert "backfilled" in shell.run("show", "hours").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create", "a", "test", "0 0 30 2 *"), "never fires"),
        (("create", "a", "test", "@daily", "--payload", "{"), "--payload is not JSON"),
        (("create", "a", "unheard_of", "@daily"), "no worker has ever declared"),
        (("backfill", "a", "--from", "yesterday", "--to", "2026-01-01"), "is no time"),
        (("run", "nix"), "There is no schedule nix"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(shell: Shell, words: tuple[str, ...], message: str) -> None:
    done = shell.run(*words, code=1)

    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
