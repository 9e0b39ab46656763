"""Audio for tests that measures like speech, and files with it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 24_000
Samples = NDArray[np.float64]


def speech(seconds: float = 8.0, rate_hz: int = RATE_HZ, level: float = 0.1, noise: float = 1e-4) -> Samples:
    """Syllables with pauses between words, over a little noise; shape [n], the same every time.

    Args:
        level: Approximate root mean square of a syllable.
        noise: Root mean square of the background.
    """
    random = np.random.default_rng(7)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    voice = sum(np.sin(2 * np.pi * 140 * part * time_s + part) / part for part in range(1, 20))
    syllable = np.clip(np.sin(2 * np.pi * 4 * time_s), 0, None) ** 0.5  # four a second
    word = (time_s % 1.0) < 0.75
    return level * voice * syllable * word + noise * random.standard_normal(time_s.size)


def save(path: Path, samples: Samples, rate_hz: int = RATE_HZ, subtype: str | None = None) -> Path:
    """Write samples of shape [n] or [n, channels] in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def recording(seconds: float = 6.0) -> bytes:
    """A reference recording; its content depends on the length."""
    file = io.BytesIO()
    soundfile.write(file, speech(seconds), RATE_HZ, format="WAV")
    return file.getvalue()
