"""The mel spectrogram of a reference recording, as f5-tts computes it for the vocoder that a model was trained for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import MELS
from engines.errors import RequestRefused

RATE_HZ, HOP, N_FFT, N_MELS = 24_000, 256, 1024, MELS
_TARGET_RMS = 0.1  # quieter recordings are raised to it, and the speech is lowered by the same factor
_MIN_MEL = 1e-5  # floor of the magnitudes before the logarithm
_BIGVGAN_EPS = 1e-9  # added to the power before the square root


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceMel:
    """The audio prompt of a request.

    Attributes:
        mel: Log mel spectrogram, float32 (frames, 100).
        gain: Factor for the generated samples, above 0 … 1: the recording's RMS over 0.1 if it is quieter than that.
        hops: Whole hops of the recording (samples // 256 at 24 kHz); the generated speech starts at this frame.
            A mel for Vocos has `hops + 1` frames (centred windows), one for BigVGAN has `hops`.
    """

    mel: Tensor
    gain: float
    hops: int


def reference_mel(samples: Tensor, rate_hz: int, vocoder: str = "vocos") -> ReferenceMel:
    """Mix to mono, normalise the level, resample to 24 kHz, and compute the mel spectrogram.

    Same as the beginning of `f5_tts.infer.utils_infer.infer_batch_process`, with `f5_tts.model.modules.MelSpec`;
    compared in `tests/unit/engines/torch/test_mel.py`.

    Args:
        samples: float32 (channels, samples), full scale is 1.
        rate_hz: Sample rate of `samples`.
        vocoder: `vocos` or `bigvgan`; they differ in window placement and filter bank.

    Raises:
        RequestRefused: The recording is silent, or shorter than one window (1024 samples at 24 kHz).
    """
    import torchaudio

    audio = samples.mean(0, keepdim=True)  # (1, samples)
    rms = float(audio.square().mean().sqrt())
    if not rms:
        raise RequestRefused("the recording of the voice is silent", "Use a recording with speech in it.")
    gain = rms / _TARGET_RMS
    if gain < 1:
        audio = audio * _TARGET_RMS / rms
    if rate_hz != RATE_HZ:
        audio = torchaudio.transforms.Resample(rate_hz, RATE_HZ)(audio)
    if audio.shape[1] < N_FFT:
        raise RequestRefused(
            f"the recording of the voice is too short: less than {1000 * N_FFT / RATE_HZ:.0f} ms",
            "Use a recording of 6 to 12 s.",
        )
    magnitudes = _bigvgan_mel(audio) if vocoder == "bigvgan" else _vocos_mel(audio)
    mel = magnitudes.clamp(min=_MIN_MEL).log()  # (1, n_mels, frames)
    return ReferenceMel(mel[0].t().contiguous(), min(1.0, gain), audio.shape[1] // HOP)  # mel (frames, n_mels)


def _vocos_mel(audio: Tensor) -> Tensor:
    """Same as `get_vocos_mel_spectrogram` before its logarithm: (1, samples) -> (1, 100, samples // 256 + 1).

    Windows are centred on multiples of the hop; HTK filter bank, magnitudes.
    """
    import torchaudio

    mel_spectrogram = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, N_FFT, N_FFT, HOP, n_mels=N_MELS, power=1, center=True, normalized=False, norm=None
    )
    mel: Tensor = mel_spectrogram(audio)
    return mel


def _bigvgan_mel(audio: Tensor) -> Tensor:
    """Same as `get_bigvgan_mel_spectrogram` before its logarithm: (1, samples) -> (1, 100, samples // 256).

    Windows are centred between multiples of the hop; Slaney filter bank, magnitudes.
    """
    import torchaudio

    padding = (N_FFT - HOP) // 2
    audio = F.pad(audio, (padding, padding), mode="reflect")  # (1, samples + n_fft - hop)
    # complex64 of shape (1, n_fft / 2 + 1, frames)
    spectrum = torch.stft(audio, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    filter_bank = torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, RATE_HZ / 2, N_MELS, RATE_HZ, norm="slaney", mel_scale="slaney"
    )  # (n_fft / 2 + 1, n_mels)
    # view_as_real: (1, n_fft / 2 + 1, frames, 2); summed over real and imaginary part
    magnitudes = (torch.view_as_real(spectrum).square().sum(-1) + _BIGVGAN_EPS).sqrt()
    mel: Tensor = filter_bank.t() @ magnitudes  # (1, n_mels, frames)
    return mel
