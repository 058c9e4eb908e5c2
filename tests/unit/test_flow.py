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
from pipelines.composition import Chain, Done, Pipeline, Stage, stage
from pipelines.errors import CompositionError
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

    def outputs(self, name: str) -> list[Any]:
        return [row.result for row in self.stage(name)]

    def finish(self, row: Row, result: Any) -> Next:
        """What a worker does: the outcome, its result and its successors in one step."""
        following = flow.after(self.pipeline, row.claim, result, DEFAULTS)
        row.status, row.result = COMPLETED, result
        self.insert(following.successors)
        return following

    def execute(self, row: Row) -> Next:
        """Run the stage's own function and finish it with what it returns."""
        actor = next(step.actor for step in self.pipeline.steps if step.name == row.task.stage)
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


def board(chain: Chain | Stage[Any, Any], payload: Any, **fields: Any) -> Board:
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

    following = run.execute(run.open[0])

    assert [(task.stage, task.payload) for task in following.successors] == [("total", [])]
    assert not following.settle


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
    assert flow.is_done({"$done": 1})
    assert not flow.is_done({"$done": 1, "more": 2})
    assert not flow.is_done([{"$done": 1}])
    assert not flow.is_done(None)


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


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Pipeline, Any]:
    """A pipeline of one to six steps over numbers and lists of numbers, with a payload that fits it."""
    is_list = draw(st.booleans())
    payload: Any = draw(st.lists(st.integers(0, 9), max_size=5) if is_list else st.integers(0, 9))
    steps: list[Chain] = []
    for place in range(draw(st.integers(1, 6))):
        if is_list:
            kind = draw(st.sampled_from(["each", "each_done", "batch", "sum", "reverse"]))
        else:
            kind = draw(st.sampled_from(["add", "done", "spread", "spread"]))
        steps.append(chain_of(kind, f"{kind}{place}", draw(st.integers(1, 4))))
        is_list = kind in ("each", "each_done", "batch", "reverse", "spread")
    chain = Chain([step for part in steps for step in part.steps])
    return Pipeline("anything", chain), payload


def chain_of(kind: str, name: str, number: int) -> Chain:
    functions: dict[str, Callable[[Any], Any]] = {
        "each": lambda one: one + number,
        "each_done": lambda one: Done([one]) if one % 7 == number else one,
        "batch": lambda some: sum(some) + number,
        "sum": sum,
        "reverse": lambda some: some[::-1],
        "add": lambda one: one + number,
        "done": lambda one: Done(one) if one % 5 == number else one,
        "spread": lambda one: [one + extra for extra in range((one + number) % 5)],
    }
    made = named(name, functions[kind])
    if kind in ("each", "each_done"):
        return made.map()
    return made.map(batch=number) if kind == "batch" else Chain([]) | made


def directly(pipeline: Pipeline, value: Any) -> Any:
    """The result of simply calling the functions one after the other."""
    for step in pipeline.steps:
        if step.batch is None:
            value = step.actor(value)
        else:
            size = step.batch or 1
            parts = [value[at : at + size] for at in range(0, len(value), size)]
            value = [step.actor(part if step.batch else part[0]) for part in parts]
        ends = value if isinstance(value, list) else [value]
        done = next((one for one in ends if isinstance(one, Done)), None)
        if done is not None:
            return done.value
    return value


@given(pipelines(), st.data())
def test_whatever_the_order_of_events_a_run_ends_as_if_its_functions_were_called_directly(
    made: tuple[Pipeline, Any], data: st.DataObject
) -> None:
    pipeline, payload = made
    run = Board(pipeline, payload)
    claims = settles = 0

    while run.status not in FINAL:
        # When anything that may happen now does: a stage finishes, or somebody settles the run (again).
        some = run.open
        choice = data.draw(st.integers(-1, len(some) - 1)) if some else -1
        if choice >= 0:
            run.execute(some[choice])
            claims += 1
        else:
            run.settle()
            settles += 1
        # Then a stage never begins before all of the stage before it is complete.
        places = [pipeline.position(row.task.stage or "") for row in run.open]
        assert len(set(places)) <= 1
        assert claims <= 200
        assert settles <= 500

    assert (run.status, run.result) == (COMPLETED, directly(pipeline, payload))
    assert not run.open
