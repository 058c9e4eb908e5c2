"""Documents are fetched from the web, and nobody reaches through us what only we can reach."""

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.web.addresses import literal, may_reach, name_of, take_apart
from actors.web.connecting import Gate
from pipelines.documents.blobs import Blobs
from pipelines.documents.detection import MediaType, detect
from pipelines.documents.errors import DocumentTooLarge, FetchFailed, FetchRefused
from pipelines.documents.fetching import Fetcher
from pipelines.documents.sources import Sources
from tests.support.web import CERTIFICATE, Site, answer, drip, site


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as running:
        yield running


def local(most_bytes: int = 1_000, seconds: float = 10.0) -> Fetcher:
    return Fetcher(most_bytes, Gate(allow_private=True), seconds=seconds)


# Which addresses may be reached


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.0.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "100.64.0.1", "100.127.255.255", "169.254.169.254", "0.0.0.0", "0.1.2.3", "192.0.0.1",
        "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
        "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1",
        "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1",
        "2002:7f00:1::", "2002:a00:1::", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "2001::1",
        "2001:db8::1", "3fff::1", "2606:4700::5efe:10.0.0.1", "2606:4700::1%1", "example.com",
    ],
)  # fmt: skip
def test_what_is_not_on_the_public_internet_is_not_reached(address: str) -> None:
    assert not may_reach(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "198.20.0.1",
        "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::",
    ],
)  # fmt: skip
def test_what_is_on_it_is_reached(address: str) -> None:
    assert may_reach(address)


def test_an_intranet_can_be_allowed_but_never_the_link() -> None:
    allowed = ["10.0.0.1", "127.0.0.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"]
    assert all(may_reach(address, allow_private=True) for address in allowed)
    never = [
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "240.0.0.1",
    ]
    assert not any(may_reach(address, allow_private=True) for address in never)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1."])
def test_an_address_in_disguise_is_an_address(host: str) -> None:
    assert literal(host) == "127.0.0.1"


# Which URLs may be sent


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a",
        "file:///etc/passwd",
        "//example.com/a",
        "http://",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com/a b",
        "http://example.com\\@10.0.0.1/",
        "http://example.com/\r\nX: y",
        "http://exa\0mple.com/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://a..b/",
        f"http://{'a' * 64}.com/",
        "http://example.com/\ud800",
        "http://example.com/" + "a" * 5_000,
        "http://localhost/",
        "http://LOCALHOST.:8000/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_a_url_that_cannot_be_fetched_is_refused_before_anybody_tries(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|holds|names|is) ") as refused:
        Fetcher(1_000, Gate()).check(url)
    assert "secret" not in str(refused.value)


def test_a_url_is_taken_apart_as_it_is_sent() -> None:
    target = take_apart("HTTPS://Bücher.example:8443/ü%20x?q=ß#part")
    assert (target.host, target.port) == ("xn--bcher-kva.example", 8443)
    assert (target.authority, target.path) == ("xn--bcher-kva.example:8443", "/%C3%BC%20x?q=%C3%9F")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/a/report.pdf?token=secret", "report.pdf"),
        ("https://example.com/a/%E6%8A%A5%E5%91%8A.md", "报告.md"),
        ("https://example.com/guide/", "guide"),
        ("https://example.com", "example.com"),
        ("https://example.com/a%2F..%2F%00b.txt", "b.txt"),
        ("https://example.com/..", "example.com"),
    ],
)
def test_a_document_is_named_by_the_end_of_its_url(url: str, name: str) -> None:
    assert name_of(url) == name


# What is fetched


def test_a_document_comes_with_its_type(web: Site, tmp_path: Path) -> None:
    web.answers["/a?k=1"] = answer(body=b"hello", Content_Type="Text/HTML; charset=utf-8")
    fetched = local().fetch(f"http://{web.address}/a?k=1", tmp_path / "a")
    assert (fetched.size, fetched.media_type) == (5, "text/html")
    assert (tmp_path / "a").read_bytes() == b"hello"
    assert web.asked == [("/a?k=1", web.address)]


