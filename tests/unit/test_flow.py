"""The flow of a run, as pure functions: what follows a stage, and what a run needs after that.

A `Board` here plays the record: a stage is inserted once (unique run, stage, index) and a run ends once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.submission import Defaults
from pipelines import flow
from pipelines.composition import Composable, Done, Pipeline, Stage, gather, stage, when
from pipelines.errors import CompositionError
from pipelines.evaluation import WINDOW, is_done
from pipelines.flow import Next
from tasks.ids import new_id
from tasks.states import BLOCKED, CANCELLED, COMPLETED, FAILED, FINAL, QUEUED, RUNNING
from tasks.values import Advance, Claimed, Json, NewTask, RunState, StageState

DEFAULTS = Defaults(max_retries=3, timeout=300.0)
NOBODY = new_id()


class Row(msgspec.Struct):
    """A stage on the board."""

    task: NewTask
    status: str = QUEUED
    result: Any = None
    error: dict[str, Any] | None = None

    @property
    def claim(self) -> Claimed:
        task = self.task
        return Claimed(
            id=task.id,
            token=1,
            attempt=1,
            failures=0,
            deaths=0,
            task_type=task.task_type,
            queue=task.queue_name,
            payload=Json(msgspec.json.encode(task.payload)),
            max_retries=task.max_retries,
            backoff=task.backoff,
            timeout=task.timeout,
            priority=task.priority,
            user_id=task.user_id,
            project_id=task.project_id,
            kb_id=task.kb_id,
            tags=list(task.tags),
            run_id=task.run_id,
            stage=task.stage,
            stage_index=task.stage_index,
            overrides=task.overrides,
        )


class Board:
    """One run of a pipeline, and the stages that came into being so far."""

    def __init__(self, pipeline: Pipeline, payload: Any, **fields: Any) -> None:
        self.pipeline = pipeline
        self.run = NewTask(task_type=pipeline.name, queue_name="runs", payload=payload, is_run=True, **fields)
        self.status = QUEUED
        self.result: Any = None
        self.error: Any = None
        self.rows: dict[tuple[str, int], Row] = {}
        self.insert(flow.begin(pipeline, self.run, DEFAULTS))

    def insert(self, tasks: Sequence[NewTask]) -> None:
        for task in tasks:
            assert task.stage is not None
            assert task.stage_index is not None
            self.rows.setdefault((task.stage, task.stage_index), Row(task))

    @property
    def open(self) -> list[Row]:
        return [row for row in self.rows.values() if row.status not in FINAL]

    def stage(self, name: str) -> list[Row]:
        return [row for (stage, _), row in sorted(self.rows.items()) if stage == name]

    def state(self) -> RunState:
        stages = [
            StageState(row.task.id, stage, index, row.status, row.error)
            for (stage, index), row in sorted(self.rows.items())
        ]
        return RunState(self.run.id, self.pipeline.name, self.status, 0, self.run, stages)

    def outputs(self, name: str) -> dict[int, Any]:
        return {index: row.result for (stage, index), row in self.rows.items() if stage == name}

    def finish(self, row: Row, result: Any) -> Next:
        """What a worker does: the outcome, its result and its successors in one step."""
        following = flow.after(self.pipeline, row.claim, result, DEFAULTS)
        row.status, row.result = COMPLETED, result
        self.insert(following.successors)
        return following

    def execute(self, row: Row) -> Next:
        """Run the stage's own function and finish it with what it returns."""
        actor = next(step.actor for step in self.pipeline.stages if step.name == row.task.stage)
        return self.finish(row, msgspec.to_builtins(actor.run(row.task.payload)))

    def decide(self) -> Advance | None:
        return flow.settle(self.pipeline, self.state(), self.outputs, DEFAULTS)

    def settle(self) -> Advance | None:
        """What the settler does: decide and apply."""
        if self.status in FINAL:
            return None
        decision = self.decide()
        if decision is not None:
            self.insert(decision.successors)
            if decision.status is not None:
                self.status, self.result, self.error = decision.status, decision.result, decision.error
        return decision


