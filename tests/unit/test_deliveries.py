"""What becomes of a delivery after an attempt, whatever the receiver answers."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from actors.deliverer import JITTER, PAUSES, judge
from actors.web.sending import Sent
from tasks.callbacks import DueDelivery, Ending

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDING = Ending(
    status="completed",
    progress=100.0,
    phase=None,
    message=None,
    details=None,
    result=None,
    error=None,
    attempts=1,
    updated_at=NOW,
    started_at=NOW,
    completed_at=NOW,
)
FAILURES = st.builds(
    Sent,
    st.one_of(st.none(), st.integers(100, 199), st.integers(300, 599).filter(lambda code: code != 410)),
    st.none(),
    st.floats(0, 86_400),
)


def test_times_are_told_in_utc_whatever_the_time_zone_of_the_database() -> None:
    there = timezone(timedelta(hours=2))
    ending = msgspec.structs.replace(ENDING, updated_at=NOW.astimezone(there), started_at=None)
    fields = ending.fields()
    assert (str(fields["updated_at"]), fields["started_at"]) == ("2026-01-01 00:00:00+00:00", None)
    assert (fields["duration_ms"], fields["result"]) == (None, None)


def due(tries: int, *, is_orphan: bool = False) -> DueDelivery:
    webhook = uuid4() if is_orphan else None
    url, host = "https://a.example/", "a.example"
    return DueDelivery(uuid4(), uuid4(), uuid4(), webhook, "completed", url, host, ENDING, tries, None)


@given(answers=st.lists(FAILURES, min_size=len(PAUSES) + 1, max_size=len(PAUSES) + 1))
def test_a_delivery_that_never_arrives_is_given_up_after_its_last_attempt(answers: list[Sent]) -> None:
    judged = [judge(due(tries), answer, PAUSES) for tries, answer in enumerate(answers)]
    assert [status for status, _ in judged] == ["pending"] * len(PAUSES) + ["failed"]
    # Then each pause is about as long as it should be, and no shorter than the receiver wants
    for (_, seconds), pause, answer in zip(judged[:-1], PAUSES, answers, strict=False):
        assert seconds >= answer.retry_after
        assert pause * (1 - JITTER) <= seconds <= max(pause * (1 + JITTER), answer.retry_after)


@given(tries=st.integers(0, 20), code=st.integers(200, 299))
def test_what_arrived_is_delivered(tries: int, code: int) -> None:
    assert judge(due(tries), Sent(code, None), PAUSES) == ("delivered", 0.0)


@given(tries=st.integers(0, 20))
def test_what_nobody_wants_any_more_is_given_up_at_once(tries: int) -> None:
    assert judge(due(tries), Sent(410, None), PAUSES) == ("failed", 0.0)
    assert judge(due(tries, is_orphan=True), Sent(None, "its webhook was deleted"), PAUSES) == ("failed", 0.0)
