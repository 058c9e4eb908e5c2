"""Pipelines of a user's own whose first stages hand out work while they look for more of it."""

from collections.abc import Iterator

from actors import Permanent
from pipelines import Pipeline, stage
from tests.support.actors_for_tests import QUICK, die_once, folder, leave_trace, nap

#: How long a stage waits at most for what its items do.
LONGEST = 20.0


def wait_for_flag(name: str) -> None:
    """Go on when a file is there."""
    for _ in range(int(LONGEST / 0.05)):
        if (folder() / name).exists():
            return
        nap(0.05)
    raise Permanent(f"nobody has raised {name}")


def _find(place: str) -> Iterator[str]:
    """Three items, then, when the third one was read, a death (if a flag says so), then two more."""
    attempt = "again" if (folder() / f"{place}-read-c").exists() else "first"
    for name in "abc":
        yield f"{place}-{name}"
        nap(0.25)
    wait_for_flag(f"{place}-read-c")
    die_once(f"{place}-die")
    yield f"{place}-{attempt}"
    yield f"{place}-end"


@stage(backoff=QUICK)
def find(place: str) -> Iterator[str]:
    leave_trace("find", place)
    yield from _find(place)


@stage(backoff=QUICK, isolated=True)
def find_alone(place: str) -> Iterator[str]:
    leave_trace("find", place)
    yield from _find(place)


@stage(backoff=QUICK)
def read(item: str) -> str:
    leave_trace("read", item)
    place, _, name = item.rpartition("-")
    (folder() / f"{place}-read-{name}").touch()
    return item.upper()


@stage
def put_together(read: list[str]) -> str:
    return " ".join(read)


@stage
def count_to(most: int) -> Iterator[int]:
    yield from range(most)


@stage
def add_up(numbers: list[int]) -> int:
    return sum(numbers)


@stage
def total(sums: list[int]) -> list[int]:
    return [len(sums), sum(sums)]


search = Pipeline("search", find | read.map() | put_together)
search_alone = Pipeline("search_alone", find_alone | read.map() | put_together)
counting = Pipeline("counting", count_to | add_up.map(batch=10) | total)
