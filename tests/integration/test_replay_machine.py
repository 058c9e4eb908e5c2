"""Whatever is done to a replay, in whatever order: each letter is replayed once, and none after an abort."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.pool import PooledPostgresqlDatabase

from tasks.letter_records import ACTIVE, LetterFilter
from tasks.values import Claimed
from tests.support.bench import Bench

NUMBER = 7
MOVES = ("step", "abort", "resume", "complete", "fail", "cancel", "retry", "discard")


@pytest.fixture
def bench(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Bench]:
    made = Bench(shared, url)
    yield made
    made.close()


class Play:
    """A replay of a few letters that things are done to."""

    def __init__(self, bench: Bench, canary: int) -> None:
        bench.sql.execute("DELETE FROM dead_letters")
        bench.sql.execute("DELETE FROM replay_items")
        bench.sql.execute("DELETE FROM replays")
        bench.fetch()
        self.bench = bench
        self.ids = bench.failed(NUMBER)
        self.replay_id = bench.open(canary=canary)
        self.begun: Counter[object] = Counter()
        self.running: list[Claimed] = []
        self.retried = 0

    def do(self, move: str) -> None:
        """Make a move; what became ready is claimed at once."""
        before = self.bench.job(self.replay_id)
        getattr(self, move)()
        claims = [claim for claim in self.bench.fetch() if claim.id in self.ids]
        self.begun.update(claim.id for claim in claims)
        self.running += claims
        if move == "step" and before.status not in ACTIVE:
            assert not claims
        self.check()

    def check(self) -> None:
        """What holds at any time."""
        job = self.bench.job(self.replay_id)
        assert sum(job.counts.values()) == job.size == NUMBER
        assert sum(job.outcomes.values()) == job.counts["replayed"]
        assert self.begun.total() == job.counts["replayed"] + self.retried
        assert (job.status == "completed") <= (job.counts["pending"] == 0)

    def step(self) -> None:
        self.bench.step()

    def abort(self) -> None:
        self.bench.ledger.abort_replay(self.replay_id).result(10)

    def resume(self) -> None:
        self.bench.ledger.resume_replay(self.replay_id).result(10)

    def complete(self) -> None:
        if self.running:
            self.bench.complete(self.running.pop(0))

    def fail(self) -> None:
        if self.running:
            self.bench.fail(self.running.pop(0))

    def cancel(self) -> None:
        if self.running:
            assert self.bench.ledger.cancel(self.running.pop().id).result(10) == "cancelled"

    def retry(self) -> None:
        self.retried += self.bench.ledger.retry(self.ids[-1]).result(10) == "retried"

    def discard(self) -> None:
        found = self.bench.letters.letters(LetterFilter(), limit=1, offset=0).items
        for letter in found:
            self.bench.ledger.discard(letter.dead_letter_id, by="user:ann").result(10)


@given(moves=st.lists(st.sampled_from(MOVES), max_size=25), canary=st.integers(0, NUMBER + 1))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_letter_is_replayed_once_whatever_happens_in_between(
    bench: Bench, moves: list[str], canary: int
) -> None:
    play = Play(bench, canary)
    for move in moves:
        play.do(move)
    # And in the end nothing is left: whatever stopped it is resumed, and all that runs completes
    for _ in range(4 * NUMBER):
        for move in ("step", "complete", "resume"):
            play.do(move)
    assert bench.job(play.replay_id).status == "completed"
