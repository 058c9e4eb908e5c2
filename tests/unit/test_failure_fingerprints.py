"""Fingerprints of failures: the same for what failed alike, others for what did not."""

import string
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fingerprints import LENGTH, fingerprint, normalised, raised_at

TRACE = """Traceback (most recent call last):
  File "/srv/app/actors/shop.py", line 12, in confirm
    pay(order)
  File "/usr/lib/python3.11/site-packages/bank/client.py", line 140, in pay
    raise OSError("no answer")
OSError: no answer
"""


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("OSError: no answer from 10.0.0.7 after 3.5 s", "OSError: no answer from <n> after <n> s"),
        ("task 0190a8f2-7c1b-7a6e-9d53-2f4d0c1b2a3e failed", "task <id> failed"),
        ("KeyError: 'Ann'", "KeyError: <text>"),
        ('no such file "a b.txt"', "no such file <text>"),
        ("cannot open /var/lib/app/7.csv: it isn't there", "cannot open <path>: it isn't there"),
        ("C:\\Users\\ann\\a.csv is locked", "<path> is locked"),
        ("https://api.test/orders/17?x=1 refused", "<path> refused"),
        ("<Order at 0x7f3a> is closed", "<Order at <hex>> is closed"),
        ("commit deadbeef42 is gone", "commit <hex> is gone"),
        ("a\n  long\tway", "a long way"),
    ],
)
def test_what_changes_from_case_to_case_is_left_out(message: str, words: str) -> None:
    assert normalised(message) == words


def test_words_are_no_hexadecimals() -> None:
    assert normalised("the facade is defaced") == "the facade is defaced"


@given(st.text())
def test_a_normalised_message_is_normalised(message: str) -> None:
    assert normalised(normalised(message)) == normalised(message)


@given(st.integers(0), st.integers(0), st.uuids(), st.uuids())
def test_numbers_and_ids_make_no_difference(one: int, other: int, first: UUID, second: UUID) -> None:
    said = "row {} of {} does not fit"
    assert fingerprint("E", said.format(one, first), None) == fingerprint(
        "E", said.format(other, second), None
    )


@given(st.text(string.ascii_letters + " ", max_size=30), st.text(string.ascii_letters + " ", max_size=30))
def test_other_words_are_another_failure(one: str, other: str) -> None:
    is_same = fingerprint("E", one, None) == fingerprint("E", other, None)
    assert is_same == (normalised(one) == normalised(other))


@given(st.text(), st.text(), st.none() | st.text())
def test_anything_has_a_fingerprint(error_class: str, message: str, traceback: str | None) -> None:
    found = fingerprint(error_class, message, traceback)
    assert len(found) == LENGTH
    assert set(found) <= set(string.hexdigits.lower())


def test_the_place_is_the_last_frame_without_its_line_and_its_folder() -> None:
    assert raised_at(TRACE) == "client.py:pay"
    moved = TRACE.replace("140", "141").replace("/usr/lib/python3.11", "/opt/app")
    assert fingerprint("OSError", "no answer", moved) == fingerprint("OSError", "no answer", TRACE)
    elsewhere = TRACE.replace("in pay", "in refund")
    assert fingerprint("OSError", "no answer", elsewhere) != fingerprint("OSError", "no answer", TRACE)


@pytest.mark.parametrize("trace", [None, "", "no traceback could be made"])
def test_without_a_traceback_there_is_no_place(trace: str | None) -> None:
    assert raised_at(trace) == ""
