"""From the audio of chunks to the finished file: checks, conversion to PCM, and a WAV writer.

Engines return float32 between -1 and 1; the finished file is 16-bit PCM. A 16-bit sample s is s / 32768 as float, and
`to_pcm` rounds and clips, so the samples of an engine that computes in 16 bits reach the file unchanged.
"""

from __future__ import annotations

import errno
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engines.base import Audio
from engines.errors import BadAudio
from files.durable import sha256_of
from files.printable import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]

FULL_SCALE = 32768
MIN_PEAK_DBFS = -60.0
FADE_S = 0.003
SILENCE_BLOCK_S = 1.0

# WAV headers have 32-bit sizes; a longer file is written as RF64 (EBU Tech 3306).
MAX_WAV_BYTES = 2**32 - 1024

# Far outside of normal speech, because numbers and symbols expand to many words per character.
MAX_S_PER_CHAR, MAX_EXTRA_S = 0.6, 3.0
MIN_S_PER_CHAR, MIN_CHARS_TO_JUDGE = 0.012, 20
MAX_CLIPPED = 0.001  # share of all samples


def peak_dbfs(peak: float) -> float | None:
    """A peak (1.0 is full scale) in dBFS; None for digital silence."""
    return round(20 * math.log10(peak), 2) if peak > 0 else None


def checked(audio: object, text: str) -> tuple[Audio, list[str]]:
    """Check that an engine returned plausible speech for a text.

    Returns:
        The audio as float32, and sentences about what is doubtful.

    Raises:
        BadAudio: Not audio, not mono, not finite, or silent.
    """
    import numpy as np

    samples = getattr(audio, "samples", None)
    rate_hz = getattr(audio, "rate_hz", None)
    which = f"for {printable(text, 60)!r}"
    if not isinstance(samples, np.ndarray) or not np.issubdtype(samples.dtype, np.floating):
        raise BadAudio(f"the engine returned no audio {which}")
    if not isinstance(rate_hz, int) or not 1000 <= rate_hz <= 768_000:
        raise BadAudio(f"the engine returned audio of {rate_hz} samples per second {which}")
    if samples.ndim != 1:
        raise BadAudio(f"the engine returned audio of shape {samples.shape} {which}; expected one dimension (mono)")
    if not np.isfinite(samples).all():
        raise BadAudio(f"the engine returned samples that are NaN or infinite {which}")
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if peak < 10 ** (MIN_PEAK_DBFS / 20):
        raise BadAudio(f"the engine returned silence {which}", "Check the language of the job. " + BadAudio.hint)
    notes = tuple(getattr(audio, "warnings", ())), getattr(audio, "transcript", None)
    audio = Audio(samples.astype(np.float32, copy=False), rate_hz, *notes)
    return audio, list(_doubts(audio, text, peak))


def _doubts(audio: Audio, text: str, peak: float) -> Iterable[str]:
    import numpy as np

    duration_s, chars = audio.samples.size / audio.rate_hz, len(text)
    if duration_s > MAX_EXTRA_S + MAX_S_PER_CHAR * chars:
        yield f"{duration_s:.1f} s of audio for {chars} characters: longer than any speech"
    if chars > MIN_CHARS_TO_JUDGE and duration_s < MIN_S_PER_CHAR * chars:
        yield f"{duration_s:.2f} s of audio for {chars} characters: words may be missing"
    if peak > 1 and np.mean(np.abs(audio.samples) > 1) > MAX_CLIPPED:
        yield "the audio exceeds full scale and was clipped"


def to_pcm(samples: NDArray[np.float32]) -> Samples:
    """Convert float to 16 bits: rounded to the nearest, clipped at full scale. Exact inverse of `samples / 32768`."""
    import numpy as np

    return np.clip(np.rint(samples.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def faded(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Fade both ends over 3 ms, to avoid clicks next to silence."""
    import numpy as np

    length = min(round(FADE_S * rate_hz), samples.size // 2)
    if not length:
        return samples
    ramp = np.sin(np.linspace(0, np.pi / 2, length, endpoint=False, dtype=np.float32)) ** 2
    result = samples.copy()
    result[:length] *= ramp
    result[samples.size - length :] *= ramp[::-1]
    return result


@dataclass
class WavWriter:
    """A mono 16-bit WAV file, written block by block; use as a context manager.

    libsndfile does not report why a write failed. Here a full or broken disk raises an OSError, so that the spool can
    wait for space.

    Attributes:
        path: Of the file; must not exist.
        rate_hz: Samples per second.
        expected_frames: Final number of samples; the header, which is written first, contains it.
        frames: Samples written so far.
        peak: Highest absolute sample so far; 1.0 is full scale.
    """

    path: Path
    rate_hz: int
    expected_frames: int
    frames: int = 0
    peak: float = 0.0
    _file: IO[bytes] = field(init=False, repr=False)

    def __enter__(self) -> WavWriter:
        self._file = self.path.open("xb", buffering=1 << 18)
        self._file.write(wav_header(self.rate_hz, self.expected_frames))
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    @property
    def position_s(self) -> float:
        return self.frames / self.rate_hz

    def speech(self, samples: NDArray[np.float32]) -> None:
        """Append a chunk's audio."""
        self._append(to_pcm(faded(samples, self.rate_hz)))

    def silence(self, duration_ms: int) -> None:
        """Append silence, in blocks of 1 s."""
        import numpy as np

        remaining = frames_of(duration_ms, self.rate_hz)
        block = np.zeros(min(remaining, round(SILENCE_BLOCK_S * self.rate_hz)), dtype=np.int16)
        while remaining:
            part = block[:remaining]
            self._append(part)
            remaining -= part.size

    def _append(self, samples: Samples) -> None:
        if not samples.size:
            return
        self._file.write(samples.astype("<i2", copy=False).tobytes())
        self.frames += samples.size
        # int() first: abs() of the int16 -32768 overflows.
        self.peak = max(self.peak, abs(int(samples.min())) / FULL_SCALE, int(samples.max()) / FULL_SCALE)

    def facts(self) -> Mapping[str, Any]:
        """The entry of the finished file for the manifest; reads the file for its checksum.

        Raises:
            OSError: Its length does not match its header.
        """
        needed = len(wav_header(self.rate_hz, self.expected_frames)) + 2 * self.expected_frames
        if self.path.stat().st_size != needed:
            raise OSError(errno.EIO, f"the length of the finished audio file is not the expected {needed} bytes")
        return {
            "file": self.path.name,
            "sha256": sha256_of(self.path),
            "format": "wav",
            "sample_rate": self.rate_hz,
            "channels": 1,
            "duration_s": round(self.position_s, 6),
            "peak_dbfs": peak_dbfs(self.peak),
            "loudness_lufs": None,
        }


def wav_header(rate_hz: int, frames: int) -> bytes:
    """The header of a mono 16-bit file: RIFF (44 bytes), or RF64 (80 bytes) if the file is too long for RIFF."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    data_bytes = 2 * frames
    if data_bytes <= MAX_WAV_BYTES:
        return (
            struct.pack("<4sI4s", b"RIFF", 36 + data_bytes, b"WAVE") + form + struct.pack("<4sI", b"data", data_bytes)
        )
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 72 + data_bytes, data_bytes, frames, 0)
    unknown = 0xFFFFFFFF
    return struct.pack("<4sI4s", b"RF64", unknown, b"WAVE") + sizes + form + struct.pack("<4sI", b"data", unknown)


def frames_of(duration_ms: int, rate_hz: int) -> int:
    """Number of samples in a duration."""
    return round(duration_ms * rate_hz / 1000)
