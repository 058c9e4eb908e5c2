"""Another payload for the task of a dead letter is checked like a submission, and leads to a limit."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from actors.definitions import actor
from actors.submission import Defaults, Submission
from pipelines.catalogue import Catalogue
from pipelines.composition import Pipeline, stage
from pipelines.letters import Payloads
from tasks.errors import InvalidField
from tasks.ids import new_id
from tasks.ledger.dead_letters import Edit
from tasks.letter_records import Candidate


class Lane(msgspec.Struct):
    lane: str


@actor(concurrency=2, concurrency_key="payload.lane")
def drive(lane: Lane) -> None: ...


@stage(concurrency=1, concurrency_key="user_id")
def load(lane: Lane) -> None: ...


@pytest.fixture
def payloads() -> Payloads:
    catalogue = Catalogue([drive], [Pipeline("trip", load)])
    submission = Submission(catalogue, None, None, Defaults())  # type: ignore[arg-type]
    return Payloads(catalogue, submission)


def letter(task_type: str, payload: Any = None) -> Candidate:
    return Candidate(
        dead_letter=new_id(),
        task_id=new_id(),
        failed_at=datetime.now(UTC),
        task_type=task_type,
        user_id="ann",
        project_id=None,
        kb_id=None,
        is_stage=task_type != "drive",
        payload=payload,
        objection=None,
    )


@pytest.mark.parametrize("task_type", ["drive", "trip.load"])
@pytest.mark.parametrize(
    ("payload", "field"), [({}, "payload.lane"), ({"lane": 1}, "payload.lane"), (7, "payload")]
)
def test_what_does_not_fit_is_refused_by_name(
    payloads: Payloads, task_type: str, payload: Any, field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        payloads.fit(letter(task_type), payload)
    assert refused.value.errors[0][0] == field


def test_what_fits_brings_its_limit(payloads: Payloads) -> None:
    left = {"lane": "left"}
    assert payloads.fit(letter("drive"), left) == Edit(left, 2, 'drive "left"')
    assert payloads.fit(letter("trip.load"), left) == Edit(left, 1, 'trip.load "ann"')


def test_a_patch_is_merged_into_what_the_task_has(payloads: Payloads) -> None:
    had = {"lane": "left", "cargo": {"tea": 1, "salt": 2}}
    edit = payloads.patched(letter("drive", had), {"lane": "right", "cargo": {"tea": None}})
    assert edit.payload == {"lane": "right", "cargo": {"salt": 2}}


def test_the_stage_of_a_pipeline_that_others_know_keeps_its_limit(payloads: Payloads) -> None:
    assert payloads.fit(letter("elsewhere.load"), 7) == Edit(7, keeps_limit=True)
