"""Callbacks are sent within bounds, and nobody reaches through us what only we can reach."""

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from actors.web.connecting import Gate
from actors.web.headers import retry_after
from actors.web.sending import Sender, Sent
from tests.support.web import CERTIFICATE, Answer, Site, answer, drip, hang, site


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as running:
        yield running


def local(seconds: float = 5.0) -> Sender:
    return Sender(Gate(allow_private=True), seconds=seconds)


def test_a_body_arrives_with_its_headers(web: Site) -> None:
    web.answers["/a%20b?c=d"] = answer(204)
    sent = local().send(f"http://{web.address}/a%20b?c=d", b'{"a": 1}', {"Content-Type": "application/json"})
    # Then it is there, once, and the host is told its own name
    assert sent == Sent(204, None)
    (posted,) = web.posted
    assert posted.body == b'{"a": 1}'
    assert posted.headers["Content-Type"] == "application/json"
    assert posted.headers["User-Agent"] == "callboard"
    assert web.asked == [("/a%20b?c=d", web.address)]


def test_a_redirect_is_not_followed(web: Site) -> None:
    with site() as canary:
        canary.answers["/"] = answer(200)
        web.answers["/"] = answer(307, Location=f"http://{canary.address}/")
        assert local().send(f"http://{web.address}/", b"{}", {}) == Sent(307, None)
        assert canary.asked == []


SLOW = {
    "no answer": hang,
    "a head without an end": lambda web: _drip_head(web),
}


def _drip_head(web: Site) -> Answer:
    def write(handler: object) -> None:
        while not web.gone.wait(0.05):
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: y\r\n"[:1])  # type: ignore[attr-defined]

    return write


@pytest.mark.parametrize("kind", SLOW)
def test_who_is_slow_is_left_in_time(web: Site, kind: str) -> None:
    web.answers["/"] = SLOW[kind](web)
    began = time.monotonic()
    sent = local(seconds=0.4).send(f"http://{web.address}/", b"{}", {})
    assert sent.status is None
    assert sent.error in ("there was no answer within 0.4 s", "what it answers is not HTTP")
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"x"])
def test_an_answer_without_an_end_is_cut_off(web: Site, piece: bytes) -> None:
    web.answers["/"] = drip(web, piece, 0.01)
    began = time.monotonic()
    assert local().send(f"http://{web.address}/", b"{}", {}) == Sent(200, None)
    assert time.monotonic() - began < 2.0


def test_who_wants_to_be_left_alone_is_heard(web: Site) -> None:
    web.answers["/"] = answer(429, Retry_After="120")
    assert local().send(f"http://{web.address}/", b"{}", {}) == Sent(429, None, 120.0)


def test_retry_after_is_a_number_or_a_date_and_bounded() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry_after(soon) <= 60
    long_ago, for_ever = format_datetime(datetime(2020, 1, 1, tzinfo=UTC)), "9" * 30
    assert (retry_after(long_ago), retry_after(for_ever), retry_after("soon")) == (0.0, 86_400.0, 0.0)


def test_what_goes_wrong_is_told_without_the_path(web: Site) -> None:
    with site() as gone:
        port = gone.port
    web.answers["/secret"] = lambda handler: handler.wfile.write(b"SSH-2.0 hello\r\n\r\n")
    errors = [
        local().send(f"http://127.0.0.1:{port}/secret", b"{}", {}).error,
        local().send(f"http://{web.address}/secret", b"{}", {}).error,
        Sender(Gate(resolver=_nobody)).send("http://nobody.example/secret", b"{}", {}).error,
    ]
    assert errors == [
        "its host cannot be reached: Connection refused",
        "what it answers is not HTTP",
        "its host cannot be reached: OSError",
    ]


def _nobody(_host: str, _port: int) -> list[str]:
    raise OSError("secret")


def test_a_certificate_must_be_of_the_host() -> None:
    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cadata=CERTIFICATE)

    with site(tls=True) as web:
        web.answers["/"] = answer(200)
        gate = Gate(allow_private=True, resolver=lambda *_: ["127.0.0.1"], tls=trusting)
        assert Sender(gate).send(f"https://docs.example:{web.port}/", b"{}", {}) == Sent(200, None)
        assert web.named == ["docs.example"]
        wrong = Sender(gate).send(f"https://other.example:{web.port}/", b"{}", {}).error
        untrusted = Gate(allow_private=True, resolver=lambda *_: ["127.0.0.1"])
        unknown = Sender(untrusted).send(f"https://docs.example:{web.port}/", b"{}", {}).error
    assert wrong is not None
    assert unknown is not None
    assert wrong.startswith("its certificate is not valid")
    assert unknown.startswith("its certificate is not valid")


DISGUISES = [
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "[::ffff:127.0.0.1]",
    "[::1]",
    "localhost",
    "127.0.0.1",
]


@pytest.mark.parametrize("host", DISGUISES)
def test_this_machine_is_not_reached_under_any_name(web: Site, host: str) -> None:
    web.answers["/"] = answer(200)
    sent = Sender(Gate()).send(f"http://{host}:{web.port}/", b"{}", {})
    assert sent.status is None
    assert "must not be reached" in str(sent.error)
    assert web.asked == []


def test_a_name_that_changes_its_address_is_connected_to_the_one_that_was_checked(web: Site) -> None:
    # Given a name that is a public address when it is checked and this machine afterwards
    web.answers["/"] = answer(200)
    given = [["8.8.8.8", "127.0.0.1"], ["127.0.0.1"]]
    sender = Sender(Gate(resolver=lambda *_: given.pop(0)))
    # Then it is refused if any address is private, and resolved once only
    for _ in range(2):
        assert "must not be reached" in str(sender.send(f"http://a.example:{web.port}/", b"{}", {}).error)
    assert (given, web.asked) == ([], [])
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    # and what was checked is what is connected to
    gate = Gate(resolver=rebinding, reachable=lambda address: address == "127.0.0.1")
    assert Sender(gate).send(f"http://a.example:{web.port}/", b"{}", {}).status == 200
    assert asked == ["a.example"]


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/", "http://user:password@a.example/", "http://a b/", "file:///etc/passwd", "http://"],
)
def test_what_is_no_url_to_call_is_not_called(url: str) -> None:
    sent = Sender(Gate(allow_private=True)).send(url, b"{}", {})
    assert sent.status is None
    assert str(sent.error).startswith("the URL ")
    assert "password" not in str(sent.error).replace("a user or a password", "")
