"""Finished chunks of jobs with several, kept between attempts, so that a restart renders only missing chunks.

One file per chunk, named by a hash of everything that decides its audio. It is created by rename and contains its
checksum. Nothing is forced to disk: a chunk that a power failure damages fails its checksum and is rendered again,
which costs less than an fsync per chunk.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.base import Audio
from files.durable import to_json
from jobs.audio.wav import FULL_SCALE, to_pcm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"VSC2"
PCM, FLOAT = 1, 2
_HEADER = struct.Struct("<4sBxxxIQ")  # magic, kind of samples, rate in Hz, number of samples
_DIGEST_BYTES = 32
_SUFFIX, _UNFINISHED = ".chunk", ".part"


@dataclass(frozen=True, slots=True)
class Length:
    """Length of a chunk's audio."""

    frames: int
    rate_hz: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.rate_hz


@dataclass(frozen=True, slots=True)
class ChunkCache:
    """The finished chunks of one job. The folder is made for the first one."""

    folder: Path

    def read(self, key: str) -> Audio | None:
        """A chunk's audio, exactly as it was saved; None if it is missing or damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        audio = _unpacked(data)
        if audio is None:
            self._path(key).unlink(missing_ok=True)
        return audio

    def keep(self, key: str, audio: Audio) -> None:
        """Save a chunk under its key, atomically.

        Raises:
            OSError: The chunk can't be written.
        """
        unfinished = self.folder / (key + _UNFINISHED)
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        unfinished.write_bytes(_packed(audio))
        os.replace(unfinished, self._path(key))

    def sweep(self) -> None:
        """Remove incomplete files of a killed worker."""
        for unfinished in self.folder.glob("*" + _UNFINISHED):
            unfinished.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / (key + _SUFFIX)


def key_of(facts: Mapping[str, Any]) -> str:
    """A file name: the hash of everything that decides a chunk's audio, given as plain data."""
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=20).hexdigest()


def _packed(audio: Audio) -> bytes:
    """Encode a chunk with 16 bits per sample if that is lossless, else with 32; then what the engine said of it."""
    pcm = to_pcm(audio.samples)
    kind, samples = (PCM, pcm.astype("<i2")) if _is_lossless(audio, pcm) else (FLOAT, audio.samples.astype("<f4"))
    notes = to_json({"warnings": audio.warnings, "transcript": audio.transcript})
    body = _HEADER.pack(MAGIC, kind, audio.rate_hz, audio.samples.size) + samples.tobytes() + notes
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
    if magic != MAGIC:  # of another version
        return None
    samples = np.frombuffer(body, "<i2" if kind == PCM else "<f4", count=frames, offset=_HEADER.size)
    notes = json.loads(body[_HEADER.size + samples.nbytes :])
    scaled = samples.astype(np.float32) / np.float32(FULL_SCALE if kind == PCM else 1)
    return Audio(scaled, rate_hz, tuple(notes["warnings"]), notes["transcript"])
