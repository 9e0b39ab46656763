"""Chunks' audio to finished audio: is it speech at all, and one file out of many, block by block.

Audio is float32 between -1 and 1 where engines hand it over, and 16-bit PCM in the finished file. A value is
`sample / 32768` on the way in and rounded and clipped on the way out, so that an engine which computes in 16 bits gets
exactly its own samples into the file.
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
QUIETEST_PEAK_DBFS = -60.0
FADE_S = 0.003
SILENCE_BLOCK_S = 1.0

# A WAV counts its bytes in 32 bits; a longer one is RF64 (EBU Tech 3306), which players of long files know.
MAX_WAV_BYTES = 2**32 - 1024

# Far outside what anybody calls speech; numbers and symbols take many words for one character.
SLOWEST_S_PER_CHAR, SLOWEST_S = 0.6, 3.0
FASTEST_S_PER_CHAR, FEWEST_CHARS_TO_JUDGE = 0.012, 20
MAX_CLIPPED = 0.001


def peak_dbfs(peak: float) -> float | None:
    """Level of a highest absolute sample (1.0 is full scale); None for digital silence."""
    return round(20 * math.log10(peak), 2) if peak > 0 else None


def checked(audio: object, text: str) -> tuple[Audio, list[str]]:
    """Look whether what an engine returned is speech.

    Returns:
        The audio as float32, and what is doubtful about it, in words.

    Raises:
        BadAudio: it is none, has another shape, is not finite, or is silent although the text has words.
    """
    import numpy as np

    samples = getattr(audio, "samples", None)
    rate_hz = getattr(audio, "rate_hz", None)
    said = f"for {printable(text, 60)!r}"
    if not isinstance(samples, np.ndarray) or not np.issubdtype(samples.dtype, np.floating):
        raise BadAudio(f"the engine returned no audio {said}")
    if not isinstance(rate_hz, int) or not 1000 <= rate_hz <= 768_000:
        raise BadAudio(f"the engine returned audio of {rate_hz} samples a second {said}")
    if samples.ndim != 1:
        raise BadAudio(f"the engine returned audio of shape {samples.shape} {said}; mono is one dimension")
    if not np.isfinite(samples).all():
        raise BadAudio(f"the engine returned samples that are not numbers {said}")
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if peak < 10 ** (QUIETEST_PEAK_DBFS / 20):
        raise BadAudio(f"the engine returned silence {said}", "Is the language right? " + BadAudio.hint)
    audio = Audio(samples.astype(np.float32, copy=False), rate_hz)
    return audio, list(_doubts(audio, text, peak))


def _doubts(audio: Audio, text: str, peak: float) -> Iterable[str]:
    import numpy as np

    duration_s, chars = audio.samples.size / audio.rate_hz, len(text)
    if duration_s > SLOWEST_S + SLOWEST_S_PER_CHAR * chars:
        yield f"{duration_s:.1f} s of audio for {chars} characters: more than any speech takes"
    if chars > FEWEST_CHARS_TO_JUDGE and duration_s < FASTEST_S_PER_CHAR * chars:
        yield f"{duration_s:.2f} s of audio for {chars} characters: words may be missing"
    if peak > 1 and np.mean(np.abs(audio.samples) > 1) > MAX_CLIPPED:
        yield "the audio is louder than full scale and was clipped"


def to_pcm(samples: NDArray[np.float32]) -> Samples:
    """Float to 16 bits: rounded to the nearest, clipped at full scale. Undoes `samples / 32768` exactly."""
    import numpy as np

    return np.clip(np.rint(samples.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def faded(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Both ends brought to zero over a few milliseconds, so that nothing clicks where sound meets silence."""
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
    """A mono 16-bit WAV file, written block by block; use as a context. Nothing of it is kept in memory.

    Written here and not by libsndfile, which loses what the system says of a full or broken disk: here it arrives as
    the OSError that it is, and the spool can wait for space.

    Attributes:
        path: Of the file; must not exist.
        rate_hz: Samples per second.
        expected_frames: How long it will be; the header comes first and says so.
        frames: Written so far.
        peak: Highest absolute sample so far, 1.0 is full scale.
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
        """Append silence, a second at a time."""
        import numpy as np

        left = frames_of(duration_ms, self.rate_hz)
        block = np.zeros(min(left, round(SILENCE_BLOCK_S * self.rate_hz)), dtype=np.int16)
        while left:
            part = block[:left]
            self._append(part)
            left -= part.size

    def _append(self, samples: Samples) -> None:
        if not samples.size:
            return
        self._file.write(samples.astype("<i2", copy=False).tobytes())
        self.frames += samples.size
        self.peak = max(self.peak, abs(int(samples.min())) / FULL_SCALE, int(samples.max()) / FULL_SCALE)

    def facts(self) -> Mapping[str, Any]:
        """What the manifest says of the finished file; reads it back in blocks for its checksum.

        Raises:
            OSError: it is not as long as its header says.
        """
        needed = len(wav_header(self.rate_hz, self.expected_frames)) + 2 * self.expected_frames
        if self.path.stat().st_size != needed:
            raise OSError(errno.EIO, f"the finished audio has another length than the {needed} bytes it should have")
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
    """What stands before the samples of a mono 16-bit file: RIFF (44 bytes), or RF64 (80) when it is too long."""
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
    """Samples in a time."""
    return round(duration_ms * rate_hz / 1000)
