"""The header of a safetensors file: its length in eight bytes, then JSON. The tensors follow without gaps.

Format: https://huggingface.co/docs/safetensors. All offsets are checked against the size of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from engines.modelfiles.tensor_file import (
    DAMAGED,
    ITEM_BYTES,
    MAX_DIMENSIONS,
    Entry,
    TensorBytes,
    UnreadableModelFile,
    cut_off,
    quoted,
)
from files import bounded_json

MAX_HEADER = 2 << 20
"""Bytes. The format allows 100 MB; the header of a speech model has 0.1 MB."""
MAX_VALUES = 150_000
"""Commas and brackets; XTTS-v2 has 10,000."""

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "I32": "int32",
    "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip


def looks_like_it(head: bytes) -> bool:
    """Whether a file with these first bytes is meant as safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


def read(source: TensorBytes) -> tuple[dict[str, Entry], dict[str, object]]:
    """Read tensors and metadata.

    Raises:
        UnreadableModelFile: The header is damaged or too large, or offsets do not match the file.
    """
    length = int.from_bytes(source.at(0, 8), "little")
    if length > MAX_HEADER:
        raise UnreadableModelFile(f"its header claims {length:,} bytes; at most {MAX_HEADER:,} are read", DAMAGED)
    header = _parsed(source.at(8, length))
    metadata = header.pop("__metadata__", None)
    start = 8 + length
    entries = {name: _entry(name, description, start) for name, description in header.items()}
    _check_offsets(entries, start, source.size)
    values: dict[str, object] = {}
    if isinstance(metadata, dict):
        values = {name: value for name, value in metadata.items() if isinstance(value, str)}
    return entries, values


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = bounded_json.parse(text, MAX_VALUES, _unique)
    except ValueError:
        raise UnreadableModelFile("its header is not the JSON of safetensors", DAMAGED) from None
    if not isinstance(header, dict):
        raise UnreadableModelFile("its header is not the JSON of safetensors", DAMAGED)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableModelFile("two of its tensors have the same name", DAMAGED)
    return found


def _entry(name: str, description: object, start: int) -> Entry:
    if not isinstance(description, Mapping):
        raise _wrong(name)
    kind, shape, offsets = (description.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_are_sizes(shape) and _are_sizes(offsets)) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise _wrong(name)
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise UnreadableModelFile(
            f"the tensor {quoted(name)} has the dtype {quoted(str(kind))}, which is not supported",
            "Save it with float32, float16 or bfloat16 weights.",
        )
    dtype = _DTYPES[kind]
    entry = Entry(dtype, tuple(shape), start + offsets[0], offsets[1] - offsets[0])
    if entry.size != entry.count * ITEM_BYTES[dtype]:
        raise _wrong(name)
    return entry


def _wrong(name: str) -> UnreadableModelFile:
    return UnreadableModelFile(f"the entry of the tensor {quoted(name)} in its header is invalid", DAMAGED)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 62 for number in value)


def _check_offsets(entries: Mapping[str, Entry], start: int, size: int) -> None:
    """Check that the tensors fill the rest of the file without gaps or overlaps."""
    end = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
        if entry.offset != end:
            fault = "overlaps another" if entry.offset < end else "follows a gap"
            raise UnreadableModelFile(f"the tensor {quoted(name)} {fault}", DAMAGED)
        end += entry.size
    if end > size:
        raise cut_off(end - size)
    if end < size:
        raise UnreadableModelFile(f"it has {size - end:,} unused bytes after its last tensor", DAMAGED)
