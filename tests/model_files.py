"""Model files for tests: as torch saves them, and malformed ones."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.spooling import ROOT


def tiny_xtts() -> ModuleType:
    """The script that builds XTTS-v2 models of random weights; other packages have an `examples` too."""
    if "tiny_xtts" not in sys.modules:
        spec = spec_from_file_location("tiny_xtts", ROOT / "examples/tiny_xtts.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["tiny_xtts"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tiny_xtts"])
    return sys.modules["tiny_xtts"]


class Runs:
    """Creates a file when it is unpickled the usual way, as proof that code ran."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.witness}'",)


def torch_zip(path: Path, listing: bytes, records: Mapping[str, bytes] | None = None, **how: Any) -> Path:
    """A zip archive with torch's layout, around any data.pkl.

    Args:
        listing: Content of data.pkl.
        records: Further files in the archive, by their names in its folder.
        how: For `zipfile.ZipFile`.
    """
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("model/data.pkl", listing)
        for name, content in (records or {}).items():
            archive.writestr(f"model/{name}", content)
    return path


def sparse_zip(path: Path, records: Mapping[str, bytes], hollow: str, size: int) -> Path:
    """A zip archive with torch's layout whose last record is sparse zeros.

    Args:
        records: Those before it, by their names in the archive's folder.
        hollow, size: Name and bytes of the last one; less than 4 GiB.
    """
    directory, place = b"", 0
    with path.open("wb") as file:
        for name, content in {**records, hollow: None}.items():
            own, length = f"model/{name}".encode(), size if content is None else len(content)
            crc = 0 if content is None else zlib.crc32(content)  # the zeros are never read
            common = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, crc, length, length, len(own), 0)
            directory += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<3H2I", 0, 0, 0, 0, place) + own
            file.write(b"PK\3\4" + common + own + (content or b""))
            place = file.seek(0 if content is not None else length, os.SEEK_CUR)
        count = len(records) + 1
        file.write(directory + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), place, 0))
    return path


def storage(kind: str, key: str) -> bytes:
    """Pickle instructions for a storage of one element: `storage("Float", "0")`."""
    return (
        b"(X\x07\0\0\0storage" + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + b"K\x01tQ"
    )  # fmt: skip


def tensor(kind: str, key: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Pickle instructions for a tensor, with any numbers."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(kind, key) + number(offset)
        + b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, stride)) + b"t\x89}tR"
    )  # fmt: skip


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def safetensors(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header: bytes are used as they are, other values as JSON."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(written) if length is None else length).to_bytes(8, "little") + written + data)
    return path
