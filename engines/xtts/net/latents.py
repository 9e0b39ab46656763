"""A cache on disk for latents computed from recordings.

One file per key, written to a temporary file and renamed, with a checksum: a damaged or half-written file counts as
absent. Several processes may share the folder. The cache is optional: errors of the file system are ignored.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from files import cache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 256 << 20  # 2,000 voices of XTTS
ABANDONED_S = 3600.0  # age after which a temporary file is taken to be left by a process that died
_SUFFIX, _UNFINISHED = ".latents", ".part"
_DIGEST_BYTES = 32
_KEY = re.compile("[0-9a-f]{16,128}")


def _own_folder() -> Path | None:
    return cache.folder("latents")


@dataclass(frozen=True, slots=True)
class LatentCache:
    """Arrays by key; the least recently used are removed first.

    Attributes:
        folder: Of the files; None turns the cache off.
        max_bytes: Total size of the files.
    """

    folder: Path | None = field(default_factory=_own_folder)
    max_bytes: int = MAX_BYTES

    def get(self, key: str) -> dict[str, NDArray[np.float32]] | None:
        """Read arrays.

        Args:
            key: Digest of everything that the arrays depend on, 16 to 128 lower-case hex digits.

        Returns:
            The same bits that were put under this key, or None if there are none.

        Raises:
            ValueError: the key is not such a digest.
        """
        path = self._path(key)
        try:
            arrays = None if path is None else _unpacked(path.read_bytes())
        except OSError:
            return None
        if path is not None:
            with contextlib.suppress(OSError):
                # The modification time is that of the last use; a damaged file is removed.
                path.unlink() if arrays is None else os.utime(path)
        return arrays

    def put(self, key: str, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Write arrays, and remove old ones if the cache is full.

        Nothing is written if a value is NaN or infinite, or if the arrays are larger than the whole cache.

        Args:
            key: As in `get`.
            arrays: By name, float32 of any shape.

        Raises:
            ValueError: the key is not such a digest, or an array is not float32.
        """
        path = self._path(key)
        data = _packed(arrays)
        if path is None or data is None or len(data) > self.max_bytes:
            return
        # A name of its own: two processes may compute the same voice at the same time.
        scratch = path.with_name(f"{key}.{secrets.token_hex(8)}{_UNFINISHED}")
        with contextlib.suppress(OSError):
            try:
                scratch.write_bytes(data)
                os.replace(scratch, path)
            except OSError:
                scratch.unlink()
            self._make_room(path.parent)

    def _path(self, key: str) -> Path | None:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a digest in lower-case hex digits")
        return None if self.folder is None else self.folder / (key + _SUFFIX)

    def _make_room(self, folder: Path) -> None:
        """Remove the least recently used files above `max_bytes`, and abandoned temporary files."""
        finished = []
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # another process may remove files at the same time
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_SUFFIX):
                    finished.append((status.st_mtime_ns, status.st_size, entry.path))
                elif entry.name.endswith(_UNFINISHED) and time.time() - status.st_mtime > ABANDONED_S:
                    os.unlink(entry.path)
        excess = sum(size for _used_ns, size, _path in finished) - self.max_bytes
        for _used_ns, size, path in sorted(finished):
            if excess <= 0:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            excess -= size


def _packed(arrays: Mapping[str, NDArray[np.float32]]) -> bytes | None:
    """Checksum and .npz; None if a value is not finite, which would spoil every later job with this voice."""
    import numpy as np

    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("latents are kept as float32")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return None
    body = io.BytesIO()
    np.savez(body, allow_pickle=False, **arrays)
    return blake2b(body.getvalue(), digest_size=_DIGEST_BYTES).digest() + body.getvalue()


def _unpacked(data: bytes) -> dict[str, NDArray[np.float32]] | None:
    """The arrays of a file; None if its checksum is wrong. Only then is the .npz parsed, so it can't be malformed."""
    import numpy as np

    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)