def named(name: str, function: Callable[[Any], Any], **policy: Any) -> Stage[Any, Any]:
    define: Any = stage
    made: Stage[Any, Any] = define(name=name, **policy)(lambda payload: function(payload))
    return made


split = named("split", lambda text: text.split(), queue="text", retries=7, timeout=9, backoff="fixed")
measure = named("measure", len)
measure_some = named("measure_some", lambda words: [len(word) for word in words])
total = named("total", sum)
flat = named("flat", lambda lists: [number for numbers in lists for number in numbers])


def board(chain: Composable, payload: Any, **fields: Any) -> Board:
    return Board(Pipeline("lengths", chain), payload, **fields)


# --- the beginning -----------------------------------------------------------------------------------


def test_a_run_begins_with_its_first_stage_which_gets_the_payload() -> None:
    run = board(split | total, "a bc def", priority=8, user_id="ann", kb_id="kb_1", tags=("red",))

    (row,) = run.open
    assert (row.task.task_type, row.task.stage, row.task.stage_index) == ("lengths.split", "split", 0)
    assert row.task.payload == "a bc def"
    assert row.task.run_id == run.run.id
    assert (row.task.priority, row.task.user_id, row.task.kb_id) == (8, "ann", "kb_1")
    assert row.task.tags == ("red",)


def test_a_stage_has_the_policy_of_its_actor_and_else_the_defaults() -> None:
    (first,) = board(split | total, "a").open
    (other,) = board(total, [1]).open

    assert (first.task.queue_name, first.task.max_retries, first.task.timeout) == ("text", 7, 9)
    assert first.task.backoff == {"kind": "fixed"}
    assert (other.task.queue_name, other.task.max_retries, other.task.timeout) == ("default", 3, 300.0)


def test_what_the_order_of_a_run_says_goes_before_the_policies_of_all_stages() -> None:
    # Given a run whose order says some of it
    asked = {"max_retries": 0, "timeout": 2.5}
    run = board(split | measure.map() | total, "a bc", overrides=asked)

    # When all of its stages have come into being: after each other, and after a join
    while run.open:
        for row in run.open:
            run.execute(row)
        run.settle()

    # Then each has what was said, and the rest from its policy
    tasks = [row.task for row in run.rows.values()]
    assert len(tasks) == 4
    assert {(task.max_retries, task.timeout) for task in tasks} == {(0, 2.5)}
    assert [task.backoff for task in tasks] == [{"kind": "fixed"}, None, None, None]


def test_a_run_without_stages_begins_when_it_waits_for_no_other_task() -> None:
    # Given a run that was submitted by a process that does not know its pipeline
    run = board(split | total, "a")
    run.rows.clear()

    # Then nothing begins while it is blocked, and its first stage after that
    run.status = BLOCKED
    assert run.settle() is None
    run.status = QUEUED
    run.settle()
    assert [(row.task.stage, row.task.payload) for row in run.open] == [("split", "a")]


def test_a_run_that_waits_makes_its_first_stage_wait_as_long() -> None:
    (row,) = board(split | total, "a", delay=60.0).open

    assert row.task.delay == 60.0


def test_a_run_may_begin_with_a_map() -> None:
    run = board(measure.map() | total, ["a", "bc"])

    assert [row.task.payload for row in run.open] == ["a", "bc"]


# --- chains ------------------------------------------------------------------------------------------


def test_the_next_stage_of_a_chain_is_created_with_the_finish_of_the_one_before() -> None:
    run = board(split | measure_some | total, "a bc")

    following = run.finish(run.open[0], ["a", "bc"])

    (task,) = following.successors
    assert (task.task_type, task.payload, task.run_id) == ("lengths.measure_some", ["a", "bc"], run.run.id)
    assert not following.settle
    assert following.phase == "measure_some"
    assert following.progress == pytest.approx(100 / 3)


