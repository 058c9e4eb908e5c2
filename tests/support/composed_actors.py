"""A pipeline of a user's own with all that can be composed; each stage leaves the trace of its task."""

from actors import Permanent, current_task
from pipelines import Failure, Pipeline, gather, stage, when
from tests.support.actors_for_tests import QUICK, leave_trace, nap


def work() -> None:
    """Leave a trace, and take long enough to be killed in."""
    task = current_task()
    leave_trace(str(task.id), str(task.run_id))
    nap(0.05)


@stage(backoff=QUICK)
def seeds(payload: int) -> list[int]:
    work()
    return list(range(1, payload + 1))


@stage(queue="squares", backoff=QUICK)
def weigh(seed: int) -> int:
    work()
    return seed * 10


@stage(backoff=QUICK)
def sum_up(weights: list[int]) -> int:
    work()
    return sum(weights)


@stage(backoff=QUICK)
def grow(seed: int) -> str:
    work()
    return "x" * seed


@stage(backoff=QUICK)
def measure(plant: str) -> int:
    work()
    return len(plant)


@stage(backoff=QUICK)
def tallest(heights: list[int]) -> int:
    work()
    return max(heights)


def is_heavy(both: tuple[int, int]) -> bool:
    """Whether the seeds weigh much."""
    work()
    return both[0] > 100


@stage(backoff=QUICK)
def reap(both: tuple[int, int]) -> str:
    work()
    return f"{both[0]} in {both[1]}"


@stage(retries=0)
def refuse(both: tuple[int, int]) -> str:
    work()
    raise Permanent(f"{both[0]} is too little")


@stage(backoff=QUICK)
def plough_in(failure: Failure) -> str:
    work()
    return f"{failure.stage}: {failure.input}"


plants = Pipeline("plants", grow | measure)
garden = Pipeline(
    "garden",
    seeds
    | gather(weigh.map() | sum_up, plants.map() | tallest)
    | when(is_heavy, reap, refuse.on_failure(plough_in)),
)
