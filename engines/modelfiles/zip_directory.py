"""The directory of a zip archive as torch writes it: records that are stored, not compressed, one after the other.

Stricter than `zipfile`: what torch never writes (compression, encryption, two records of one name, records that share
bytes) is refused, and no size in the file decides how much memory is taken.
Format: APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from struct import Struct

from engines.modelfiles.tensor_file import COPY_AGAIN, DAMAGED, TensorBytes, UnreadableModelFile, quoted

MAX_DIRECTORY = 4 << 20
"""Bytes; that of a whole XTTS-v2 with the state of its optimizer (3,852 tensors) has 400,000."""
MAX_RECORDS = 15_000
_MAX_EXTRA = 128
"""Bytes of a record's extra fields: zip64's has 28, and other archivers add times and owners."""

_END = Struct("<4s4H2LH")
_END_64_PLACE = Struct("<4sLQL")
_END_64 = Struct("<4sQ2H2L4Q")
_CENTRAL = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file in the archive.

    Attributes:
        header: Where its own header begins, in bytes.
        size: Bytes of its content.
        end: Where the next record, or the directory, begins.
    """

    name: str
    header: int
    size: int
    end: int = 0


def records(source: TensorBytes) -> dict[str, ZipEntry]:
    """Every record by its name. Raises: Unreadable."""
    place, size = _directory(source)
    found = sorted(islice(_records(source.at(place, size)), MAX_RECORDS + 1), key=lambda record: record.header)
    if len(found) > MAX_RECORDS:
        raise UnreadableModelFile(f"its directory has more than {MAX_RECORDS:,} records", DAMAGED)
    named = {}
    for record, end in pairwise([*found, ZipEntry("", place, 0)]):
        if record.name in named:
            raise UnreadableModelFile(f"two of its records are named {quoted(record.name)}", DAMAGED)
        if record.header + _LOCAL.size + record.size > end.header:
            raise UnreadableModelFile(
                f"its record {quoted(record.name)} shares bytes with another: a zip bomb", DAMAGED
            )
        named[record.name] = ZipEntry(record.name, record.header, record.size, end.header)
    return named


def data_offset(source: TensorBytes, record: ZipEntry) -> int:
    """Where a record's content begins, in bytes. Raises: Unreadable."""
    name = record.name.encode()
    header = source.at(record.header, _LOCAL.size + len(name))
    signature, *_others, name_length, extra_length = _LOCAL.unpack_from(header)
    place: int = record.header + _LOCAL.size + name_length + extra_length
    if signature != b"PK\3\4" or header[_LOCAL.size :] != name or name_length != len(name):
        raise UnreadableModelFile(f"its record {quoted(record.name)} is not where its directory says", DAMAGED)
    if place + record.size > record.end:
        raise UnreadableModelFile(f"its record {quoted(record.name)} shares bytes with another: a zip bomb", DAMAGED)
    return place


def content(source: TensorBytes, record: ZipEntry) -> bytes:
    """All of a record."""
    return source.at(data_offset(source, record), record.size)


def _directory(source: TensorBytes) -> tuple[int, int]:
    """Where the central directory begins, and its size in bytes."""
    start = max(0, source.size - _END.size - _MAX_COMMENT)
    tail = source.at(start, source.size - start)
    found = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if found < 0:
        raise UnreadableModelFile(
            f"it is cut off after {source.size:,} bytes: the list of its tensors is missing", COPY_AGAIN
        )
    *_others, size, place, _comment = _END.unpack_from(tail, found)
    end = start + found
    before = end - _END_64_PLACE.size
    if before >= 0 and (locator := source.at(before, _END_64_PLACE.size)).startswith(b"PK\6\7"):
        end = _END_64_PLACE.unpack(locator)[2]
        signature, *_others, size, place = _END_64.unpack(source.at(end, _END_64.size))
        if signature != b"PK\6\6":
            raise UnreadableModelFile("its directory is not where its end says", DAMAGED)
    if size > MAX_DIRECTORY or place + size > end:
        raise UnreadableModelFile(f"its directory claims {size:,} bytes", DAMAGED)
    return place, size


def _records(directory: bytes) -> Iterator[ZipEntry]:
    place = 0
    while place < len(directory):
        if len(directory) - place < _CENTRAL.size or not directory.startswith(b"PK\1\2", place):
            raise UnreadableModelFile("its directory is damaged", DAMAGED)
        (_signature, _made, _needed, flags, method, _time, _date, _crc, packed, size, name_length, extra_length,
         comment_length, _disk, _inner, _outer, header) = _CENTRAL.unpack_from(directory, place)  # fmt: skip
        place += _CENTRAL.size
        if extra_length > _MAX_EXTRA:
            raise UnreadableModelFile("its directory is damaged", DAMAGED)
        name = directory[place : place + name_length]
        extra = directory[place + name_length : place + name_length + extra_length]
        place += name_length + extra_length + comment_length
        size, packed, header = _wide(extra, size, packed, header)
        _refuse_packed(name, flags & 1, method, (packed, size))
        yield ZipEntry(_text(name), header, size)


def _wide(extra: bytes, *narrow: int) -> Iterator[int]:
    """Each number, from the zip64 field where it did not fit into its own 32 bits."""
    wide = b""
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == 1:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    for number in narrow:
        if number != 0xFFFFFFFF:
            yield number
        elif len(wide) < 8:
            raise UnreadableModelFile("its directory is damaged", DAMAGED)
        else:
            yield int.from_bytes(wide[:8], "little")
            wide = wide[8:]


def _refuse_packed(name: bytes, encrypted: int, method: int, sizes: tuple[int, int]) -> None:
    packed, size = sizes
    if not (encrypted or method or packed != size):
        return
    shown = quoted(name.decode(errors="replace"))
    if encrypted:
        raise UnreadableModelFile(f"its record {shown} is encrypted", "Decrypt it; torch saves models in the open.")
    if size > 100 * max(packed, 1):
        raise UnreadableModelFile(
            f"it is a zip bomb: its record {shown} unpacks from {packed:,} to {size:,} bytes",
            "Don't load this file with anything else either.",
        )
    raise UnreadableModelFile(
        f"its record {shown} is compressed, which torch never does",
        "If it is a packed folder, unpack it, and put the model file inside under models/.",
    )


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise UnreadableModelFile("one of its records has a name that is not UTF-8", DAMAGED) from None
