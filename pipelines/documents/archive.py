"""Zip containers, looked into without trusting them."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.documents.errors import DocumentTooLarge, UnreadableDocument

MEGABYTE = 1_000_000
_CHUNK = 64 * 1024
_END_RECORD = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_LOCATOR_MARK = b"PK\x06\x07"
_ZIP64_RECORD = struct.Struct("<4sQ2H2L4Q")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_BYTES_PER_LISTED_ENTRY = 600
_DEFLATE_AT_MOST = 1032  # to one: no deflate stream unpacks to more
_SUSPICIOUS_RATIO = 200
_SUSPICIOUS_FROM = 50 * MEGABYTE
# What the standard library raises on broken zip files; offsets beyond the file give the last three.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
    OverflowError,
    OSError,
)
_DAMAGED = "The file is damaged: its zip container cannot be read. Send an intact copy."


@contextmanager
def opened(path: Path, *, max_entries: int = 10_000) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose directory is known to be small.

    Raises UnreadableDocument (damaged, under a password) and DocumentTooLarge (too many entries).
    """
    with path.open("rb") as file:
        try:
            if _directory_size(file) > max_entries * _BYTES_PER_LISTED_ENTRY:
                raise _too_many_entries(max_entries)
            with zipfile.ZipFile(file) as archive:
                _check_entries(archive, max_entries)
                yield archive
        except _DAMAGE as error:
            raise UnreadableDocument(_DAMAGED) from error


def check_unpacked_size(path: Path, *, max_bytes: int, max_entries: int) -> None:
    """Refuse an archive that unpacks to more than ``max_bytes``, whatever its headers claim.

    Raises DocumentTooLarge, and UnreadableDocument if it is damaged.
    """
    with opened(path, max_entries=max_entries) as archive:
        entries = archive.infolist()
        claimed = sum(entry.file_size for entry in entries)
        packed = sum(entry.compress_size for entry in entries)
        if claimed > max_bytes or (claimed > _SUSPICIOUS_FROM and claimed > _SUSPICIOUS_RATIO * packed):
            raise _too_large(max_bytes)
        if packed * _DEFLATE_AT_MOST > max_bytes:
            _count_unpacked(path, entries, max_bytes)


def read_entry(archive: zipfile.ZipFile, name: str, *, max_bytes: int) -> bytes:
    """Return at most ``max_bytes`` of an entry, empty if there is none of that name."""
    if name not in archive.namelist():
        return b""
    with archive.open(name) as entry:
        return entry.read(max_bytes)


def _check_entries(archive: zipfile.ZipFile, max_entries: int) -> None:
    entries = archive.infolist()
    if len(entries) > max_entries:
        raise _too_many_entries(max_entries)
    if any(entry.flag_bits & 1 for entry in entries):
        raise UnreadableDocument(
            "The file is protected by a password. Remove the password and send it again."
        )
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise UnreadableDocument(
            "The file is packed in a way that Office does not use. Save it again with Office."
        )


def _directory_size(file: IO[bytes]) -> int:
    """Return how many bytes the directory claims, before anything reads it into memory."""
    size = file.seek(0, 2)
    tail_start = max(0, size - 65536 - _END_RECORD.size)
    file.seek(tail_start)
    tail = file.read()
    place = tail.rfind(_END_MARK)
    if place < 0:
        raise UnreadableDocument(_DAMAGED)
    directory_size = int(_END_RECORD.unpack_from(tail, place)[5])
    locator_place = place - _ZIP64_LOCATOR.size
    if locator_place >= 0 and tail[locator_place:].startswith(_ZIP64_LOCATOR_MARK):
        file.seek(_ZIP64_LOCATOR.unpack_from(tail, locator_place)[2])
        directory_size = int(_ZIP64_RECORD.unpack(file.read(_ZIP64_RECORD.size))[8])
    file.seek(0)
    return directory_size


def _count_unpacked(path: Path, entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """Unpack everything piece by piece, keeping nothing."""
    total = 0
    with path.open("rb") as file:
        for entry in entries:
            if entry.compress_type == zipfile.ZIP_STORED:
                total += entry.compress_size
                continue
            for piece_size in _unpacked_pieces(file, entry):
                total += piece_size
                if total > max_bytes:
                    raise _too_large(max_bytes)


def _unpacked_pieces(file: IO[bytes], entry: zipfile.ZipInfo) -> Iterator[int]:
    file.seek(entry.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(header[9] + header[10], 1)
    left = entry.compress_size
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    while left > 0 and not unpacker.eof:
        packed = file.read(min(_CHUNK, left))
        if not packed:
            raise UnreadableDocument(_DAMAGED)
        left -= len(packed)
        while packed and not unpacker.eof:
            yield len(unpacker.decompress(packed, 1 << 20))
            packed = unpacker.unconsumed_tail


def _too_large(max_bytes: int) -> DocumentTooLarge:
    return DocumentTooLarge(
        f"The file unpacks to far more than its size, or to more than {max_bytes // MEGABYTE} MB. "
        "Split the document, or take out its largest pictures."
    )


def _too_many_entries(max_entries: int) -> DocumentTooLarge:
    return DocumentTooLarge(f"The file consists of more than {max_entries:,} parts. Split the document.")