def test_the_last_stage_ends_the_run_with_its_result() -> None:
    run = board(split | measure_some | total, "a bc def")

    while run.open:
        following = run.execute(run.open[0])

    assert following == Next(settle=True, progress=99.0, phase="total")
    decision = run.settle()
    assert decision == Advance(run.run.id, status=COMPLETED, result=6)


def test_while_a_stage_is_at_work_a_run_needs_nothing() -> None:
    run = board(split | total, "a")
    assert run.decide() is None

    run.finish(run.open[0], [1])

    assert run.decide() is None


# --- maps --------------------------------------------------------------------------------------------


def test_a_map_makes_one_task_of_each_item_in_order() -> None:
    run = board(split | measure.map() | total, "a bc def")
    run.execute(run.open[0])

    rows = run.stage("measure")
    assert [row.task.payload for row in rows] == ["a", "bc", "def"]
    assert [row.task.stage_index for row in rows] == [0, 1, 2]


def test_a_map_with_batches_makes_one_task_of_so_many_items() -> None:
    run = board(split | measure_some.map(batch=2) | flat, "a b c d e")
    run.execute(run.open[0])

    assert [row.task.payload for row in run.stage("measure_some")] == [["a", "b"], ["c", "d"], ["e"]]


def test_the_stage_after_a_map_begins_only_when_all_siblings_are_complete() -> None:
    run = board(split | measure.map() | total, "a bc def")
    run.execute(run.open[0])
    last, middle, first = reversed(run.stage("measure"))

    for row in (last, first):
        assert run.execute(row).settle
        assert run.settle() is None
        assert not run.stage("total")
    run.execute(middle)
    run.settle()

    assert [row.task.payload for row in run.stage("total")] == [[1, 2, 3]]


def test_a_mapped_stage_never_creates_what_comes_after_it_by_itself() -> None:
    run = board(split | measure.map() | total, "a")
    run.execute(run.open[0])

    assert run.execute(run.open[0]) == Next(settle=True, progress=pytest.approx(100 / 3), phase="measure")


def test_a_map_at_the_end_gives_the_run_the_list_of_its_results() -> None:
    run = board(split | measure.map(), "def bc a")
    run.execute(run.open[0])
    for row in reversed(run.open):
        run.execute(row)

    assert run.settle() == Advance(run.run.id, status=COMPLETED, result=[3, 2, 1])


def test_maps_may_follow_each_other() -> None:
    double = named("double", lambda number: 2 * number)
    run = board(split | measure.map() | double.map() | total, "a bc")
    while run.open:
        run.execute(run.open[0])
        run.settle()

    assert (run.status, run.result) == (COMPLETED, 6)


def test_a_map_over_nothing_is_passed_over() -> None:
    run = board(split | measure.map() | total, "")

    assert run.execute(run.open[0]).settle
    run.settle()

    assert [(row.task.stage, row.task.payload) for row in run.open] == [("total", [])]


def test_a_map_over_nothing_at_the_end_ends_the_run_with_an_empty_list() -> None:
    run = board(split | measure.map() | measure_some.map(batch=2), "")

    assert run.execute(run.open[0]).settle
    assert run.settle() == Advance(run.run.id, status=COMPLETED, result=[])


def test_a_run_that_begins_with_a_map_over_nothing_ends_too() -> None:
    run = board(measure.map(), [])

    assert not run.open
    assert run.settle() == Advance(run.run.id, status=COMPLETED, result=[])


def test_a_map_over_something_else_than_a_list_says_so() -> None:
    run = board(named("name", lambda _: "Ann") | measure.map() | total, None)

    with pytest.raises(TypeError, match=r"measure\.map\(\) needs a list, but the stage before returned str"):
        run.execute(run.open[0])