def test_a_host_is_resolved_once_and_a_second_answer_does_not_matter(web: Site, tmp_path: Path) -> None:
    # Given a name that is public when it is asked first, and private from then on
    web.answers["/"] = answer(body=b"x")
    given = [["127.0.0.1"], ["10.0.0.1"]]
    fetcher = Fetcher(
        1_000,
        Gate(resolver=lambda _host, _port: given.pop(0), reachable=lambda address: address == "127.0.0.1"),
    )
    # When it is fetched
    fetcher.fetch(f"http://rebound.example:{web.address.rpartition(':')[2]}/", tmp_path / "a")
    # Then the connection went to the address that was checked, and nobody asked again
    assert given == [["10.0.0.1"]]
    assert web.asked[0][1].startswith("rebound.example:")


def test_a_host_with_one_private_address_among_public_ones_is_refused(tmp_path: Path) -> None:
    fetcher = Fetcher(1_000, Gate(resolver=lambda _host, _port: ["8.8.8.8", "10.0.0.1"]))
    with pytest.raises(FetchRefused, match="not on the public internet"):
        fetcher.fetch("http://mixed.example/", tmp_path / "a")


def test_a_redirect_to_a_private_host_never_reaches_it(web: Site, tmp_path: Path) -> None:
    # Given a public server that redirects to one which must not be reached
    with site() as canary:
        port = canary.address.rpartition(":")[2]
        web.answers["/"] = answer(302, Location=f"http://inner.example:{port}/")
        hosts = {"outer.example": "127.0.0.1", "inner.example": "127.0.0.2"}
        fetcher = Fetcher(
            1_000,
            Gate(resolver=lambda host, _port: [hosts[host]], reachable=lambda one: one == "127.0.0.1"),
        )
        # When it is fetched, then that is refused
        with pytest.raises(FetchRefused, match="not on the public internet"):
            fetcher.fetch(f"http://outer.example:{web.address.rpartition(':')[2]}/", tmp_path / "a")
        # And nobody knocked there
        assert canary.asked == []


