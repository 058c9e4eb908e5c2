"""A pipeline that has changed: modules know its old plan, its new one, or both."""

from pipelines import Pipeline, stage

_HERE = "tests.support.versioned_actors"
#: What CALLBOARD_ACTORS says before the change, after it, and as long as there are old runs.
OLD, NEW, BOTH = f"{_HERE}_old", f"{_HERE}_new", f"{_HERE}_old,{_HERE}_new"


@stage
def collect(words: list[str]) -> list[str]:
    """Hand the words on."""
    return words


@stage
def count(words: list[str]) -> int:
    """How many there are."""
    return len(words)


@stage
def sort(words: list[str]) -> list[str]:
    """The words in order."""
    return sorted(words)


@stage
def join(words: list[str]) -> str:
    """The words in one."""
    return " ".join(words)


def old() -> Pipeline:
    """The first version of the pipeline."""
    return Pipeline("versioned", collect | count)


def new() -> Pipeline:
    """The second version of the pipeline."""
    return Pipeline("versioned", collect | sort | join, version=2)
