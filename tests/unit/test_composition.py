"""Composing pipelines: what can be chained, and what is refused when it is written, not when it runs."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import pytest

from actors.definitions import actor
from actors.errors import DefinitionError
from pipelines import flow, plan
from pipelines.catalogue import Catalogue
from pipelines.composition import Chain, Done, Failure, Pipeline, Stage, gather, stage, when
from pipelines.errors import CompositionError


class Source(msgspec.Struct):
    path: str


class Pdf(Source):
    pages: int = 0


class Markdown(msgspec.Struct):
    text: str


@stage(queue="convert", retries=2, timeout=120, retry_on=(OSError,), isolated=True)
def convert(source: Source) -> Markdown:
    return Markdown(source.path)


@stage
def chunk(markdown: Markdown) -> list[str]:
    return markdown.text.split()


@stage
def measure(chunk: str) -> int:
    return len(chunk)


@stage
def measure_all(chunks: list[str]) -> int:
    return sum(map(len, chunks))


@stage
def total(lengths: list[int]) -> int:
    return sum(lengths)


def batches(chain: Chain) -> list[int | None]:
    """How many items a task of each stage gets; None where it is not mapped."""
    part = chain.part()
    return [plan.batch_of(part, one.name) for one in plan.leaves(part)]


def made(given: Any, taken: Any) -> tuple[Stage[..., Any], Stage[..., Any]]:
    """A stage ``left`` that returns ``given``, and a stage ``right`` that takes ``taken``."""

    def left(payload):  # type: ignore[no-untyped-def]
        return payload

    def right(payload):  # type: ignore[no-untyped-def]
        return payload

    left.__annotations__ = {"payload": str, "return": given}
    right.__annotations__ = {"payload": taken}
    return stage(left), stage(right)


# --- chaining ----------------------------------------------------------------------------------------


def test_stages_are_chained_in_the_order_they_are_written() -> None:
    pipeline = Pipeline("documents", convert | chunk | measure_all)

    assert [step.name for step in pipeline.stages] == ["convert", "chunk", "measure_all"]
    assert pipeline.type_of("chunk") == "documents.chunk"


def test_chaining_is_associative() -> None:
    assert ((convert | chunk) | measure_all).part() == (convert | (chunk | measure_all)).part()


def test_a_single_stage_is_a_pipeline_too() -> None:
    assert [step.name for step in Pipeline("conversion", convert).stages] == ["convert"]


def test_a_stage_called_directly_is_just_its_function() -> None:
    assert convert(Source("a b")) == Markdown("a b")


def test_the_stages_are_actors_under_their_full_names_with_their_policies() -> None:
    one, other = Pipeline("documents", convert | chunk).actors()

    assert (one.name, other.name) == ("documents.convert", "documents.chunk")
    assert (one.policy.queue, one.policy.max_retries, one.policy.timeout) == ("convert", 2, 120)
    assert (one.policy.retry_on, one.policy.isolated) == ((OSError,), True)
    assert one.run({"path": "a b"}) == Markdown("a b")


def test_an_actor_becomes_a_stage_with_its_own_policy_and_perhaps_another_name() -> None:
    @actor(queue="mail", max_retries=7)
    def greet(name: str) -> str:
        return f"Hello {name}"

    assert stage(greet).name == "greet"
    assert stage(greet, name="welcome").name == "welcome"  # type: ignore[call-overload]
    assert stage(greet).policy == greet.policy


def test_a_stage_that_the_pipeline_does_not_have_is_named() -> None:
    with pytest.raises(CompositionError, match="the pipeline documents has no stage publish"):
        flow.find(Pipeline("documents", convert | chunk), "publish")


def test_two_stages_of_one_name_are_refused() -> None:
    twice = stage(total, name="measure_all")  # type: ignore[call-overload]

    with pytest.raises(CompositionError, match="the pipeline documents has two stages named measure_all"):
        Pipeline("documents", convert | chunk | measure_all.map(batch=2) | twice)


def test_a_stage_with_a_bad_policy_is_refused() -> None:
    with pytest.raises(DefinitionError, match="the policy of mend cannot be used"):

        @stage(backoff="linear")
        def mend(text: str) -> str:
            return text


# --- fanning out -------------------------------------------------------------------------------------


def test_map_runs_a_stage_for_each_item_and_joins_the_results() -> None:
    chain = convert | chunk | measure.map() | total

    assert batches(chain) == [None, None, 0, None]


def test_map_with_a_batch_gives_the_stage_a_list() -> None:
    chain = convert | chunk | measure_all.map(batch=64) | total

    assert batches(chain) == [None, None, 64, None]


def test_maps_may_follow_each_other() -> None:
    @stage
    def double(number: int) -> int:
        return 2 * number

    assert batches(chunk | measure.map() | double.map() | total) == [None, 0, 0, None]


def test_a_batch_is_never_negative() -> None:
    with pytest.raises(CompositionError, match=r"measure\.map\(batch=-1\)"):
        measure.map(batch=-1)


def test_only_a_list_can_be_fanned_out() -> None:
    with pytest.raises(
        CompositionError, match=r"measure\.map\(\) fans out over a list, but convert returns Markdown"
    ):
        convert | measure.map()


def test_the_items_of_a_list_must_fit_the_mapped_stage() -> None:
    with pytest.raises(CompositionError, match="chunk gives str, but convert takes Source"):
        chunk | convert.map()


def test_a_mapped_stage_without_a_batch_takes_an_item_not_a_list() -> None:
    with pytest.raises(CompositionError, match=r"chunk gives str, but measure_all takes list\[str\]"):
        chunk | measure_all.map()


def test_what_a_mapped_stage_gives_to_the_next_is_a_list() -> None:
    with pytest.raises(CompositionError, match=r"measure gives list\[int\], but convert takes Source"):
        chunk | measure.map() | convert


# --- types -------------------------------------------------------------------------------------------


def test_types_that_do_not_fit_are_refused_by_the_names_of_both_stages() -> None:
    with pytest.raises(
        CompositionError, match="these cannot be chained: convert gives Markdown, but total takes"
    ):
        convert | total


def test_a_chain_is_checked_where_it_is_joined_with_another() -> None:
    with pytest.raises(CompositionError, match=r"measure_all gives int, but convert takes Source"):
        (chunk | measure_all) | (convert | chunk)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (Any, int),
        (int, Any),
        (int, int),
        (int, float),
        (int, int | None),
        (int | None, int | str | None),
        (bool, int),
        (Pdf, Source),
        (Pdf, Source | Markdown),
        (list[Pdf], list[Source]),
        (tuple[str, ...], list[str]),
        (list[str], Sequence[str]),
        (list[str], list),
        (list, list[str]),
        (list[Any], list[str]),
        (dict[str, int], dict[str, Any]),
        (dict[str, int], dict),
        (dict, dict[str, Any]),
        (dict[str, list[Pdf]], dict[str, list[Source]]),
        (Annotated[int, "at least one"], int),
        (int, Annotated[int, msgspec.Meta(ge=0)]),
        (list[Annotated[int, "at least one"]], list[int]),
    ],
    ids=str,
)
def test_what_fits_is_chained(given: Any, taken: Any) -> None:
    left, right = made(given, taken)

    assert [one.name for one in plan.leaves((left | right).part())] == ["left", "right"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (int, str),
        (float, int),
        (str, list[str]),
        (list[str], str),
        (list[int], list[str]),
        (Source, Pdf),
        (Markdown, Source),
        (None, Source),
        (int | None, int),
        (Source | Markdown, Source),
        (dict[str, int], dict[str, str]),
        (dict[str, Any], list[Any]),
        (list[Source], list[Pdf]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(given: Any, taken: Any) -> None:
    left, right = made(given, taken)

    with pytest.raises(CompositionError, match=r"left gives .*, but right takes .*"):
        left | right


def test_a_stage_that_may_be_done_gives_the_next_one_only_the_rest() -> None:
    left, right = made(Markdown | Done, Markdown)

    assert (left | right).part()
    with pytest.raises(CompositionError, match="left gives Markdown, but convert takes Source"):
        left | convert


def test_a_stage_that_may_be_done_with_a_list_can_be_fanned_out() -> None:
    left, right = made(list[str] | Done, str)

    assert batches(left | right.map()) == [None, 0]


def test_a_run_that_is_done_says_so_under_a_key_of_its_own() -> None:
    assert msgspec.to_builtins(Done({"duplicate_of": 7})) == {"$done": {"duplicate_of": 7}}


# --- payloads of pipelines ---------------------------------------------------------------------------


def test_the_payload_of_a_pipeline_is_what_its_first_stage_takes() -> None:
    assert Pipeline("documents", convert | chunk).parse({"path": "a"}) == Source("a")


def test_a_pipeline_that_begins_with_a_map_takes_a_list() -> None:
    assert Pipeline("lengths", measure.map() | total).parse(["a", "bc"]) == ["a", "bc"]
    assert Pipeline("lengths", measure_all.map(batch=2) | total).parse(["a", "bc"]) == ["a", "bc"]


# --- the catalogue -----------------------------------------------------------------------------------


def test_a_catalogue_finds_the_pipeline_of_a_run_and_of_each_stage() -> None:
    dotted = stage(chunk, name="to.chunks")  # type: ignore[call-overload]
    pipeline = Pipeline("documents", convert | dotted)
    catalogue = Catalogue([], [pipeline])

    assert catalogue.pipeline_of("documents") is pipeline
    assert catalogue.pipeline_of("documents.convert") is pipeline
    assert catalogue.pipeline_of("documents.to.chunks") is pipeline
    assert catalogue.pipeline_of("letters.convert") is None


def test_a_stage_is_not_mistaken_for_one_of_a_pipeline_with_a_longer_name() -> None:
    documents = Pipeline("documents", convert | chunk)
    drafts = Pipeline("documents.drafts", convert | chunk)
    catalogue = Catalogue([], [documents, drafts])

    assert catalogue.pipeline_of("documents.drafts.chunk") is drafts
    assert catalogue.pipeline_of("documents.chunk") is documents


def test_a_worker_runs_the_actors_and_the_stages_of_all_pipelines() -> None:
    @actor
    def greet() -> None: ...

    catalogue = Catalogue([greet], [Pipeline("documents", convert | chunk, queue="runs")])

    assert catalogue.runnable().names == ["documents.chunk", "documents.convert", "greet"]
    declared = {one.name: (one.queue_name, one.is_pipeline) for one in catalogue.types()}
    assert declared == {"greet": ("default", False), "documents": ("runs", True)}


def test_two_task_types_of_one_name_are_refused() -> None:
    @actor
    def documents() -> None: ...

    with pytest.raises(DefinitionError, match="two task types are named 'documents'"):
        Catalogue([documents], [Pipeline("documents", convert | chunk)])
    with pytest.raises(DefinitionError, match="two task types are named 'documents'"):
        Catalogue([], [Pipeline("documents", convert | chunk), Pipeline("documents", convert)])


def test_new_runs_go_by_the_highest_version_and_old_ones_by_the_plan_of_their_own() -> None:
    old, new = Pipeline("documents", convert | chunk), Pipeline("documents", convert, version=2)
    catalogue = Catalogue([], [new, old])

    assert catalogue.get("documents") is new
    assert catalogue.pipeline_of("documents", old.version) is old
    assert catalogue.pipeline_of("documents.chunk", old.version) is old
    assert catalogue.pipeline_of("documents.convert", new.version) is new
    assert catalogue.pipeline_of("documents.convert", "1-00000000") is None
    assert catalogue.runnable().names == ["documents.chunk", "documents.convert"]


def test_a_number_alone_makes_no_other_plan() -> None:
    old, new = Pipeline("documents", convert | chunk), Pipeline("documents", convert | chunk, version=2)

    assert Catalogue([], [new]).pipeline_of("documents", old.version) is new


def untyped(name: str) -> Any:
    return stage(name=name)(lambda value: value)


ONE, TWO = untyped("one"), untyped("two")
PLANS = {
    "a chain": ONE | TWO,
    "the other way round": TWO | ONE,
    "longer": ONE | TWO | untyped("three"),
    "mapped": ONE | TWO.map(),
    "in batches": ONE | TWO.map(batch=2),
    "in larger batches": ONE | TWO.map(batch=3),
    "by a key": ONE | TWO.map(key="size"),
    "side by side": gather(ONE, TWO),
    "a choice": when(untyped("three"), ONE, TWO),
    "guarded": ONE.on_failure(TWO),
    "nested": ONE | Pipeline("inner", TWO),
}


def test_plans_of_another_shape_are_other_versions() -> None:
    versions = {name: Pipeline("documents", parts).version for name, parts in PLANS.items()}

    assert len(set(versions.values())) == len(PLANS)
    assert versions["a chain"] == Pipeline("documents", ONE | TWO).version


def test_versions_share_the_stages_of_one_name() -> None:
    changed: Any = stage(lambda text: text, name="convert")  # type: ignore[call-overload]

    with pytest.raises(DefinitionError, match=r"documents\.convert is another function in version 1"):
        Catalogue([], [Pipeline("documents", convert | chunk), Pipeline("documents", changed, version=2)])


def test_versions_begin_at_one() -> None:
    with pytest.raises(CompositionError, match="versions begin at 1"):
        Pipeline("documents", convert, version=0)


def test_nothing_but_stages_can_be_chained() -> None:
    chain: Any = convert | chunk

    with pytest.raises(CompositionError, match="is no stage: make it one with @stage"):
        chain | len


# --- gather, when, on_failure and pipelines in pipelines -------------------------------------------------


@stage
def count(chunks: list[str]) -> int:
    return len(chunks)


@stage
def compare(both: tuple[int, int]) -> bool:
    return both[0] > both[1]


@stage
def chunk_coarsely(markdown: Markdown) -> list[str]:
    return [markdown.text]


@stage
def shout(text: str) -> str:
    return text.upper()


def is_short(markdown: Markdown) -> bool:
    return len(markdown.text) < 10


@stage
def stand_in(failure: Failure) -> list[str]:
    return [failure.message]


def test_the_outputs_of_parts_side_by_side_must_fit_what_follows() -> None:
    assert (chunk | gather(measure_all, count) | compare).part()
    with pytest.raises(CompositionError, match=r"count gives tuple\[int, int\], but convert takes Source"):
        gather(measure_all, count) | convert
    with pytest.raises(CompositionError, match="convert gives Markdown, but count takes"):
        convert | gather(chunk, count)
    with pytest.raises(CompositionError, match="gather takes two parts or more"):
        gather(chunk)


def test_both_ends_of_a_choice_must_fit_what_follows() -> None:
    assert (convert | when(is_short, chunk, chunk_coarsely) | measure.map()).part()
    with pytest.raises(CompositionError, match="but measure_all takes"):
        convert | when(is_short, chunk) | measure_all
    with pytest.raises(CompositionError, match="measure_all gives int, but is_short takes Markdown"):
        measure_all | when(is_short, chunk)


def test_a_stage_that_stands_in_must_take_a_failure_and_give_what_follows_needs() -> None:
    assert (chunk.on_failure(stand_in) | measure_all).part()
    with pytest.raises(
        CompositionError, match=r"chunk.on_failure\(\) gives Failure, but convert takes Source"
    ):
        chunk.on_failure(convert)
    with pytest.raises(CompositionError, match=r"stand_in gives str \| list\[str\], but measure takes str"):
        Pipeline("shout", shout) | shout.on_failure(stand_in) | measure
    with pytest.raises(CompositionError, match="on_failure takes one stage"):
        chunk.on_failure(chunk | measure_all)


def test_any_actor_is_a_stage() -> None:
    @actor
    def words(text: str) -> list[str]:
        return text.split()

    pipeline = Pipeline("any", words | measure_all)

    assert [one.name for one in pipeline.stages] == ["words", "measure_all"]
    assert words in [one.actor for one in Pipeline("alone", words).stages]


def test_a_pipeline_is_a_part_of_another_one() -> None:
    inner = Pipeline("inner", convert | chunk)

    outer = Pipeline("outer", inner | measure_all)

    assert [one.name for one in outer.stages] == ["inner.convert", "inner.chunk", "measure_all"]
    with pytest.raises(CompositionError, match=r"inner\.chunk gives"):
        inner | total


def test_maps_lie_in_each_other_no_deeper_than_two() -> None:
    lists = Pipeline("lists", chunk | measure.map())
    twice = Pipeline("twice", lists.map())

    with pytest.raises(CompositionError, match="maps three deep"):
        Pipeline("thrice", twice.map())
