"""What a file of weights says of itself: which tensors it has, and where their bytes lie."""

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
    """A file that is no model, or a broken or hostile one.

    Args:
        reason: What is wrong with it, a clause that goes on after "it can't be read: ".
        cure: What to do about it, one or two sentences.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cure = cure


class HoldsCode(UnreadableModelFile):
    """Loading the file the usual way would run what its author put into it."""


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file.

    Attributes:
        dtype: Type of an element, torch's name: `float32`, `bfloat16`, `int64`, …
        shape: May be empty: a single number.
        offset: Where its first element lies, in bytes from the start of the file.
        size: Bytes of its elements, `count * ITEM_BYTES[dtype]`; little endian. They lie in the file from `offset` on.
        stride: None when they lie in row-major order without gaps; else the step of each dimension, in elements.
            Then the elements lie inside the file too, but not in those `size` bytes.
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
    """What the header of a file says; nothing of the weights is read.

    Attributes:
        container: `safetensors` or `torch`.
        entries: Tensors; names of nested dictionaries and lists are joined by dots.
        values: Plain values beside them (`step`, `model_loss`, `config`, the metadata of safetensors), dotted too where
            they stand beside tensors: text, numbers, lists and dictionaries of them. Objects are read as dictionaries.
    """

    path: Path
    container: str
    entries: Mapping[str, Entry]
    values: Mapping[str, object]


class TensorBytes:
    """An open file that is read at places, and never beyond its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def at(self, offset: int, size: int) -> bytes:
        """Raises: Unreadable when the file ends before."""
        if offset < 0 or offset + size > self.size:
            raise cut_off(offset + size - self.size)
        found = os.pread(self._descriptor, size, offset)
        while len(found) < size:
            more = os.pread(self._descriptor, size - len(found), offset + len(found))
            if not more:
                raise cut_off(size - len(found))
            found += more
        return found


def cut_off(missing: int) -> UnreadableModelFile:
    """The error for a file that lacks so many bytes at its end."""
    return UnreadableModelFile(f"it is cut off: {missing:,} bytes are missing", COPY_AGAIN)


COPY_AGAIN = "Copy or download it again, and compare its size with the original's."
DAMAGED = "It is damaged, or no torch made it. Copy or download it again."


def quoted(text: str) -> str:
    """A name from a file for a message: short, in quotes, nothing in it that could steer a terminal."""
    return ascii(text if len(text) <= 100 else text[:99] + "…")