# --- done --------------------------------------------------------------------------------------------


def test_a_stage_that_is_done_ends_the_run_without_the_stages_after_it() -> None:
    run = board(named("look", lambda _: Done({"duplicate_of": 7})) | split | total, "a")

    assert run.execute(run.open[0]) == Next(settle=True, progress=99.0)
    assert run.settle() == Advance(run.run.id, status=COMPLETED, result={"duplicate_of": 7})
    assert not run.open


def test_a_run_may_be_done_with_nothing() -> None:
    run = board(named("look", lambda _: Done(None)) | split, "a")
    run.execute(run.open[0])

    assert run.settle() == Advance(run.run.id, status=COMPLETED, result=None)


def test_a_mapped_stage_that_is_done_ends_the_run_once_its_siblings_have_finished() -> None:
    find = named("find", lambda word: Done(word) if word == "bc" else len(word))
    run = board(split | find.map() | total, "a bc def")
    run.execute(run.open[0])

    first, found, last = run.stage("find")
    run.execute(found)
    assert run.settle() is None
    run.execute(first)
    run.execute(last)

    assert run.settle() == Advance(run.run.id, status=COMPLETED, result="bc")


def test_a_result_that_merely_looks_a_bit_like_done_is_a_result() -> None:
    assert is_done({"$done": 1})
    assert not is_done({"$done": 1, "more": 2})
    assert not is_done([{"$done": 1}])
    assert not is_done(None)


# --- bad ends ----------------------------------------------------------------------------------------


def test_a_failed_stage_fails_the_run_and_is_named_in_its_error() -> None:
    run = board(split | measure.map() | total, "a bc")
    run.execute(run.open[0])
    run.open[1].error = {"code": "timeout", "message": "it ran for longer than its timeout of 9 s"}
    run.open[1].status = FAILED

    decision = run.settle()

    assert decision is not None
    assert decision.status == FAILED
    assert decision.error == {
        "code": "timeout",
        "message": "it ran for longer than its timeout of 9 s",
        "stage": "measure",
    }


def test_a_failed_stage_fails_the_run_even_while_its_siblings_run_or_were_cancelled() -> None:
    run = board(split | measure.map() | total, "a bc def")
    run.execute(run.open[0])
    running, cancelled, failed = run.open
    running.status, cancelled.status, failed.status = RUNNING, CANCELLED, FAILED

    decision = run.settle()

    assert decision is not None
    assert decision.status == FAILED
    assert decision.error == {"code": "actor_error", "message": "the stage failed", "stage": "measure"}


def test_a_cancelled_stage_cancels_the_run() -> None:
    run = board(split | total, "a")
    run.open[0].status = CANCELLED

    assert run.settle() == Advance(run.run.id, status=CANCELLED)


def test_a_stage_that_the_pipeline_has_no_more_is_named() -> None:
    before = board(split | total, "a")
    before.finish(before.open[0], [1])
    after = Pipeline("lengths", split | measure_some)

    with pytest.raises(CompositionError, match="the pipeline lengths has no stage total"):
        flow.after(after, before.open[0].claim, 1, DEFAULTS)
    before.open[0].status = COMPLETED
    with pytest.raises(CompositionError, match="the pipeline lengths has no stage total"):
        flow.settle(after, before.state(), before.outputs, DEFAULTS)


# --- asked twice -------------------------------------------------------------------------------------


def comparable(tasks: Sequence[NewTask]) -> list[NewTask]:
    """Tasks without their ids, which are new each time."""
    return [msgspec.structs.replace(task, id=NOBODY) for task in tasks]


def test_after_asked_twice_gives_the_same() -> None:
    run = board(split | measure.map() | total, "a bc")
    claim = run.open[0].claim

    one, other = (flow.after(run.pipeline, claim, ["a", "bc"], DEFAULTS) for _ in range(2))

    assert comparable(one.successors) == comparable(other.successors)
    assert [task.stage_index for task in one.successors] == [0, 1]


