"""The version of a function's code, by which its outputs are kept, and what has none."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import actor, register
from actors.attempt import Reused
from actors.errors import DefinitionError
from actors.fingerprint import Origin, fingerprint, origin_of
from actors.registry import Registry
from actors.step_cache import StepCache
from pipelines import Pipeline, stage
from tasks.errors import Unavailable
from tasks.ids import new_id
from tasks.values import Claimed, Json, Reusable
from tests.support.claims import a_claim

REPOSITORY = Path(__file__).parents[2]

COLOURS = """
def colours(name, /, *, upper: bool = False):
    '''Its constants have no order of their own.'''
    def sort(one):
        return one in {"red", "green", "blue", "cyan", "pink", b"grey", 1.5, None, ...}
    return [word for word in name.split() if sort(word)]
"""


def defined(source: str) -> Any:
    """The only function that a source defines."""
    names: dict[str, Any] = {"__name__": "colours"}
    exec(source, names)
    (function,) = (value for name, value in names.items() if not name.startswith("__"))
    return function


def made(number: float, helper: Callable[..., Any] = math.sqrt) -> Any:
    def times(value: int) -> Any:
        return helper(value) * number

    return times


def recursive() -> Any:
    def down(value: int) -> int:
        return value and down(value - 1)

    return down


def whole(value: int) -> int:
    return value


# --- a version ---------------------------------------------------------------------------------------


def test_a_version_is_the_same_in_every_process() -> None:
    # Given a function whose constants Python orders differently in every process
    program = f"{COLOURS}\nfrom actors.fingerprint import fingerprint\nprint(fingerprint(colours))"

    # When it is asked for its version in two of them
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    # Then it is the same, and the one it has here.
    assert told == {fingerprint(defined(COLOURS))}


def test_comments_and_lines_make_no_other_version() -> None:
    spaced = COLOURS.replace("    return [", "\n\n    # what is left\n    return [")

    assert fingerprint(defined(spaced)) == fingerprint(defined(COLOURS))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name.split()", "name.strip()"),
        ('"cyan"', '"lime"'),
        ("1.5", "15"),
        ("upper: bool = False", "upper: bool = True"),
        ("if sort(word)", "if not sort(word)"),
        ("name, /, *,", "name, *,"),
    ],
)
def test_a_change_of_the_function_makes_another_version(before: str, after: str) -> None:
    changed = COLOURS.replace(before, after)

    assert changed != COLOURS
    assert fingerprint(defined(changed)) != fingerprint(defined(COLOURS))


def test_what_a_function_closes_over_is_a_part_of_its_version() -> None:
    versions = [fingerprint(one) for one in (made(1), made(2), made(1.0), made(1, math.exp), made(1, whole))]

    assert len(set(versions)) == len(versions)
    assert fingerprint(made(1)) == versions[0]
    assert fingerprint(recursive()) == fingerprint(recursive())


@pytest.mark.parametrize(
    "held", [[], {}, Path("a"), [].append, stage(whole)], ids=lambda one: type(one).__name__
)
def test_a_function_that_closes_over_what_may_change_has_no_version(held: Any) -> None:
    with pytest.raises(DefinitionError, match=r"it holds a .*: define it at the top level"):
        fingerprint(made(1, held))


# --- whose outputs are kept --------------------------------------------------------------------------


def test_a_version_that_is_given_is_in_the_place_of_the_codes_own() -> None:
    assert origin_of(whole, "2") == Origin(f"{__name__}.whole", "2")
    assert origin_of(whole).version == fingerprint(whole)


def test_of_functions_inside_of_others_there_may_be_several_with_a_name_and_a_version() -> None:
    assert origin_of(made(1), "2").function == origin_of(made(3), "2").function
    assert origin_of(made(1), "2") != origin_of(made(3), "2")
    assert origin_of(lambda: 1, "2") != origin_of(lambda: 3, "2")
    assert origin_of(made(1), "2") == origin_of(made(1), "2")


@pytest.mark.parametrize(
    "policy",
    [{"cache": 0}, {"cache": math.nan}, {"cache": 1e12}, {"cache": True}, {"cache": "1 day"}]
    + [{"cache": 1, "code_version": text} for text in ("", "x" * 201, 2)],
    ids=repr,
)
def test_a_cache_that_cannot_be_used_is_refused_when_the_actor_is_defined(policy: dict[str, Any]) -> None:
    define: Any = actor

    with pytest.raises(DefinitionError, match=r"^the policy of whole cannot be used: "):
        define(**policy)(whole)


class Executor:
    type = "executor"

    def execute(self, task: object) -> None: ...


def test_outputs_of_what_is_no_function_of_its_own_are_not_kept() -> None:
    with pytest.raises(DefinitionError, match="outputs of bound cannot be kept: it is no plain function"):
        actor(name="bound", cache=60, code_version="1")(Executor().execute)
    with pytest.raises(DefinitionError, match="outputs of the executor of executor cannot be kept"):
        register(Executor(), cache=60)


def test_a_stage_keeps_its_outputs_as_the_same_one_in_all_pipelines() -> None:
    def double(value: int) -> int:
        return 2 * value

    doubled = stage(name="d", cache=60)(double)
    stages = [one for name in "ab" for one in Pipeline(name, doubled).actors()]

    assert {one.policy.origin for one in stages} == {origin_of(double)}


# --- looking for them --------------------------------------------------------------------------------


class Away:
    def kept_output(self, claim: Claimed, key: bytes) -> Reusable | None:
        raise Unavailable("Postgres cannot be reached now")


class There:
    def kept_output(self, claim: Claimed, key: bytes) -> Reusable | None:
        return Reusable(claim.id, key.hex())


def test_nothing_is_looked_for_where_nothing_is_kept() -> None:
    cache = StepCache(Registry([actor(whole)]), Away())

    assert cache.place(a_claim(task_type="whole")) is None
    assert cache.place(a_claim(task_type="unknown")) is None


def test_without_postgres_the_task_runs() -> None:
    claim = a_claim(task_type="whole")
    kept = actor(cache=60)(whole)
    here, away = StepCache(Registry([kept]), There()), StepCache(Registry([kept]), Away())

    place = here.place(claim)
    assert place is not None
    assert here.find(claim, place) == Reused(place.key.hex(), claim.id)
    assert away.find(claim, place) is None


def test_an_input_has_one_key_whoever_asks_for_it() -> None:
    cache = StepCache(Registry([actor(cache=60)(whole)]), There())

    def key(payload: bytes = b'{"a":1,"b":[2]}', **more: Any) -> bytes:
        place = cache.place(a_claim(task_type="whole", payload=Json(payload), **more))
        assert place is not None
        return place.key

    assert key() == key(b'{"b": [2], "a": 1}', run_id=new_id(), attempt=3, project_id="p", tags=[])
    others = [key(b'{"a":1,"b":[3]}'), key(b'{"a":"1","b":[2]}'), key(user_id="bob"), key(kb_id=None)]
    others += [key(user_id="ann\0docs", kb_id=None), key(user_id="anndocs", kb_id="")]
    assert len({key(), *others}) == 7
