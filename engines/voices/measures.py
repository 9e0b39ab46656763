"""Measurements of a reference recording: levels, pauses, background noise, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.voices import faults as limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES_PER_S = 50  # levels are measured in frames of 20 ms: shorter than a syllable, longer than a pitch period
LOUD_FRAMES = 25  # the level of the speech is that of its loudest half second; a slammed door is shorter
SPEECH_FRAMES = 3  # of 20 ms: speech is longer than a click
BACKGROUND_PERCENTILE = 5  # the quietest twentieth of the frames is background noise


@dataclass(frozen=True, slots=True)
class Sound:
    """Measurements of the mono mix, unless noted. Powers are mean squares, 1.0 being full scale.

    Attributes:
        is_finite: Whether all samples are numbers; if not, nothing else is measured.
        channels: Number of channels.
        peak: Highest absolute sample of any channel.
        clipped: Share of samples of all channels in flat tops, 0 … 1.
        offset: Absolute mean (DC offset).
        lost_db: Level lost by mixing the channels.
        loud: Power that the loudest half second reaches.
        power: Power of the speech without its pauses.
        background: Power of the background noise.
        silence: Share of pauses, 0 … 1.
        lead_in_s: Seconds before the speech begins.
    """

    is_finite: bool = True
    channels: int = 1
    peak: float = 0.0
    clipped: float = 0.0
    offset: float = 0.0
    lost_db: float = 0.0
    loud: float = 0.0
    power: float = 0.0
    background: float = 0.0
    silence: float = 0.0
    lead_in_s: float = 0.0


def measured(samples: NDArray[np.float32], rate_hz: int) -> Sound:
    """Measure samples, float32 (channels, n), n > 0."""
    import numpy as np

    peak = float(max(samples.max(), -samples.min()))
    if not math.isfinite(peak):  # max and min of samples with a NaN are NaN
        return Sound(is_finite=False)
    mix = samples.mean(axis=0, dtype=np.float64)  # (channels, n) -> (n,)
    powers = _powers(mix, rate_hz // FRAMES_PER_S)  # (frames,)
    loud = _loud(powers)
    speaking = _is_speech(powers, loud)  # (frames,)
    return Sound(
        channels=len(samples),
        peak=peak,
        clipped=_flat_share(samples) if peak >= limits.FULL_SCALE else 0.0,
        offset=abs(float(mix.mean())),
        lost_db=_lost_db(samples, mix),
        loud=loud,
        power=float(powers[speaking].mean()) if speaking.any() else 0.0,
        background=float(np.percentile(powers, BACKGROUND_PERCENTILE)),
        silence=1 - float(speaking.mean()),
        lead_in_s=_first_run(speaking) / FRAMES_PER_S,
    )


def speaking_frames(mix: NDArray[np.float64], rate_hz: int) -> NDArray[np.bool_]:
    """Which frames of 20 ms are speech and not a pause: float64 (n,), n > 0 -> bool (frames,)."""
    powers = _powers(mix, rate_hz // FRAMES_PER_S)
    return _is_speech(powers, _loud(powers))


def _loud(powers: NDArray[np.float64]) -> float:
    """Power of the 25th loudest frame, or of the upper quartile of a recording shorter than 2 s."""
    import numpy as np

    return float(np.sort(powers)[-max(1, min(LOUD_FRAMES, powers.size // 4))])


def _is_speech(powers: NDArray[np.float64], loud: float) -> NDArray[np.bool_]:
    is_speech: NDArray[np.bool_] = powers > loud * 10 ** (-limits.PAUSE_DB / 10)
    return is_speech


def _powers(mix: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
    """Power of each frame of `frame` samples without its mean, as a DC offset does not count: (n,) -> (frames,)."""
    frames = max(1, mix.size // frame)
    powers: NDArray[np.float64] = mix[: frames * frame].reshape(frames, -1).var(axis=1)  # (frames, frame) -> (frames,)
    return powers


def _flat_share(samples: NDArray[np.float32]) -> float:
    """Share of samples in runs of three or more equal ones at full scale."""
    import numpy as np

    clipped = np.clip(samples, -1, 1)  # (channels, n); engines clip float files in this way
    is_level = (np.diff(clipped) == 0) & (np.abs(clipped[:, 1:]) >= limits.FULL_SCALE)  # (channels, n - 1)
    begins_run = is_level[:, 1:] & is_level[:, :-1]  # (channels, n - 2): this sample and the next two
    in_run = np.zeros(clipped.shape, dtype=bool)
    for offset in range(3):
        in_run[:, offset : offset + begins_run.shape[1]] |= begins_run
    return float(in_run.mean())


def _lost_db(samples: NDArray[np.float32], mix: NDArray[np.float64]) -> float:
    """Level of the channels over that of their mix; 0 for mono and for silence."""
    import numpy as np

    if len(samples) == 1:
        return 0.0
    before, after = float(samples.var(axis=1, dtype=np.float64).mean()), float(mix.var())
    return db(before) - db(after) if db(before) > limits.SILENT_DBFS else 0.0


def _first_run(speaking: NDArray[np.bool_]) -> int:
    """Index of the first run of `SPEECH_FRAMES` frames of speech; the number of frames if there is none."""
    import numpy as np

    runs = np.convolve(speaking, np.ones(SPEECH_FRAMES), "valid") == SPEECH_FRAMES
    return int(runs.argmax()) if runs.any() else speaking.size


def db(power: float) -> float:
    """Level of a mean square in dBFS, -200 or more."""
    return 10 * math.log10(max(power, 1e-20))
