"""The header of a file that torch saved: a zip archive with a pickle that says what is where, and a record per storage.

Format: torch/serialization.py and caffe2/serialize/inline_container.cc of PyTorch 1.6 and later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from io import BytesIO
from itertools import islice
from typing import Any

from engines.modelfiles import inert_pickle, zip_directory
from engines.modelfiles.inert_pickle import Name, PickledObject, Storage, Tensor
from engines.modelfiles.tensor_file import (
    DAMAGED,
    ITEM_BYTES,
    MAX_DIMENSIONS,
    Entry,
    HoldsCode,
    TensorBytes,
    UnreadableModelFile,
    quoted,
)
from engines.modelfiles.zip_directory import ZipEntry as Archived

MAX_PICKLE = 4 << 20
"""Bytes; a whole XTTS-v2 with the state of its optimizer (3,852 tensors) has 370,000."""
DEEPEST = 32
MAX_PARTS = 30_000
"""Tensors, values, and what holds them; that file has 6,100."""
MAX_NAME = 500
MAX_NAMES = 2 << 20
"""Characters in the names of all parts; that file has 230,000."""
_MAX_ORDER = 16

_SAVE_AGAIN = "Load it where you trust it, with a current torch, and save it again: torch.save(model.state_dict(), …)."


def read(source: TensorBytes) -> tuple[dict[str, Entry], dict[str, object]]:
    """Tensors, and the plain values beside them. Raises: Unreadable."""
    records = zip_directory.records(source)
    root = _root(records)
    order = records.get(f"{root}/byteorder")
    if order is not None and (order.size > _MAX_ORDER or zip_directory.content(source, order) != b"little"):
        raise UnreadableModelFile(
            "it was saved on a big-endian machine", "Save it again on a machine of the usual byte order."
        )
    listing = records[f"{root}/data.pkl"]
    if listing.size > MAX_PICKLE:
        raise UnreadableModelFile(f"its list of contents has {listing.size:,} bytes", _SAVE_AGAIN)
    parts = _Parts(inert_pickle.load(BytesIO(zip_directory.content(source, listing))))
    places = _Places(source, records, root)
    return {name: places.entry(name, tensor) for name, tensor in parts.tensors.items()}, parts.values


def refuse_old(source: TensorBytes) -> None:
    """Say what a bare pickle is: code, or what torch wrote before version 1.6. Raises: Unreadable, always."""
    stream = BytesIO(source.at(0, min(source.size, MAX_PICKLE)))
    try:
        for _ in islice(inert_pickle.several(stream), 4):  # magic number, version, machine, then the object itself
            pass
    except HoldsCode:
        raise
    except UnreadableModelFile:
        pass  # legacy files go on with bytes that are no pickle
    raise UnreadableModelFile("it is a bare pickle, which torch wrote before version 1.6", _SAVE_AGAIN)


def _root(records: Mapping[str, Archived]) -> str:
    """Name of the one folder that everything lies in."""
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise UnreadableModelFile(
            "it is a zip archive without torch's list of contents",
            "If it is a packed folder, unpack it. If saving it was interrupted, use an earlier checkpoint.",
        )
    if f"{roots[0]}/constants.pkl" in records:
        raise UnreadableModelFile(
            "it is a TorchScript program, not weights", "Use the checkpoint that it was made from."
        )
    return roots[0]


# --- from nested objects to names ------------------------------------------------------------------------------------

_HOLDS_TENSORS = object()


class _Parts:
    """Tensors and values of an inert object by dotted names.

    The same part may stand in many places, and in itself: how many are looked at, and how deep, is bounded.
    """

    def __init__(self, root: Any) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, object] = {}
        self._looked_at = self._named = 0
        children = _children(root)
        self._sort([("tensor", root)] if children is None else children, "", 1)

    def _sort(self, children: Iterable[tuple[str, Any]], prefix: str, depth: int) -> object:
        """Note down what stands under a name; without any tensor there it is one value.

        Returns:
            The children as plain values, or `_HOLDS_TENSORS` when they are noted down one by one.
        """
        plain = {key: self._look_at(child, f"{prefix}{key}", depth) for key, child in children}
        if prefix and all(value is not _HOLDS_TENSORS for value in plain.values()):
            return plain
        for key, value in plain.items():
            if value is not _HOLDS_TENSORS:
                self.values[f"{prefix}{key}"] = value
        return _HOLDS_TENSORS

    def _look_at(self, part: Any, name: str, depth: int) -> object:
        self._looked_at += 1
        self._named += len(name)
        is_too_much = self._looked_at > MAX_PARTS or self._named > MAX_NAMES
        if is_too_much or depth > DEEPEST or len(name) > MAX_NAME:
            raise UnreadableModelFile("its list of contents is nested beyond all measure", DAMAGED)
        if isinstance(part, Tensor):
            if name in self.tensors:
                raise UnreadableModelFile(f"two of its tensors are named {quoted(name)}", DAMAGED)
            self.tensors[name] = part
            return _HOLDS_TENSORS
        children = _children(part)
        if children is None:
            return _scalar(part)
        found = self._sort(children, f"{name}.", depth + 1)
        return list(found.values()) if isinstance(found, dict) and isinstance(part, list | tuple) else found


def _children(part: Any) -> Iterable[tuple[str, Any]] | None:
    """What a part consists of, by names, never a copy of it; None for what has no parts."""
    if isinstance(part, PickledObject):
        part = part.state if isinstance(part.state, dict) else part.arguments
    if isinstance(part, dict):
        return part.items()
    if isinstance(part, list | tuple):
        return ((str(index), child) for index, child in enumerate(part))
    return None


def _scalar(part: Any) -> object:
    """Text and numbers as they are, classes by name; what is of no interest as None."""
    if isinstance(part, Name):
        return part.path
    usable = isinstance(part, str | float) or (isinstance(part, int) and part.bit_length() <= 64)
    return part if usable else None


# --- from tensors to bytes -------------------------------------------------------------------------------------------


class _Places:
    def __init__(self, source: TensorBytes, records: Mapping[str, Archived], root: str) -> None:
        self._source, self._records, self._root = source, records, root
        self._starts: dict[str, int] = {}

    def entry(self, name: str, tensor: Tensor) -> Entry:
        """Where a tensor lies. Raises: Unreadable when it does not lie inside its record."""
        storage, shape, stride, first = tensor.storage, tensor.shape, tensor.stride, tensor.offset
        dtype = tensor.dtype or (storage.dtype if isinstance(storage, Storage) else None)
        sound = isinstance(storage, Storage) and _sizes(shape) and _sizes(stride) and _sizes((first,))
        if not sound or dtype is None or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
            raise UnreadableModelFile(f"it describes the tensor {quoted(name)} wrongly", DAMAGED)
        record = self._records.get(f"{self._root}/data/{storage.key}")
        if record is None:
            raise UnreadableModelFile(f"the data of its tensor {quoted(name)} are missing", DAMAGED)
        item, count = ITEM_BYTES[dtype], math.prod(shape)
        reach = first + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if count else 0
        if reach * item > record.size:
            raise UnreadableModelFile(f"its tensor {quoted(name)} reaches beyond its data", DAMAGED)
        start = self._start(record) + first * item if count else record.header
        return Entry(dtype, shape, start, count * item, None if _row_major(shape, stride) else stride)

    def _start(self, record: Archived) -> int:
        if record.name not in self._starts:
            self._starts[record.name] = zip_directory.data_offset(self._source, record)
        return self._starts[record.name]


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(one) is int and 0 <= one < 1 << 48 for one in value)


def _row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    step = 1
    for size, own in zip(reversed(shape), reversed(stride), strict=True):
        if size == 0:
            return True
        if size > 1 and own != step:
            return False
        step *= size
    return True
