"""What a recording of a voice sounds like, in numbers: levels, pauses, background, flat tops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.voices import faults as limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES_PER_S = 50  # levels are told by frames of 20 ms: shorter than a syllable, longer than a period of any voice
LOUD_FRAMES = 25  # speech is as loud as its loudest half second; a slammed door is shorter
SPEAKING_FRAMES = 3  # a click is shorter than 60 ms
BACKGROUND_PERCENTILE = 5  # the quietest twentieth of speech lies in its pauses


@dataclass(frozen=True, slots=True)
class Sound:
    """What was measured. Powers are mean squares, of the mix of all channels.

    Attributes:
        is_finite: Every sample is a number; nothing else is known of a sound where it is not so.
        channels: How many.
        peak: Highest absolute sample of any channel.
        clipped: Share of samples in flat tops.
        offset: Absolute mean.
        lost_db: How much quieter the mix is than the channels are.
        loud: Power that the loudest half second reaches.
        power: Of the speech, without its pauses.
        background: Power in the pauses.
        silence: Share of pauses.
        lead_in_s: Time before the speech begins.
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
    """Measure samples of shape [channels, n], n > 0."""
    import numpy as np

    peak = float(max(samples.max(), -samples.min()))
    if not math.isfinite(peak):  # of NaN, both are NaN
        return Sound(is_finite=False)
    mix = samples.mean(axis=0, dtype=np.float64)
    powers = _powers(mix, rate_hz // FRAMES_PER_S)
    loud = _loud(powers)
    speaking = _is_speech(powers, loud)
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
    """Which frames of 20 ms hold speech, and not a pause: mix of shape [n], n > 0."""
    powers = _powers(mix, rate_hz // FRAMES_PER_S)
    return _is_speech(powers, _loud(powers))


def _loud(powers: NDArray[np.float64]) -> float:
    import numpy as np

    return float(np.sort(powers)[-max(1, min(LOUD_FRAMES, powers.size // 4))])


def _is_speech(powers: NDArray[np.float64], loud: float) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = powers > loud * 10 ** (-limits.PAUSE_DB / 10)
    return found


def _powers(mix: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Power of each frame of so many samples, its mean taken away, so that an offset does not count as sound."""
    whole = max(1, mix.size // length)
    powers: NDArray[np.float64] = mix[: whole * length].reshape(whole, -1).var(axis=1)
    return powers


def _flat_share(samples: NDArray[np.float32]) -> float:
    """Share of samples that stand in a run of three or more equal ones at full scale; engines cut what is above."""
    import numpy as np

    cut = np.clip(samples, -1, 1)
    level = (np.diff(cut) == 0) & (np.abs(cut[:, 1:]) >= limits.FULL_SCALE)
    three = level[:, 1:] & level[:, :-1]
    flat = np.zeros(cut.shape, dtype=bool)
    for place in range(3):
        flat[:, place : place + three.shape[1]] |= three
    return float(flat.mean())


def _lost_db(samples: NDArray[np.float32], mix: NDArray[np.float64]) -> float:
    import numpy as np

    if len(samples) == 1:
        return 0.0
    before, after = float(samples.var(axis=1, dtype=np.float64).mean()), float(mix.var())
    return db(before) - db(after) if db(before) > limits.SILENT_DBFS else 0.0


def _first_run(speaking: NDArray[np.bool_]) -> int:
    """Where the first run of `SPEAKING_FRAMES` begins; behind the end when there is none."""
    import numpy as np

    runs = np.convolve(speaking, np.ones(SPEAKING_FRAMES), "valid") == SPEAKING_FRAMES
    return int(runs.argmax()) if runs.any() else speaking.size


def db(power: float) -> float:
    """Of a mean square, over full scale; at least -200."""
    return 10 * math.log10(max(power, 1e-20))
