"""Identifiers are UUIDs of version 7."""

import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from uuid import RFC_4122, UUID, uuid4

import pytest

from tasks.ids import new_id, parse_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = new_id()

    assert made.version == 7
    assert made.variant == RFC_4122


def test_an_id_begins_with_the_milliseconds_of_its_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)

    assert new_id().int >> 80 == 1_700_000_000_123


def test_ids_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in range(1_000):
        monkeypatch.setattr(time, "time_ns", lambda at=millisecond: (1_700_000_000_000 + at) * 1_000_000)
        made.append(new_id())

    assert made == sorted(made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_ids_of_the_same_millisecond_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)

    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_no_two_threads_and_no_two_processes_make_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that random bytes are in stock, and the time stands still
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    made = [new_id()]
    # When threads, and a process that is forked now, make ids
    with ThreadPoolExecutor(4) as threads:
        for ids in threads.map(lambda _: [new_id() for _ in range(1_000)], range(4)):
            made += ids
    with get_context("fork").Pool(1) as forked:
        made += forked.apply(_make, (1_000,))
    made += _make(1_000)
    # Then all differ
    assert len(set(made)) == len(made)


def _make(count: int) -> list[UUID]:
    return [new_id() for _ in range(count)]


def test_an_id_is_read_back_from_its_text() -> None:
    made = new_id()

    assert parse_id(str(made)) == made
    assert parse_id(made.hex) == made


def test_an_id_of_another_version_is_an_id_too() -> None:
    users_own = uuid4()

    assert parse_id(str(users_own)) == users_own


@pytest.mark.parametrize("text", ["", "42", "not-an-id", "0190c0de-0000-7000-8000-00000000000g", "知识库"])
def test_a_malformed_id_is_the_id_of_nothing(text: str) -> None:
    assert parse_id(text) is None
