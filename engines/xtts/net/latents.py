"""What engines compute from recordings, kept on disk from one run to the next.

One file for each key, which appears by rename and carries a checksum of itself, so that half-written or damaged ones
count as absent. Several processes may share the folder; nothing of it is needed, and trouble with it stops nobody.
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

MAX_BYTES = 256 << 20  # two thousand voices of XTTS
ABANDONED_S = 3600.0  # a file that is not finished after so long has lost its writer
_SUFFIX, _UNFINISHED = ".latents", ".part"
_DIGEST_BYTES = 32
_KEY = re.compile("[0-9a-f]{16,128}")


def _own_folder() -> Path | None:
    return cache.folder("latents")


@dataclass(frozen=True, slots=True)
class LatentCache:
    """Arrays by key; the ones that were not asked for longest make room for new ones.

    Attributes:
        folder: Where they lie; None keeps nothing.
        most_bytes: All of them together.
    """

    folder: Path | None = field(default_factory=_own_folder)
    most_bytes: int = MAX_BYTES

    def get(self, key: str) -> dict[str, NDArray[np.float32]] | None:
        """What was put under a key, bit for bit; None when it is not there.

        Args:
            key: 16 to 128 hex digits: a digest of all that the arrays depend on.

        Raises:
            ValueError: The key is no such digest.
        """
        path = self._path(key)
        try:
            arrays = None if path is None else _unpacked(path.read_bytes())
        except OSError:
            return None
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink() if arrays is None else os.utime(path)
        return arrays

    def put(self, key: str, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep arrays of float32; not if they hold something that is no number, or are too large for the cache.

        Args:
            key: As for `get`.

        Raises:
            ValueError: The key is no such digest, or an array is not float32.
        """
        path = self._path(key)
        data = _packed(arrays)
        if path is None or data is None or len(data) > self.most_bytes:
            return
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
        """Remove what was not used longest, and what other processes left half-written."""
        kept = []
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # another process makes room, too
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_SUFFIX):
                    kept.append((status.st_mtime_ns, status.st_size, entry.path))
                elif entry.name.endswith(_UNFINISHED) and time.time() - status.st_mtime > ABANDONED_S:
                    os.unlink(entry.path)
        excess = sum(size for _used, size, _path in kept) - self.most_bytes
        for _used, size, path in sorted(kept):
            if excess <= 0:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            excess -= size


def _packed(arrays: Mapping[str, NDArray[np.float32]]) -> bytes | None:
    """A checksum, then an .npz; None when a value is not finite: that would spoil every job to come."""
    import numpy as np

    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("latents are kept as float32")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return None
    body = io.BytesIO()
    np.savez(body, allow_pickle=False, **arrays)
    return blake2b(body.getvalue(), digest_size=_DIGEST_BYTES).digest() + body.getvalue()


def _unpacked(data: bytes) -> dict[str, NDArray[np.float32]] | None:
    import numpy as np

    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)
