"""The vocoder gives what the library's gives, for one chunk and for many of different length at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tests.tiny import Library

LENGTHS = (9, 1, 4, 9, 2)
SPEEDS = (1.0, 1.0, 0.5, 1.3, 2.0)
NOISE = 1e-5


def latents(*lengths: int) -> list[Tensor]:
    """Of each chunk [n, 64], as the GPT leaves them: normed."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 64, generator=generator) for length in lengths]


def voices(count: int) -> list[Tensor]:
    """Speaker embeddings [1, 512, 1], of length 1."""
    import torch

    generator = torch.Generator().manual_seed(2)
    return [torch.nn.functional.normalize(torch.randn(1, 512, 1, generator=generator), dim=1) for _ in range(count)]


def librarys(library: Library, latent: Tensor, voice: Tensor, speed: float) -> Tensor:
    """The end of `Xtts.inference`: stretch, then `HifiDecoder`; [samples]."""
    import torch

    stretched = latent.T.unsqueeze(0)
    if speed != 1.0:
        stretched = torch.nn.functional.interpolate(stretched, scale_factor=1.0 / speed, mode="linear")
    with torch.inference_mode():
        sound: Tensor = library.model.hifigan_decoder(stretched.transpose(1, 2), g=voice)[0, 0]
    return sound


def same(one: Tensor, other: Tensor, noise: float = NOISE) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) <= noise


def test_it_speaks_as_the_librarys_does(model: Any, library: Library) -> None:
    """Every length, voice and speed, alone and all in one batch; a short chunk is not longer or louder for it."""
    chunks = list(zip(latents(*LENGTHS), voices(len(LENGTHS)), SPEEDS, strict=True))
    expected = [librarys(library, *chunk) for chunk in chunks]
    assert all(sound.abs().max() > 0.01 for sound in expected)
    together = model.vocoder(*map(list, zip(*chunks, strict=True)))
    for (latent, voice, speed), batched, sound in zip(chunks, together, expected, strict=True):
        assert same(batched, sound)
        assert same(model.vocoder([latent], [voice], [speed])[0], sound)


def test_chunks_of_one_length_need_no_mask(model: Any, library: Library) -> None:
    """And give the same."""
    both, voice = latents(3, 3), voices(2)
    for one, own, sound in zip(both, voice, model.vocoder(both, voice, [1.0, 1.0]), strict=True):
        assert same(sound, librarys(library, one, own, 1.0))


def test_what_it_is_given_stays_as_it_is(model: Any) -> None:
    """Latents and voices are used again by others."""
    chunk, voice = latents(4), voices(1)
    before = chunk[0].clone(), voice[0].clone()
    first, second = (model.vocoder(chunk, voice, [1.3])[0] for _ in range(2))
    assert same(first, second, noise=0.0)
    assert same(chunk[0], before[0], noise=0.0)
    assert same(voice[0], before[1], noise=0.0)


def test_sound_has_the_length_and_range_it_says(model: Any) -> None:
    """Samples of one latent times latents, at 24 kHz; float32 within full scale on the CPU."""
    import torch

    (sound,) = model.vocoder(latents(8), voices(1), [1.0])
    assert model.vocoder.rate_hz == 24000
    assert abs(len(sound) - 8 * model.vocoder.samples_per_latent) <= 256 * 2
    assert (sound.dtype, sound.device.type) == (torch.float32, "cpu")
    assert sound.abs().max() <= 1


def test_a_single_latent_can_be_spoken_fast(model: Any) -> None:
    """A chunk that stopped at its first code has one; stretched to half of it, it is still a sound."""
    (sound,) = model.vocoder(latents(1), voices(1), [2.0])
    assert len(sound)


def test_half_precision_is_close(model: Any, tiny_xtts: Path) -> None:
    """bfloat16 leaves at least 30 dB between sound and error."""
    import torch

    from engines.xtts.net.hifigan import HifiGan
    from tests import tiny

    whole = tiny.load(tiny_xtts, "bfloat16")
    assert isinstance(whole.vocoder, HifiGan)
    chunks, voice = latents(6, 3), voices(2)
    for half, full in zip(
        whole.vocoder(chunks, voice, [1.0, 1.0]), model.vocoder(chunks, voice, [1.0, 1.0]), strict=True
    ):
        error = torch.mean((half - full) ** 2) / torch.mean(full**2)
        assert 10 * torch.log10(error) < -30