def test_settle_asked_twice_gives_the_same_and_applied_twice_creates_a_join_once() -> None:
    run = board(split | measure.map() | total, "a bc")
    while run.open:
        run.execute(run.open[0])

    one, other = run.decide(), run.decide()

    assert one is not None
    assert other is not None
    assert comparable(one.successors) == comparable(other.successors)
    run.insert(one.successors)
    run.insert(other.successors)
    assert len(run.stage("total")) == 1


def test_settle_asked_twice_ends_a_run_the_same_way() -> None:
    run = board(split | measure_some, "a bc")
    while run.open:
        run.execute(run.open[0])

    assert run.decide() == run.decide() == Advance(run.run.id, status=COMPLETED, result=[1, 2])


# --- any pipeline, in any order ----------------------------------------------------------------------


class Plan(msgspec.Struct):
    """A made-up part, what calling its functions directly gives, and whether that is a list."""

    part: Composable
    call: Callable[[Any], Any]
    gives_list: bool


class Names:
    """Names of stages, each another one."""

    def __init__(self) -> None:
        self.count = 0

    def stage(self, function: Callable[[Any], Any]) -> Stage[..., Any]:
        self.count += 1
        return named(f"stage{self.count}", function)


class Fell(Exception):
    """A stage of a made-up part failed for good."""


@st.composite
def parts(draw: st.DrawFn, names: Names, is_list: bool, depth: int, maps: int) -> Plan:
    """A part that takes a number, or a list of numbers."""
    kinds = ["add", "spread", "done"] if not is_list else ["sum", "reverse"]
    if depth:
        kinds += ["chain", "gather", "when", "nested", "guarded"]
        kinds += ["each"] * 3 if is_list and maps else []
    kind = draw(st.sampled_from(kinds))
    number = draw(st.integers(1, 4))
    below = parts(names, is_list, depth - 1, maps)
    if kind in ("add", "spread", "done", "sum", "reverse"):
        return plain(names, kind, number)
    if kind == "each":
        inner = draw(parts(names, False, depth - 1, maps - 1))
        if inner.gives_list:  # lists of lists are nobody's input here
            inner = summed(names, inner)
        return Plan(inner.part.map(), lambda value: [inner.call(one) for one in value], True)
    one = draw(below)
    if kind == "nested":
        return nested(names, one)
    if kind == "chain":
        other = draw(parts(names, one.gives_list, depth - 1, maps))
        return Plan(one.part | other.part, lambda value: other.call(one.call(value)), other.gives_list)
    if kind == "guarded":
        return guarded(names, one, is_list)
    if kind == "when":
        other = draw(below)
        test = names.stage(lambda value: value != 2 and value != [])
        if one.gives_list == other.gives_list:
            chosen = when(test, one.part, other.part)
            call = lambda value: (one if value not in (2, []) else other).call(value)  # noqa: E731
            return Plan(chosen, call, one.gives_list)
    other = draw(below)
    ends = names.stage(lambda both: [both[0] if isinstance(both[0], int) else sum(both[0]), len(both)])
    both = lambda value: [one.call(value), other.call(value)]  # noqa: E731
    return Plan(gather(one.part, other.part) | ends, lambda value: ends(both(value)), True)


def summed(names: Names, one: Plan) -> Plan:
    return Plan(one.part | names.stage(sum), lambda value: sum(one.call(value)), False)


def plain(names: Names, kind: str, number: int) -> Plan:
    functions: dict[str, Callable[[Any], Any]] = {
        "sum": sum,
        "reverse": lambda some: some[::-1],
        "add": lambda one: one + number,
        "done": lambda one: Done(one) if one % 5 == number else one,
        "spread": lambda one: [one + extra for extra in range((one + number) % 5)],
    }
    made = names.stage(functions[kind])
    return Plan(made, lambda value: through(made(value)), kind in ("reverse", "spread"))


