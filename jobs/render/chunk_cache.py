"""Finished chunks, kept from one attempt to the next, so that a restart renders only what is missing.

One file for each chunk, named for a hash of everything that decides its audio. It appears by rename and carries a
checksum of itself. Nothing is forced to disk: what a power failure takes or damages is noticed by the checksum and
rendered again, which costs less than a flush for every chunk.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.base import Audio
from jobs.audio.wav import FULL_SCALE, to_pcm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"VSC1"
PCM, FLOAT = 1, 2
_HEADER = struct.Struct("<4sBxxxIQ")  # magic, kind of samples, rate in Hz, number of samples
_DIGEST_BYTES = 32
_SUFFIX, _UNFINISHED = ".chunk", ".part"


@dataclass(frozen=True, slots=True)
class Length:
    """Of a chunk's audio."""

    frames: int
    rate_hz: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.rate_hz


@dataclass(frozen=True, slots=True)
class ChunkCache:
    """The chunks of one job in a folder of their own, which exists."""

    folder: Path

    def read(self, key: str) -> Audio | None:
        """A chunk's audio, exactly as it was kept; None when it is not there or damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        audio = _unpacked(data)
        if audio is None:
            self._path(key).unlink(missing_ok=True)
        return audio

    def keep(self, key: str, audio: Audio) -> Length:
        """Keep a chunk under its key, whole or not at all.

        Raises:
            OSError: the disk does not take it.
        """
        unfinished = self.folder / (key + _UNFINISHED)
        unfinished.write_bytes(_packed(audio))
        os.replace(unfinished, self._path(key))
        return Length(audio.samples.size, audio.rate_hz)

    def sweep(self) -> None:
        """Remove what a killed worker left half-written."""
        for unfinished in self.folder.glob("*" + _UNFINISHED):
            unfinished.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / (key + _SUFFIX)


def key_of(facts: Mapping[str, Any]) -> str:
    """A file name for everything that decides a chunk's audio; the facts are plain data."""
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=20).hexdigest()


def _packed(audio: Audio) -> bytes:
    """16 bits a sample where that loses nothing, else 32."""
    pcm = to_pcm(audio.samples)
    kind, samples = (PCM, pcm.astype("<i2")) if _is_lossless(audio, pcm) else (FLOAT, audio.samples.astype("<f4"))
    body = _HEADER.pack(MAGIC, kind, audio.rate_hz, audio.samples.size) + samples.tobytes()
    return blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def _is_lossless(audio: Audio, pcm: NDArray[np.int16]) -> bool:
    import numpy as np

    return np.array_equal(pcm.astype(np.float32) / FULL_SCALE, audio.samples)


def _unpacked(data: bytes) -> Audio | None:
    import numpy as np

    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if len(body) < _HEADER.size or blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        return None
    magic, kind, rate_hz, frames = _HEADER.unpack_from(body)
    samples = np.frombuffer(body, "<i2" if kind == PCM else "<f4", offset=_HEADER.size)
    if magic != MAGIC or samples.size != frames:
        return None
    return Audio(samples.astype(np.float32) / np.float32(FULL_SCALE if kind == PCM else 1), rate_hz)
