"""The header of a model file: its tensors and their offsets."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2, "uint32": 4, "int32": 4, "float32": 4,
    "uint64": 8, "int64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Size of one element in bytes, by torch's name of the type."""

MAX_DIMENSIONS = 32


class UnreadableModelFile(Exception):
    """A file is broken, hostile, or not a model file.

    Args:
        reason: What is wrong with the file; a clause with the subject "it".
        cure: What to do, in one or two sentences.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cure = cure


class HoldsCode(UnreadableModelFile):
    """Unpickling the file would execute code in it."""


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file.

    Attributes:
        dtype: torch's name: `float32`, `bfloat16`, `int64`, …
        shape: Empty for a scalar.
        offset: Of its first element, in bytes from the start of the file.
        size: `count * ITEM_BYTES[dtype]` bytes, little endian.
        stride: None for contiguous elements, in row-major order; else the stride of each dimension, in elements. Then
            its elements are inside the file, but not in the `size` bytes at `offset`.
    """

    dtype: str
    shape: Shape
    offset: int
    size: int
    stride: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The header of a file; no weights are read.

    Attributes:
        path: The file.
        container: `safetensors` or `torch`.
        entries: Its tensors; names in nested dictionaries and lists are joined with dots.
        values: Other values by name (`step`, `model_loss`, `config`, the metadata of safetensors): text, numbers, and
            lists and dictionaries of them. Names are dotted inside containers that also have tensors. Objects are read
            as dictionaries.
    """

    path: Path
    container: str
    entries: Mapping[str, Entry]
    values: Mapping[str, object]


class TensorBytes:
    """An open file, read at given offsets and never beyond its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes.

        Raises:
            UnreadableModelFile: The file is too short.
        """
        if offset < 0 or offset + size > self.size:
            raise cut_off(offset + size - self.size)
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                raise cut_off(size - len(data))
            data += more
        return data


def cut_off(missing: int) -> UnreadableModelFile:
    """The error for a file without its last bytes."""
    return UnreadableModelFile(f"it is cut off: {missing:,} bytes are missing", COPY_AGAIN)


COPY_AGAIN = "Copy or download it again, and compare its size with the original's."
DAMAGED = "It is damaged, or was not saved by torch. Copy or download it again."


def quoted(text: str) -> str:
    """A name from a file for a message: shortened, in quotes, without control characters."""
    return ascii(text if len(text) <= 100 else text[:99] + "…")