def nested(names: Names, one: Plan) -> Plan:
    """A pipeline in the pipeline. What it is done with is a number, whatever it gives otherwise."""

    def fitting(value: Any) -> Any:
        return [value] if one.gives_list and not isinstance(value, list) else value

    part = Pipeline(names.stage(len).name, one.part) | names.stage(fitting)
    return Plan(part, lambda value: fitting(until_done(one.call, value)), one.gives_list)


def guarded(names: Names, one: Plan, is_list: bool) -> Plan:
    """A part that fails for some numbers, and what stands in for it then."""

    def refuse(value: Any) -> Any:
        if value in (3, []):
            raise Fell
        return value

    stands_in = [7] if one.gives_list else 7
    part = names.stage(refuse) | one.part

    def call(value: Any) -> Any:
        return stands_in if value in (3, []) else one.call(value)

    return Plan(part.on_failure(names.stage(lambda _: stands_in)), call, one.gives_list)


class Finished(Exception):
    """A stage was done with its pipeline."""


def through(value: Any) -> Any:
    if isinstance(value, Done):
        raise Finished(value.value)
    return value


def until_done(call: Callable[[Any], Any], value: Any) -> Any:
    try:
        return call(value)
    except Finished as finished:
        return finished.args[0]


@given(st.data())
def test_whatever_the_order_of_events_a_run_ends_as_if_its_functions_were_called_directly(
    data: st.DataObject,
) -> None:
    is_list = data.draw(st.booleans())
    payload: Any = data.draw(st.lists(st.integers(0, 9), max_size=4) if is_list else st.integers(0, 9))
    made = data.draw(parts(Names(), is_list, 4, 2))
    run = Board(Pipeline("anything", made.part), payload)
    attempts: dict[tuple[str | None, int | None], int] = {}
    turns = 0

    while run.status not in FINAL:
        # When anything that may happen now does: a stage finishes or fails, or somebody settles the run.
        some = run.open
        choice = data.draw(st.integers(-1, len(some) - 1)) if some else -1
        if choice >= 0:
            row = some[choice]
            attempts[row.task.stage, row.task.stage_index] = (
                attempts.get((row.task.stage, row.task.stage_index), 0) + 1
            )
            try:
                run.execute(row)
            except Fell:
                row.status, row.error = FAILED, {"code": "actor_error", "message": "fell"}
        else:
            run.settle()
        turns += 1
        assert turns <= 3_000

    # Then its result is that of calling the functions, and no stage ran twice
    assert run.status == COMPLETED
    expected = until_done(made.call, payload)
    assert run.result == expected or holds_done(made, payload)
    assert set(attempts.values()) <= {1}


def holds_done(made: Plan, payload: Any) -> bool:
    """Whether a stage was done, beside others: which of them ends the run depends on who is first."""
    try:
        made.call(payload)
    except Finished:
        return True
    return False


# --- side by side, choices, and pipelines in pipelines ---------------------------------------------------


def run_through(run: Board) -> Board:
    """Execute whatever is open until the run is over."""
    while run.status not in FINAL:
        if run.open:
            run.execute(run.open[0])
        run.settle()
    return run


def test_parts_side_by_side_begin_together_and_their_outputs_are_a_list_in_order() -> None:
    run = board(
        split | gather(measure_some, total_words := named("total_words", len)) | named("both", list), "a bc"
    )
    run.execute(run.open[0])

    assert [row.task.stage for row in run.open] == ["measure_some", "total_words"]
    run.execute(run.open[1])
    assert run.settle() is None
    run.execute(run.open[0])
    run.settle()
    assert [row.task.payload for row in run.open] == [[[1, 2], 2]]
    assert total_words.name == "total_words"


