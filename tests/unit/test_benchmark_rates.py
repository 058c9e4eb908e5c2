"""What benchmarks make of times: rates, spreads, and whose turn it is."""

import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.peers import environments
from tests.benchmarks.peers.catalogue import PEERS
from tests.benchmarks.peers.stamps import Stamps, paced, read_all
from tests.benchmarks.peers.trial import PeerFailed
from tests.benchmarks.rates import Spread, percentile, rate
from tests.benchmarks.workers import Contestant, chosen, measure
from tests.support.waiting import eventually


def test_a_rate_counts_what_comes_after_the_warm_up() -> None:
    # Given one completion a second while it warms up, and then ten
    times = [0.0, 1.0, 2.0, *(2.0 + number / 10 for number in range(1, 13))]

    assert rate(times, warm_up=0.2) == pytest.approx(9.0 + 1.0)
    assert rate(list(reversed(times)), warm_up=0.2) == rate(times, warm_up=0.2)


def test_a_rate_does_not_count_what_was_recorded_together_with_the_end_of_the_warm_up() -> None:
    # Given groups of five that have the same time
    times = [float(group) for group in range(4) for _ in range(5)]

    assert rate(times, warm_up=0.25) == pytest.approx(5.0)


def test_rounds_are_told_by_their_median_and_their_extremes() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])

    assert (spread.median, spread.low, spread.high) == (2.0, 1.0, 3.0)
    assert percentile([4, 1, 3, 2], 0.5) == 3
    assert percentile([4, 1, 3, 2], 0.99) == 4


def _contestant(name: str, turns: list[str], seconds: float = 1.0) -> Contestant:
    def completions() -> list[float]:
        turns.append(name)
        return [0.0, 0.0, seconds]

    return Contestant(name, 3, "nothing", "none", {}, completions)


def test_everyone_works_once_a_round_and_each_round_begins_with_another_one() -> None:
    turns: list[str] = []
    contestants = [_contestant(name, turns) for name in "abc"]

    rates = measure(contestants, 3)

    assert "".join(turns) == "abcbcacab"
    assert rates == {name: [1.0] * 3 for name in "abc"}


def test_a_peer_that_fails_leaves_the_others_their_figures() -> None:
    def fails() -> list[float]:
        raise PeerFailed("it stopped")

    rates = measure([Contestant("bad", 3, "", "", {}, fails), _contestant("good", [])], 2)

    assert rates == {"good": [1.0, 1.0]}


def test_peers_are_chosen_by_name_all_or_none() -> None:
    assert chosen("") == list(PEERS)
    assert chosen("none") == []
    assert {peer.environment for peer in chosen("oban dramatiq")} == {"oban", "dramatiq"}
    with pytest.raises(SystemExit, match="there is no resque"):
        chosen("oban resque")


def test_every_peer_is_pinned_and_says_how_it_is_configured() -> None:
    for peer in PEERS:
        lines = environments.pinned(peer.environment).split()
        assert all("==" in line for line in lines), peer.environment
        assert peer.environment in environments.versions(environments.pinned(peer.environment))
        assert peer.configuration


def test_a_pinned_list_tells_the_versions() -> None:
    assert environments.versions("one==1.2\n\ntwo == 3.4.5  # because\n") == {"one": "1.2", "two": "3.4.5"}


def test_a_peer_that_needs_a_newer_python_than_any_here_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_candidates", lambda: [sys.executable])

    with pytest.raises(environments.NotToBeHad, match=r"oban needs Python 99\.0 or newer"):
        environments.environment("oban", (99, 0), tmp_path)


def test_times_noted_in_memory_are_found_in_the_folder(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path)
    stamps.note(1.5)
    stamps.note(2.5)

    eventually(lambda: read_all(tmp_path) == [1.5, 2.5])


def test_what_is_sent_at_a_rate_carries_its_time_after_the_warm_up() -> None:
    began = time.time()

    first, second, third = paced(rate=50, count=3, warm_up=1)

    assert first == 0
    assert began + 0.01 < second < third - 0.01


def test_a_time_that_is_half_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "1.stamps").write_bytes(b"\0" * 12)

    assert read_all(tmp_path) == [0.0]
