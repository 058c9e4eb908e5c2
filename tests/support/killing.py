"""Killing the workers of runs at random points, and what holds of a run afterwards all the same."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from tasks.states import FINAL
from tests.support.processes import Installation
from tests.support.waiting import eventually

KILLS = 2  # of the workers of one run: the third death of a task would be its end
MOST_TRACES = 8  # that are waited for before a kill


def kill_at_random_points(
    board: Installation,
    runs: Sequence[UUID],
    actors: str,
    traces: Callable[[], int],
    chance: random.Random,
) -> int:
    """Kill the worker after it left some more traces and start another one; twice. How many were at work."""
    seen = hits = 0
    for _ in range(KILLS):
        worker = board.start_worker(ACTORS=actors, threads=3)
        seen += chance.randint(1, MOST_TRACES)
        eventually(lambda seen=seen: traces() >= seen or are_over(board, runs), 30)
        worker.kill()
        hits += not are_over(board, runs)
        seen = traces()
    board.start_worker(ACTORS=actors, threads=3)
    return hits


def are_over(board: Installation, runs: Sequence[UUID]) -> bool:
    """Whether all these runs have a final state."""
    return all(board.task(run).status in FINAL for run in runs)


def check_that_nothing_finished_ran_twice(board: Installation, run: UUID, starts: Iterable[str]) -> None:
    """Every attempt but the last one of each stage has ended on record, and none came after its end.

    ``starts`` are the ids of the tasks whose function was really called, once for each call.
    """
    begun = Counter(starts)
    state = board.kit.queries.run(run)
    assert state is not None
    for stage in state.stages:
        moves = board.moves(stage.id)
        assert moves.count("completed") + moves.count("failed") == 1, (stage.stage, moves)
        assert moves[-1] == stage.status
        assert 1 <= begun[str(stage.id)] <= moves.count("running"), (stage.stage, moves)
        assert moves.count("running") - 1 == len(board.ended_attempts(stage.id)) - (stage.status == "failed")
