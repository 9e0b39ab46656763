"""What F5-TTS and E2-TTS hear of a recording: its mel, as f5-tts computes it for either vocoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import MELS
from engines.errors import RequestRefused

RATE_HZ, HOP, N_FFT, N_MELS = 24_000, 256, 1024, MELS
_LOUDNESS = 0.1  # root mean square; quieter recordings are brought to it, and the speech back to theirs
_QUIETEST = 1e-5  # of a mel
_NEVER_ZERO = 1e-9  # added to the power, for BigVGAN


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceMel:
    """A voice.

    Attributes:
        mel: float32 [frames, 100].
        gain: What speech in this voice is multiplied by.
        hops: Whole hops of the recording, samples // 256 at 24 kHz: the speech begins at that frame. A mel for Vocos
            has one frame more, a mel for BigVGAN just as many.
    """

    mel: Tensor
    gain: float
    hops: int


def hear(samples: Tensor, rate_hz: int, vocoder: str = "vocos") -> ReferenceMel:
    """Listen to a recording.

    Args:
        samples: float32 [channels, n], full scale is 1.
        vocoder: `vocos` or `bigvgan`: whose mels the model was trained with.

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
    if audio.shape[1] < N_FFT:
        raise RequestRefused("the recording of the voice is too short to hear anything", "Give one of some seconds.")
    mel = (_for_bigvgan(audio) if vocoder == "bigvgan" else _for_vocos(audio)).clamp(min=_QUIETEST).log()
    return ReferenceMel(mel[0].t().contiguous(), min(1.0, gain), audio.shape[1] // HOP)


def _for_vocos(audio: Tensor) -> Tensor:
    """Magnitudes of frames around each hop: [1, samples] -> [1, 100, samples // 256 + 1]."""
    import torchaudio

    spectrum = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, N_FFT, N_FFT, HOP, n_mels=N_MELS, power=1, center=True, normalized=False, norm=None
    )
    heard: Tensor = spectrum(audio)
    return heard


def _for_bigvgan(audio: Tensor) -> Tensor:
    """Magnitudes of frames in the middle of each hop, by Slaney's bands: [1, samples] -> [1, 100, samples // 256]."""
    import torchaudio

    around = (N_FFT - HOP) // 2
    audio = F.pad(audio, (around, around), mode="reflect")
    spectrum = torch.stft(audio, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    bands = torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, RATE_HZ / 2, N_MELS, RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    heard: Tensor = bands.t() @ (torch.view_as_real(spectrum).square().sum(-1) + _NEVER_ZERO).sqrt()
    return heard
