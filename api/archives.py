"""Archives looked into without trusting them: what is in them, one member after the other."""

import gzip
import io
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

import msgspec

from tasks.errors import CallboardError

MOST_MEMBERS = 10_000
MOST_BYTES = 4 << 30
_MOST_OF_A_HEAD = 1 << 20
_TARS = (".tar", ".tar.gz", ".tgz")
_DRIVE = re.compile(r"[A-Za-z]:")
_UTF_8_FLAG = 0x800
# What the standard library raises on archives that are damaged, encrypted or packed by unusual methods.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


class ArchiveError(CallboardError):
    """An archive that cannot be unpacked, or that is too large when it is."""

    code = "bad_archive"


class Member(msgspec.Struct, frozen=True):
    """A file in an archive; ``open`` it before the next one is asked for.

    ``path`` is None for what must not be unpacked: links, devices, and what lies outside of the archive.
    """

    path: PurePosixPath | None
    size: int
    open: Callable[[], IO[bytes]]

    def save(self, file: Path) -> None:
        """Unpack it into a new file."""
        with self.open() as packed, file.open("xb") as unpacked:
            shutil.copyfileobj(packed, unpacked)


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, by its name."""
    return path.name.lower().endswith((".zip", *_TARS))


@contextmanager
def members(archive: Path) -> Iterator[Iterator[Member]]:
    """The files in an archive, in its order; folders are left out.

    Raises:
      ArchiveError: also while the members are read; it is damaged, under a password, has more than
        `MOST_MEMBERS` members, or they have more than `MOST_BYTES` bytes.
    """
    try:
        yield _bounded(
            archive, _of_tar(archive) if archive.name.lower().endswith(_TARS) else _of_zip(archive)
        )
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ArchiveError(f"{archive} cannot be unpacked: {reason}. Send what is in it.") from error


def _bounded(archive: Path, found: Iterator[Member]) -> Iterator[Member]:
    """The sizes that are told can be believed: nobody reads more of a member than its size."""
    number, size = 0, 0
    for member in found:
        number, size = number + 1, size + member.size
        if number > MOST_MEMBERS or size > MOST_BYTES:
            raise ArchiveError(
                f"{archive} has more than {MOST_MEMBERS:,} members, or more than {MOST_BYTES >> 30} GiB in "
                "them: unpack it, and send the folder"
            )
        yield member


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as container:
        for info in container.infolist():
            if not info.is_dir():
                kind = stat.S_IFMT(info.external_attr >> 16)
                path = _path(_zip_name(info)) if kind in (0, stat.S_IFREG) else None
                yield Member(path, info.file_size, partial(container.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name; many programs write UTF-8 and do not say so."""
    if info.flag_bits & _UTF_8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _of_tar(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        content = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_packed else file
        with tarfile.open(fileobj=_Careful(content), mode="r:") as container:
            for info in container:
                if not info.isdir():
                    path = _path(info.name) if info.isreg() and not info.issparse() else None
                    yield Member(path, info.size, partial(_of_tar_member, container, info))


def _of_tar_member(container: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = container.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"{info.name} is no file")
    return content


class _Careful(io.RawIOBase):
    """A file of which no head can fill the memory: long names and the like are read at once."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_OF_A_HEAD:
            raise tarfile.ReadError("a member has a head of more than a MiB")
        return self._content.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()


def _path(name: str) -> PurePosixPath | None:
    """The path of a member, with U+FFFD for what is no text; None if it leads out of the archive."""
    text = name.replace("\\", "/").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    path = PurePosixPath(text)
    is_outside = path.is_absolute() or ".." in path.parts or _DRIVE.match(text)
    return None if is_outside or not path.parts else path
