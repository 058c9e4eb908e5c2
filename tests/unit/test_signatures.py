"""Signatures of callbacks: what is genuine is taken, and nothing else."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.web.signatures import sign, verify

SECRET = "a secret of some length"
BODY = b'{"event":"completed"}'


def test_a_signature_is_made_as_it_is_written_down() -> None:
    # Given what the contract says: hex(HMAC-SHA256(secret, t.body))
    expected = hmac.new(SECRET.encode(), b"1700000000." + BODY, hashlib.sha256).hexdigest()
    # Then that is the header
    assert sign(SECRET, BODY, at=1_700_000_000.9) == f"t=1700000000,v1={expected}"


@given(secret=st.text(min_size=1, max_size=50), body=st.binary(max_size=200))
def test_what_is_signed_is_genuine(secret: str, body: bytes) -> None:
    assert verify(secret, sign(secret, body), body)


@given(secret=st.text(min_size=1), other=st.text(), body=st.binary(), changed=st.binary())
def test_neither_another_secret_nor_another_body_is_taken(
    secret: str, other: str, body: bytes, changed: bytes
) -> None:
    header = sign(secret, body)
    assert verify(other, header, body) == (other == secret)
    assert verify(secret, header, changed) == (changed == body)


@given(header=st.one_of(st.text(), st.from_regex(r"t=[0-9]{1,15}(,v1=[0-9a-f]{0,70})*")))
def test_whatever_comes_as_a_header_is_no_error(header: str) -> None:
    assert not verify(SECRET, header, BODY)


@pytest.mark.parametrize("header", [None, "", "t=1", "v1=00", "t=1700000000,v1=", "t=x,v1=" + "0" * 64])
def test_what_is_no_signature_is_not_taken(header: str | None) -> None:
    assert not verify(SECRET, header, BODY, now=1_700_000_000)


def test_what_was_signed_long_ago_is_not_taken_and_who_wants_may_be_stricter() -> None:
    header = sign(SECRET, BODY, at=1_700_000_000)
    assert verify(SECRET, header, BODY, now=1_700_000_299)
    assert not verify(SECRET, header, BODY, now=1_700_000_301)
    assert not verify(SECRET, header, BODY, now=1_699_999_000)
    assert not verify(SECRET, header, BODY, 10.0, now=1_700_000_011)


def test_of_several_signatures_one_is_enough_so_that_secrets_can_be_exchanged() -> None:
    old, new = sign("old", BODY, at=1_700_000_000), sign("new", BODY, at=1_700_000_000)
    both = old + "," + new.partition(",")[2]
    assert all(verify(secret, both, BODY, now=1_700_000_000) for secret in ("old", "new"))
    assert not verify("", both, BODY, now=1_700_000_000)
