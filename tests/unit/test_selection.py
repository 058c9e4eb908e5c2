"""Documents are found in files, folders and archives, and at URLs."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from api import archives
from api.selection import Selection, selected
from tasks.errors import CallboardError


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of {name}")


@contextmanager
def found(*given: Path | str) -> Iterator[Selection]:
    with selected(given) as selection:
        yield selection


def names(*given: Path | str) -> list[str]:
    with found(*given) as selection:
        return [source.name for source in selection.sources]


def zipped(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
        for name in members:
            container.writestr(name, f"the content of {name}")
    return path


def tarred(path: Path, members: Sequence[tarfile.TarInfo | str]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as container:
        for one in members:
            info = tarfile.TarInfo(one) if isinstance(one, str) else one
            content = f"the content of {info.name}".encode(errors="replace")
            if info.isreg():
                info.size = len(content)
            container.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# Files and folders


def test_a_folder_gives_its_documents_named_by_their_paths_in_it(tmp_path: Path) -> None:
    # Given a folder with documents, hidden things and things that cannot be converted
    files(tmp_path, "b.md", "sub/a.PDF", ".hidden.md", ".git/x.md", "photo.jpg", "inner.zip")

    # When documents are looked for
    with found(tmp_path) as selection:
        # Then the documents are found, and what was left out is counted
        assert [source.name for source in selection.sources] == ["b.md", "sub/a.PDF"]
        assert (selection.hidden, selection.unsupported, selection.unsafe) == (2, 2, 0)


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    files(tmp_path, "notes.unknown")
    assert names(tmp_path / "notes.unknown") == ["notes.unknown"]


def test_a_file_that_is_named_twice_is_sent_once(tmp_path: Path) -> None:
    files(tmp_path, "a.md")
    assert names(tmp_path, tmp_path / "a.md") == ["a.md"]


def test_two_files_that_would_be_one_document_are_refused(tmp_path: Path) -> None:
    files(tmp_path, "x/a.md", "y/a.md")
    with pytest.raises(CallboardError, match="both be the document"):
        names(tmp_path / "x", tmp_path / "y")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallboardError, match="nowhere"):
        names(tmp_path / "nowhere")


# Archives


MEMBERS = ("b.md", "./sub/a.PDF", ".hidden.md", ".git/x.md", ".git/y.md", "__MACOSX/b.md", "photo.jpg")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.TGZ"])
def test_an_archive_gives_its_documents_named_by_their_paths_in_it(tmp_path: Path, name: str) -> None:
    # Given an archive with documents, hidden things and something that cannot be converted
    path = tmp_path / name
    archive = zipped(path, *MEMBERS) if name == "a.zip" else tarred(path, MEMBERS)

    # When documents are looked for in it
    with found(archive) as selection:
        # Then they are there to be read, and what was left out is counted as in folders
        assert [source.name for source in selection.sources] == ["b.md", "sub/a.PDF"]
        assert [Path(source.place).read_text() for source in selection.sources] == [
            "the content of b.md",
            f"the content of {MEMBERS[1]}",
        ]
        assert selection.sources[1].origin == f"{archive}/sub/a.PDF"
        assert (selection.hidden, selection.unsupported, selection.unsafe) == (3, 1, 0)
        unpacked = [Path(source.place) for source in selection.sources]

    # And nothing is left of them afterwards
    assert not any(path.exists() for path in unpacked)


def test_what_leads_out_of_an_archive_is_left_out_and_counted(tmp_path: Path) -> None:
    # Given archives with paths that lead elsewhere, links and devices among good members
    outside = ["/etc/a.md", "../a.md", "sub/../../a.md", "..\\a.md", "C:\\a.md"]
    link = zipfile.ZipInfo("link.md")
    link.external_attr = 0o120777 << 16
    packed = zipped(tmp_path / "a.zip", *outside, "good.md")
    with zipfile.ZipFile(packed, "a") as container:
        container.writestr(link, "/etc/passwd")
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    specials = [special(f"{number}.md", kind, "/etc/passwd") for number, kind in enumerate(kinds)]
    taped = tarred(tmp_path / "b.tar", [*outside, *specials, "fine.md"])

    # When documents are looked for in them
    with found(packed, taped) as selection:
        # Then the good ones alone are found
        assert [source.name for source in selection.sources] == ["good.md", "fine.md"]
        assert selection.unsafe == 2 * len(outside) + 1 + len(kinds)
        assert all(".." not in Path(source.place).parts for source in selection.sources)


def test_an_archive_that_is_named_twice_is_sent_once_and_its_later_members_count(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar", ["a.md", "./a.md"])
    with found(archive, tmp_path / "." / "a.tar") as selection:
        assert [Path(source.place).read_text() for source in selection.sources] == ["the content of ./a.md"]


def test_two_archives_with_a_member_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallboardError, match=r"a\.zip/a\.md and .*b\.zip/a\.md would both be"):
        names(zipped(tmp_path / "a.zip", "a.md"), zipped(tmp_path / "b.zip", "a.md"))


def test_names_are_read_as_utf_8_even_where_the_archive_does_not_say_so(tmp_path: Path) -> None:
    # Given a zip whose writer forgot the flag, and a tar with a name that is no text
    archive = zipped(tmp_path / "a.zip", "报告.md")
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00"))
    broken = tarred(tmp_path / "b.tar", [os.fsdecode(b"caf\xe9.md")])
    # Then both have names that can be sent
    assert names(archive, broken) == ["报告.md", "caf\ufffd.md"]


def _truncated(path: Path) -> Path:
    tarred(path, ["a.md"] * 40)
    path.write_bytes(path.read_bytes()[:200])
    return path


def _encrypted(path: Path) -> Path:
    data = bytearray(zipped(path, "a.md").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def _with_a_huge_head(path: Path) -> Path:
    """A name of 2 GiB, of which there is nothing but the claim."""
    head = special("long", tarfile.GNUTYPE_LONGNAME)
    head.size = 2 << 30
    path.write_bytes(gzip.compress(head.tobuf() + bytes(10_000)))
    return path


def _with_a_huge_member(path: Path) -> Path:
    info = tarfile.TarInfo("photo.jpg")
    info.size = archives.MOST_BYTES + 1
    path.write_bytes(gzip.compress(info.tobuf() + bytes(10_000)))
    return path


def _with_many_members(path: Path) -> Path:
    head = tarfile.TarInfo("a.jpg").tobuf()
    path.write_bytes(gzip.compress(head * 51))
    return path


BROKEN = {
    "no zip at all": ("a.zip", lambda path: path.write_bytes(b"PK nothing"), "cannot be unpacked"),
    "no tar at all": ("a.tar", lambda path: path.write_bytes(b"nothing" * 1_000), "cannot be unpacked"),
    "cut off": ("a.tgz", _truncated, "cannot be unpacked"),
    "under a password": ("a.zip", _encrypted, "encrypted"),
    "a name without an end": ("a.tgz", _with_a_huge_head, "a head of more than a MiB"),
    "too large when unpacked": ("a.tgz", _with_a_huge_member, "unpack it, and send the folder"),
    "too many members": ("a.tgz", _with_many_members, "unpack it, and send the folder"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_archive_that_cannot_be_unpacked_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 50)
    name, make, reason = BROKEN[case]
    make(tmp_path / name)
    with pytest.raises(archives.ArchiveError, match=reason) as refused:
        names(tmp_path / name)
    assert name in str(refused.value)


# URLs


def test_a_url_is_a_document_named_by_the_end_of_its_path() -> None:
    with found("https://example.com/a/b.pdf?key=secret", "HTTP://example.com") as selection:
        assert [source.name for source in selection.sources] == ["b.pdf", "example.com"]
        assert selection.sources[0].origin == "https://example.com/a/b.pdf"


def test_a_url_that_cannot_be_one_is_refused_without_being_repeated() -> None:
    with pytest.raises(CallboardError, match="must not hold a user") as refused:
        names("https://user:secret@example.com/")
    assert "secret" not in str(refused.value)


def test_two_urls_that_would_be_one_document_are_refused() -> None:
    with pytest.raises(CallboardError, match=r"both be the document 'b\.md'"):
        names("https://example.com/b.md", "https://example.org/b.md")
