"""What F5-TTS and E2-TTS hear of a recording: its mel, as f5-tts computes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engines.errors import RequestRefused

RATE_HZ, HOP, N_FFT, N_MELS = 24_000, 256, 1024, 100
_LOUDNESS = 0.1  # root mean square; quieter recordings are brought to it, and the speech back to theirs
_QUIETEST = 1e-5  # of a mel


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A voice.

    Attributes:
        mel: float32 [frames, 100], frames = samples // 256 + 1 at 24 kHz.
        gain: What speech in this voice is multiplied by.
    """

    mel: Tensor
    gain: float


def hear(samples: Tensor, rate_hz: int) -> Reference:
    """Listen to a recording.

    Args:
        samples: float32 [channels, n], full scale is 1.

    Raises:
        RequestRefused: There is nothing to hear.
    """
    import torchaudio

    audio = samples.mean(0, keepdim=True)
    loudness = float(audio.square().mean().sqrt())
    if not loudness:
        raise RequestRefused("the recording of the voice is silent", "Give one in which somebody speaks.")
    gain = loudness / _LOUDNESS
    if gain < 1:
        audio = audio * _LOUDNESS / loudness
    if rate_hz != RATE_HZ:
        audio = torchaudio.transforms.Resample(rate_hz, RATE_HZ)(audio)
    spectrum = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, N_FFT, N_FFT, HOP, n_mels=N_MELS, power=1, center=True, normalized=False, norm=None
    )
    mel = spectrum(audio).clamp(min=_QUIETEST).log()
    return Reference(mel[0].t().contiguous(), min(1.0, gain))
