"""The mel spectrogram of a recording is the same as the library's."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest

from engines.errors import RequestRefused
from tests import f5_models

if TYPE_CHECKING:
    from torch import Tensor

    from engines.torch.mel import ReferenceMel


def sound(loudness: float, channels: int = 1, rate_hz: int = 24_000, samples: int = 30_011) -> Tensor:
    """A tone that rises, with some noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(samples) / rate_hz
    tone = torch.sin(2 * torch.pi * (200 + 300 * time_s) * time_s) + 0.1 * torch.randn(
        channels, samples, generator=generator
    )
    return tone * (loudness / tone.mean(0).square().mean().sqrt())


def computed(samples: Tensor, rate_hz: int, vocoder: str = "vocos") -> ReferenceMel:
    f5_models.prepare()
    from engines.torch.mel import reference_mel

    return reference_mel(samples, rate_hz, vocoder)


@pytest.mark.parametrize("vocoder", ["vocos", "bigvgan"])
@pytest.mark.parametrize("loudness", [0.02, 0.3])
@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 24_000), (2, 44_100), (1, 16_000)])
def test_it_is_the_librarys(loudness: float, channels: int, rate_hz: int, vocoder: str) -> None:
    """As `utils_infer.infer_batch_process` prepares it: one channel, loud enough, 24 kHz, then `MelSpec`."""
    f5_models.prepare()
    import torch
    import torchaudio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from f5_tts.model.modules import MelSpec
    samples = sound(loudness, channels, rate_hz)
    audio = samples.mean(0, keepdim=True)
    rms = audio.square().mean().sqrt()
    if rms < 0.1:
        audio = audio * 0.1 / rms
    if rate_hz != 24_000:
        audio = torchaudio.transforms.Resample(rate_hz, 24_000)(audio)
    expected = MelSpec(mel_spec_type=vocoder)(audio)[0].t()
    ours = computed(samples, rate_hz, vocoder)
    assert ours.mel.shape == expected.shape
    assert ours.mel.is_contiguous()
    torch.testing.assert_close(ours.mel, expected, rtol=0, atol=1e-4)
    assert ours.gain == pytest.approx(min(1, loudness / 0.1), rel=1e-4)


def test_speech_begins_with_the_last_frame_of_the_recording() -> None:
    """A mel for Vocos has a frame more than the recording has whole hops: the library counts the hops."""
    for samples in (256 * 50, 256 * 50 + 255):
        for vocoder, frames in (("vocos", 51), ("bigvgan", 50)):
            ours = computed(sound(0.2, samples=samples), 24_000, vocoder)
            assert (len(ours.mel), ours.hops) == (frames, 50)


def test_silence_is_refused() -> None:
    import torch

    with pytest.raises(RequestRefused, match="silent"):
        computed(torch.zeros(1, 24_000), 24_000)