def test_a_redirect_that_is_not_encoded_is_followed(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = answer(302, Location="/报告 1.md".encode().decode("latin-1"))
    web.answers["/%E6%8A%A5%E5%91%8A%201.md"] = answer(body=b"x")
    assert local().fetch(f"http://{web.address}/", tmp_path / "a").size == 1


def test_redirects_are_followed_and_counted(web: Site, tmp_path: Path) -> None:
    for number in range(1, 7):
        web.answers[f"/{number}"] = answer(302, Location=f"/{number - 1}")
    web.answers["/0"] = answer(body=b"x")
    assert local().fetch(f"http://{web.address}/5", tmp_path / "a").size == 1
    with pytest.raises(FetchRefused, match="more than 5 redirects"):
        local().fetch(f"http://{web.address}/6", tmp_path / "a")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://u:p@example.com/", "gopher://example.com/"])
def test_a_redirect_to_what_may_not_be_sent_is_refused(web: Site, tmp_path: Path, place: str) -> None:
    web.answers["/"] = answer(302, Location=place)
    with pytest.raises(FetchRefused, match="redirects to"):
        local().fetch(f"http://{web.address}/", tmp_path / "a")


def test_what_is_fetched_again_is_kept_once(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = answer(body=b"x", Content_Type="text/csv")
    store: Any = None
    sources = Sources(store, Blobs(tmp_path.as_uri()), [], local())
    kept = [sources.fetch(f"http://{web.address}/") for _ in range(2)]
    assert kept[0] == kept[1]
    assert (kept[0].size, kept[0].media_type) == (1, "text/csv")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [kept[0].sha256]


# What is too much, too slow, or nothing


def test_a_body_that_grows_too_large_is_stopped(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = drip(web, b"x" * 5_000)
    with pytest.raises(DocumentTooLarge):
        local(most_bytes=100_000).fetch(f"http://{web.address}/", tmp_path / "a")


def test_a_body_that_says_that_it_is_too_large_is_not_read(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = answer(body=b"x" * 1_001)
    with pytest.raises(DocumentTooLarge):
        local().fetch(f"http://{web.address}/", tmp_path / "a")


def test_a_body_that_drips_ends_with_the_time_of_the_whole(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = drip(web, b"x", pause=0.02)
    with pytest.raises(FetchFailed, match=r"within 0\.3 s"):
        local(seconds=0.3).fetch(f"http://{web.address}/", tmp_path / "a")


def test_a_head_without_an_end_is_refused(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = answer(**{f"X_{number}": "x" * 1_000 for number in range(90)})
    with pytest.raises(FetchRefused, match="HTTP as it should"):
        local().fetch(f"http://{web.address}/", tmp_path / "a")


@pytest.mark.parametrize("header", [{"Content_Encoding": "gzip"}, {"Transfer_Encoding": "gzip, chunked"}])
def test_a_packed_body_is_refused(web: Site, tmp_path: Path, header: dict[str, str]) -> None:
    web.answers["/"] = answer(body=b"x", **header)
    with pytest.raises(FetchRefused, match="packed"):
        local().fetch(f"http://{web.address}/", tmp_path / "a")


def test_a_body_that_ends_early_is_tried_again(web: Site, tmp_path: Path) -> None:
    web.answers["/"] = answer(body=b"x", Content_Length="10")
    with pytest.raises(FetchFailed, match="1 of 10 bytes"):
        local().fetch(f"http://{web.address}/", tmp_path / "a")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, FetchRefused),
        (401, FetchRefused),
        (304, FetchRefused),
        (204, FetchRefused),
        (408, FetchFailed),
        (429, FetchFailed),
        (500, FetchFailed),
        (503, FetchFailed),
    ],
)
def test_an_answer_without_a_document_says_whether_to_try_again(
    web: Site, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    web.answers["/a?token=secret"] = answer(status)
    with pytest.raises(error, match=str(status)) as refused:
        local().fetch(f"http://{web.address}/a?token=secret", tmp_path / "a")
    assert "secret" not in str(refused.value)


def test_a_resolver_that_does_not_answer_is_left_behind(tmp_path: Path) -> None:
    answers = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        answers.wait(10)
        return []

    with pytest.raises(FetchFailed, match=r"within 0\.1 s"):
        Fetcher(1_000, Gate(resolver=slow), seconds=0.1).fetch("http://slow.example/", tmp_path / "a")
    answers.set()


def test_a_server_that_is_not_there_is_tried_again(web: Site, tmp_path: Path) -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(FetchFailed, match="Name or service not known"):
        Fetcher(1_000, Gate(resolver=nobody)).fetch("http://nobody.example/", tmp_path / "a")


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CERTIFICATE)


def on_this_machine() -> Fetcher:
    """One for which every host is this machine, and docs.example has a certificate."""
    return Fetcher(1_000, Gate(allow_private=True, resolver=lambda _host, _port: ["127.0.0.1"], tls=trusting))


def test_tls_is_spoken_with_the_host_by_its_name_at_the_address_that_was_checked(tmp_path: Path) -> None:
    with site(tls=True) as web:
        web.answers["/"] = answer(body=b"x")
        assert on_this_machine().fetch(f"https://docs.example:{web.port}/", tmp_path / "a").size == 1
        assert web.named == ["docs.example"]


def test_a_certificate_of_another_host_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with site(tls=True) as web:
        with pytest.raises(FetchRefused, match="certificate"):
            on_this_machine().fetch(f"https://other.example:{web.port}/", tmp_path / "a")
        assert web.asked == []


def test_a_redirect_from_https_to_http_is_refused(web: Site, tmp_path: Path) -> None:
    with site(tls=True) as secure:
        secure.answers["/"] = answer(302, Location=f"http://docs.example:{web.port}/")
        with pytest.raises(FetchRefused, match="from https to http"):
            on_this_machine().fetch(f"https://docs.example:{secure.port}/", tmp_path / "a")
    assert web.asked == []


def test_plain_http_is_no_tls(web: Site, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed):
        local(seconds=2).fetch(f"https://{web.address}/", tmp_path / "a")


# What it is


def test_the_declared_type_tells_where_the_name_does_not(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("<p>A page without a head")
    assert detect(path, "page.php", "text/html") is MediaType.HTML
    assert detect(path, "page.txt", "text/html") is MediaType.TEXT
    assert detect(path, "page.php", "text/plain") is MediaType.TEXT
