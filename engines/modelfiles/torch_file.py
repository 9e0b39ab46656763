"""The header of a file saved by torch: a zip archive with a pickle, the list of contents, and a record per storage.

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
from engines.modelfiles.zip_directory import ZipEntry

MAX_PICKLE = 4 << 20
"""Bytes; an XTTS-v2 with the state of its optimizer (3,852 tensors) has 370,000."""
MAX_DEPTH = 32
MAX_OBJECTS = 30_000
"""Tensors, values and containers; that file has 6,100."""
MAX_NAME = 500
MAX_NAMES = 2 << 20
"""Characters in all names together; that file has 230,000."""
_MAX_BYTEORDER = 16

_SAVE_AGAIN = "If you trust it, load it with a current torch and save it again: torch.save(model.state_dict(), …)."


def read(source: TensorBytes) -> tuple[dict[str, Entry], dict[str, object]]:
    """Read tensors and other values.

    Raises:
        UnreadableModelFile: The file is damaged, too large, or contains code.
    """
    records = zip_directory.records(source)
    root = _root(records)
    order = records.get(f"{root}/byteorder")
    if order is not None and (order.size > _MAX_BYTEORDER or zip_directory.content(source, order) != b"little"):
        raise UnreadableModelFile("it was saved on a big-endian machine", "Save it again on a little-endian machine.")
    listing = records[f"{root}/data.pkl"]
    if listing.size > MAX_PICKLE:
        raise UnreadableModelFile(f"its list of contents has {listing.size:,} bytes", _SAVE_AGAIN)
    contents = _Contents(inert_pickle.load(BytesIO(zip_directory.content(source, listing))))
    storages = _Storages(source, records, root)
    return {name: storages.entry(name, tensor) for name, tensor in contents.tensors.items()}, contents.values


def refuse_bare_pickle(source: TensorBytes) -> None:
    """Refuse a file that is a pickle without an archive.

    Raises:
        HoldsCode: It contains code.
        UnreadableModelFile: Always, otherwise; torch saved such files before version 1.6.
    """
    stream = BytesIO(source.at(0, min(source.size, MAX_PICKLE)))
    try:
        for _ in islice(inert_pickle.load_all(stream), 4):  # magic number, version, machine, object
            pass
    except HoldsCode:
        raise
    except UnreadableModelFile:
        pass  # in old files the storages follow, which are not pickled
    raise UnreadableModelFile("it is a bare pickle, which torch wrote before version 1.6", _SAVE_AGAIN)


def _root(records: Mapping[str, ZipEntry]) -> str:
    """Name of the top folder in the archive."""
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise UnreadableModelFile(
            "it is a zip archive without torch's list of contents",
            "If it is a packed folder, unpack it. If saving it was interrupted, use an earlier checkpoint.",
        )
    if f"{roots[0]}/constants.pkl" in records:
        raise UnreadableModelFile(
            "it is a TorchScript program, not weights", "Use the checkpoint that it was compiled from."
        )
    return roots[0]


# --- names of nested objects -----------------------------------------------------------------------------------------

_HOLDS_TENSORS = object()


class _Contents:
    """Tensors and values in an unpickled object, by dotted names.

    The same object may occur several times, also inside itself. So their number and depth are bounded.
    """

    def __init__(self, root: Any) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, object] = {}
        self._objects = self._characters = 0
        children = _children(root)
        self._visit_all([("tensor", root)] if children is None else children, "", 1)

    def _visit_all(self, children: Iterable[tuple[str, Any]], prefix: str, depth: int) -> object:
        """Collect the children of a container.

        Returns:
            The children as one plain value if no tensor is among them. Else `_HOLDS_TENSORS`; the other children are
            then in `values`, each under its own name.
        """
        plain = {key: self._visit(child, f"{prefix}{key}", depth) for key, child in children}
        if prefix and all(value is not _HOLDS_TENSORS for value in plain.values()):
            return plain
        for key, value in plain.items():
            if value is not _HOLDS_TENSORS:
                self.values[f"{prefix}{key}"] = value
        return _HOLDS_TENSORS

    def _visit(self, item: Any, name: str, depth: int) -> object:
        self._objects += 1
        self._characters += len(name)
        is_too_much = self._objects > MAX_OBJECTS or self._characters > MAX_NAMES
        if is_too_much or depth > MAX_DEPTH or len(name) > MAX_NAME:
            raise UnreadableModelFile("its list of contents is too long or nested too deep", DAMAGED)
        if isinstance(item, Tensor):
            if name in self.tensors:
                raise UnreadableModelFile(f"two of its tensors are named {quoted(name)}", DAMAGED)
            self.tensors[name] = item
            return _HOLDS_TENSORS
        children = _children(item)
        if children is None:
            return _scalar(item)
        found = self._visit_all(children, f"{name}.", depth + 1)
        return list(found.values()) if isinstance(found, dict) and isinstance(item, list | tuple) else found


def _children(item: Any) -> Iterable[tuple[str, Any]] | None:
    """Names and values in a container, without copying it; None for anything else."""
    if isinstance(item, PickledObject):
        item = item.state if isinstance(item.state, dict) else item.arguments
    if isinstance(item, dict):
        return item.items()
    if isinstance(item, list | tuple):
        return ((str(index), child) for index, child in enumerate(item))
    return None


def _scalar(item: Any) -> object:
    """Text and numbers unchanged, classes by name, None for anything else."""
    if isinstance(item, Name):
        return item.path
    is_plain = isinstance(item, str | float) or (isinstance(item, int) and item.bit_length() <= 64)
    return item if is_plain else None


# --- offsets of tensors ----------------------------------------------------------------------------------------------


class _Storages:
    """The records of an archive that contain the elements of tensors."""

    def __init__(self, source: TensorBytes, records: Mapping[str, ZipEntry], root: str) -> None:
        self._source, self._records, self._root = source, records, root
        self._offsets: dict[str, int] = {}

    def entry(self, name: str, tensor: Tensor) -> Entry:
        """Locate a tensor in the file.

        Raises:
            UnreadableModelFile: Its description is invalid, or it is not inside its record.
        """
        storage, shape, stride, first = tensor.storage, tensor.shape, tensor.stride, tensor.offset
        dtype = tensor.dtype or (storage.dtype if isinstance(storage, Storage) else None)
        is_valid = isinstance(storage, Storage) and _are_sizes(shape) and _are_sizes(stride) and _are_sizes((first,))
        if not is_valid or dtype is None or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
            raise UnreadableModelFile(f"its description of the tensor {quoted(name)} is invalid", DAMAGED)
        record = self._records.get(f"{self._root}/data/{storage.key}")
        if record is None:
            raise UnreadableModelFile(f"the data of its tensor {quoted(name)} are missing", DAMAGED)
        item, count = ITEM_BYTES[dtype], math.prod(shape)
        elements = first + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if count else 0
        if elements * item > record.size:
            raise UnreadableModelFile(f"its tensor {quoted(name)} extends beyond its data", DAMAGED)
        offset = self._offset(record) + first * item if count else record.header
        return Entry(dtype, shape, offset, count * item, None if _is_contiguous(shape, stride) else stride)

    def _offset(self, record: ZipEntry) -> int:
        if record.name not in self._offsets:
            self._offsets[record.name] = zip_directory.data_offset(self._source, record)
        return self._offsets[record.name]


def _are_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(number) is int and 0 <= number < 1 << 48 for number in value)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    step = 1
    for size, own in zip(reversed(shape), reversed(stride), strict=True):
        if size == 0:
            return True
        if size > 1 and own != step:
            return False
        step *= size
    return True