def test_one_branch_goes_on_while_another_is_at_work() -> None:
    run = board(split | gather(measure.map() | total, named("slow", len)), "a bc")
    run.execute(run.open[0])
    for row in run.stage("measure"):
        run.execute(row)

    run.settle()

    assert [row.task.stage for row in run.open] == ["slow", "total"]


def test_a_choice_is_a_stage_of_its_own_that_is_asked_once() -> None:
    asked: list[Any] = []

    def is_long(text: str) -> bool:
        asked.append(text)
        return len(text) > 3

    def shortened(text: str) -> str:
        return text[:3]

    chain = when(is_long, stage(shortened)) | split

    assert run_through(board(chain, "long text")).result == ["lon"]
    assert run_through(board(chain, "ab")).result == ["ab"]
    assert asked == ["long text", "ab"]


def test_a_pipeline_in_another_one_has_its_name_before_its_stages() -> None:
    words = Pipeline("words", split | measure.map())

    run = board(words | total, "a bc")

    assert [row.task.task_type for row in run.open] == ["lengths.words.split"]
    assert run_through(run).result == 3
    assert sorted(name for name, _ in run.rows) == ["total", "words.measure", "words.measure", "words.split"]


def test_what_is_done_in_an_inner_pipeline_ends_that_alone() -> None:
    inner = Pipeline("inner", named("look", lambda _: Done("known")) | split)

    assert run_through(board(inner | named("shout", str.upper), "a")).result == "KNOWN"


def test_a_map_may_hold_a_pipeline_that_maps() -> None:
    words = Pipeline("words", split | measure.map() | total)

    run = run_through(board(named("lines", str.splitlines) | words.map() | total, "a bc\n\ndef"))

    assert run.result == 6


def test_items_of_one_key_are_one_task() -> None:
    chain = named("items", lambda some: some) | named("size", len).map(key="of", batch=2)
    orders = [{"of": "ann"}, {"of": "bob"}, {"of": "ann"}, {"of": "ann"}]

    run = board(chain, orders)
    run.execute(run.open[0])

    assert [[one["of"] for one in row.task.payload] for row in run.stage("size")] == [
        ["ann", "ann"],
        ["ann"],
        ["bob"],
    ]


def test_a_long_map_comes_into_being_in_windows() -> None:
    # Given a map over more items than a window has
    run = board(named("numbers", lambda _: list(range(600))) | named("twice", lambda n: 2 * n).map(), 0)
    run.execute(run.open[0])
    assert len(run.open) == WINDOW

    # When half of a window is through, the next half comes into being
    for row in run.open[: WINDOW // 2]:
        run.execute(row)
    run.settle()

    # Then a window is under way again, and in the end all of them were, in order
    assert len(run.open) == WINDOW
    assert run_through(run).result == [2 * number for number in range(600)]


# --- what stands in for what fails -----------------------------------------------------------------------


def fail(row: Row) -> None:
    row.status, row.error = FAILED, {"code": "actor_error", "message": "no luck"}


def test_what_a_stage_of_on_failure_returns_takes_the_place_of_what_failed() -> None:
    seen: list[Any] = []
    stand_in = named("stand_in", lambda failure: seen.append(failure) or [0])
    run = board((split | measure.map()).on_failure(stand_in) | total, "a bc")
    run.execute(run.open[0])
    first, second = run.stage("measure")

    # When a stage fails while another is at work, nothing begins before that is over
    fail(first)
    assert run.settle() is None
    run.execute(second)
    run.settle()

    assert run_through(run).result == 0
    assert seen == [{"stage": "measure", "code": "actor_error", "message": "no luck", "input": "a bc"}]


def test_if_that_fails_too_the_run_fails() -> None:
    run = board(split.on_failure(named("stand_in", lambda _: [])) | total, "a")
    for _ in range(2):
        fail(run.open[0])
        run.settle()

    assert run.status == FAILED
    assert run.error == {"code": "actor_error", "message": "no luck", "stage": "stand_in"}
