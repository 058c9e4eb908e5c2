"""What is to be sent: the documents in files, folders and archives, and those that the server fetches."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import msgspec

from actors.web.addresses import name_of
from api import archives
from tasks.errors import CallboardError

#: What is taken from folders and archives. A file that is named itself is always sent: the server looks at
#: its content.
EXTENSIONS = frozenset(
    {".pdf", ".docx", ".docm", ".pptx", ".pptm", ".xlsx", ".xlsm", ".html", ".htm", ".xhtml"}
    | {".md", ".markdown", ".csv", ".tsv", ".txt", ".text", ".log"}
)


class Source(msgspec.Struct, frozen=True):
    """A document to send, at a path or at a URL: the same name sent again is the same document.

    ``archive`` is what a member was unpacked from.
    """

    place: Path | str
    name: str
    archive: Path | None = None

    @property
    def origin(self) -> str:
        """Where it is from, for people; without the query of a URL, which may hold a secret."""
        if isinstance(self.place, str):
            return self.place.partition("#")[0].partition("?")[0]
        return str(self.place if self.archive is None else self.archive / self.name)


class Selection(msgspec.Struct, frozen=True):
    """The documents that were found, and how many files were left out, for which reason.

    ``unsafe`` are members of archives that are links or lead out of their archive.
    """

    sources: list[Source]
    hidden: int = 0
    unsupported: int = 0
    unsafe: int = 0


def is_url(text: str) -> bool:
    """Whether what was given is a URL and no path."""
    return text.lower().startswith(("http://", "https://"))


@contextmanager
def selected(given: Iterable[Path | str]) -> Iterator[Selection]:
    """Find the documents: files as they are, folders and archives with all that is in them, and URLs.

    Hidden files and folders, and files of types that cannot be converted, are left out and counted. What is
    in an archive lies in files for as long as the context lasts.

    Raises:
      CallboardError: a path is not there, a URL or an archive is none, or two documents have one name.
    """
    with TemporaryDirectory(prefix="callboard-") as folder:
        yield _Finder(Path(folder)).find(given)


class _Finder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._skipped: Counter[str] = Counter()
        self._unpacked: set[Path] = set()

    def find(self, given: Iterable[Path | str]) -> Selection:
        sources: dict[str, Source] = {}
        for one in given:
            for source in self._at(one):
                other = sources.setdefault(source.name, source)
                if _real(other) != _real(source):
                    raise CallboardError(
                        f"{other.origin} and {source.origin} would both be the document {source.name!r}: "
                        "ingest them into two knowledge bases, or give the folder above both",
                        code="same_name",
                    )
        return Selection(list(sources.values()), **self._skipped)

    def _at(self, one: Path | str) -> Iterable[Source]:
        if isinstance(one, str) and is_url(one):
            return [Source(one, _name_of(one))]
        path = Path(one)
        if not path.is_file():
            return self._below(path)
        return self._inside(path) if archives.is_archive(path) else [Source(path, path.name)]

    def _below(self, folder: Path) -> Iterator[Source]:
        if not folder.is_dir():
            raise CallboardError(f"there is no file or folder {folder}: check the path", code="no_such_path")
        for parent, folders, files in os.walk(folder):
            self._skipped["hidden"] += sum(name.startswith(".") for name in folders)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if name.startswith("."):
                    self._skipped["hidden"] += 1
                elif path.suffix.lower() not in EXTENSIONS or not path.is_file():
                    self._skipped["unsupported"] += 1
                else:
                    yield Source(path, path.relative_to(folder).as_posix())

    def _inside(self, archive: Path) -> Iterable[Source]:
        if archive.resolve() in self._unpacked:
            return []
        self._unpacked.add(archive.resolve())
        found: dict[str, Source] = {}
        hidden: set[PurePosixPath] = set()
        with archives.members(archive) as members:
            for number, member in enumerate(members):
                if member.path is None:
                    self._skipped["unsafe"] += 1
                elif (above := _hidden(member.path)) is not None:
                    hidden.add(above)
                elif member.path.suffix.lower() not in EXTENSIONS:
                    self._skipped["unsupported"] += 1
                else:
                    file = self._folder / f"{len(self._unpacked)}-{number}{member.path.suffix}"
                    member.save(file)
                    # Of two members of one name the later one counts, as when they are unpacked.
                    found[str(member.path)] = Source(file, str(member.path), archive)
        self._skipped["hidden"] += len(hidden)
        return found.values()


def _hidden(path: PurePosixPath) -> PurePosixPath | None:
    """The path down to the first hidden folder or file of it."""
    for place, part in enumerate(path.parts, 1):
        if part.startswith(".") or part == "__MACOSX":
            return PurePosixPath(*path.parts[:place])
    return None


def _name_of(url: str) -> str:
    try:
        return name_of(url)
    except ValueError as error:
        raise CallboardError(f"the URL {error}", code="bad_url") from None


def _real(source: Source) -> Path | str:
    return source.place if isinstance(source.place, str) else source.place.resolve()
