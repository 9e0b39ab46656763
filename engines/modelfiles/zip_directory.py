"""The central directory of a zip archive as torch writes it: records without compression, one after the other.

Stricter than `zipfile`: it refuses what torch never writes (compression, encryption, duplicate names, overlapping
records), and the memory that it takes is bounded, whatever sizes the file claims.
Format: APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from struct import Struct

from engines.modelfiles.tensor_file import COPY_AGAIN, DAMAGED, TensorBytes, UnreadableModelFile, quoted

MAX_DIRECTORY = 4 << 20
"""Bytes; an XTTS-v2 with the state of its optimizer (3,852 tensors) has 400,000."""
MAX_RECORDS = 15_000
_MAX_EXTRA = 128
"""Bytes of a record's extra fields: zip64 has 28, and some archivers add times and owners."""

_END = Struct("<4s4H2LH")
_END_64_PLACE = Struct("<4sLQL")
_END_64 = Struct("<4sQ2H2L4Q")
_CENTRAL = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """A record (file) of the archive.

    Attributes:
        name: Its name.
        header: Offset of its local header in the file, in bytes.
        size: Bytes of its content.
        end: Offset of the next record, or of the central directory.
    """

    name: str
    header: int
    size: int
    end: int = 0


def records(source: TensorBytes) -> dict[str, ZipEntry]:
    """All records by name.

    Raises:
        UnreadableModelFile: The directory is missing, damaged or too large, or records overlap.
    """
    offset, size = _directory(source)
    found = sorted(islice(_records(source.at(offset, size)), MAX_RECORDS + 1), key=lambda record: record.header)
    if len(found) > MAX_RECORDS:
        raise UnreadableModelFile(f"its directory has more than {MAX_RECORDS:,} records", DAMAGED)
    named = {}
    for record, following in pairwise([*found, ZipEntry("", offset, 0)]):
        if record.name in named:
            raise UnreadableModelFile(f"two of its records are named {quoted(record.name)}", DAMAGED)
        if record.header + _LOCAL.size + record.size > following.header:
            raise _overlapping(record)
        named[record.name] = ZipEntry(record.name, record.header, record.size, following.header)
    return named


def _overlapping(record: ZipEntry) -> UnreadableModelFile:
    return UnreadableModelFile(f"its record {quoted(record.name)} overlaps another: a zip bomb", DAMAGED)


def data_offset(source: TensorBytes, record: ZipEntry) -> int:
    """Offset of a record's content in the file, in bytes.

    Raises:
        UnreadableModelFile: Its local header differs from the directory.
    """
    name = record.name.encode()
    header = source.at(record.header, _LOCAL.size + len(name))
    signature, *_others, name_length, extra_length = _LOCAL.unpack_from(header)
    offset: int = record.header + _LOCAL.size + name_length + extra_length
    if signature != b"PK\3\4" or header[_LOCAL.size :] != name or name_length != len(name):
        raise UnreadableModelFile(f"its directory has a wrong offset for {quoted(record.name)}", DAMAGED)
    if offset + record.size > record.end:
        raise _overlapping(record)
    return offset


def content(source: TensorBytes, record: ZipEntry) -> bytes:
    """Content of a record."""
    return source.at(data_offset(source, record), record.size)


def _directory(source: TensorBytes) -> tuple[int, int]:
    """Offset and size of the central directory, in bytes."""
    start = max(0, source.size - _END.size - _MAX_COMMENT)
    tail = source.at(start, source.size - start)
    found = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if found < 0:
        raise UnreadableModelFile(
            f"it is cut off after {source.size:,} bytes: the list of its tensors is missing", COPY_AGAIN
        )
    *_others, size, offset, _comment = _END.unpack_from(tail, found)
    end = start + found
    before = end - _END_64_PLACE.size
    if before >= 0 and (locator := source.at(before, _END_64_PLACE.size)).startswith(b"PK\6\7"):
        end = _END_64_PLACE.unpack(locator)[2]
        signature, *_others, size, offset = _END_64.unpack(source.at(end, _END_64.size))
        if signature != b"PK\6\6":
            raise UnreadableModelFile("the offset of its directory is wrong", DAMAGED)
    if size > MAX_DIRECTORY or offset + size > end:
        raise UnreadableModelFile(f"its directory claims {size:,} bytes", DAMAGED)
    return offset, size


def _records(directory: bytes) -> Iterator[ZipEntry]:
    at = 0
    while at < len(directory):
        if len(directory) - at < _CENTRAL.size or not directory.startswith(b"PK\1\2", at):
            raise UnreadableModelFile("its directory is damaged", DAMAGED)
        (_signature, _made, _needed, flags, method, _time, _date, _crc, compressed, size, name_length, extra_length,
         comment_length, _disk, _inner, _outer, header) = _CENTRAL.unpack_from(directory, at)  # fmt: skip
        at += _CENTRAL.size
        if extra_length > _MAX_EXTRA:
            raise UnreadableModelFile("its directory is damaged", DAMAGED)
        name = directory[at : at + name_length]
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        size, compressed, header = _zip64(extra, size, compressed, header)
        _refuse_compressed(name, flags & 1, method, (compressed, size))
        yield ZipEntry(_text(name), header, size)


def _zip64(extra: bytes, *numbers: int) -> Iterator[int]:
    """Each number, or its 64 bits in the zip64 extra field if its own 32 bits are all set."""
    field = b""
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == 1:
            field = extra[4 : 4 + length]
        extra = extra[4 + length :]
    for number in numbers:
        if number != 0xFFFFFFFF:
            yield number
        elif len(field) < 8:
            raise UnreadableModelFile("its directory is damaged", DAMAGED)
        else:
            yield int.from_bytes(field[:8], "little")
            field = field[8:]


def _refuse_compressed(name: bytes, encrypted: int, method: int, sizes: tuple[int, int]) -> None:
    compressed, size = sizes
    if not (encrypted or method or compressed != size):
        return
    shown = quoted(name.decode(errors="replace"))
    if encrypted:
        raise UnreadableModelFile(f"its record {shown} is encrypted", "Decrypt it, or get an unencrypted copy.")
    if size > 100 * max(compressed, 1):
        raise UnreadableModelFile(
            f"it is a zip bomb: its record {shown} unpacks from {compressed:,} to {size:,} bytes",
            "Don't load this file with other programs either.",
        )
    raise UnreadableModelFile(
        f"its record {shown} is compressed, which torch never does",
        "If it is a packed folder, unpack it, and put the model file into models/.",
    )


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise UnreadableModelFile("one of its records has a name that is not UTF-8", DAMAGED) from None
