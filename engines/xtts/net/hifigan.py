"""XTTS's vocoder, HiFi-GAN (arXiv 2010.05646): latents to sound, several chunks at a time.

The weights are the library's, with the weight norm folded in once instead of in every call. Convolutions over time run
as two-dimensional ones with the channels last in memory: on a processor that is twice as fast, and with bfloat16 up to
six times.

In half precision the convolutions of the first stages, which are most of the work, run in that precision, while the
sums between them and the last stages, which shape the samples, stay float32: 42 dB between signal and error instead of
36 (bfloat16, random weights).

Chunks of different length in one batch give what each gives alone: behind its end a chunk is set to zero before every
convolution, as the padding of a convolution would be. So every length is rounded up to one of a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

_SLOPE = 0.1  # of leaky ReLU inside
_LAST_SLOPE = 0.01  # and before the last convolution


@dataclass(frozen=True, slots=True)
class _Conv:
    """A convolution over time; transposed where `stride` is more than 1."""

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int
    dilation: int

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.stride == 1:
            return F.conv2d(x, self.weight, self.bias, padding=(0, self.padding), dilation=(1, self.dilation))
        return F.conv_transpose2d(x, self.weight, self.bias, (1, self.stride), (0, self.padding))


@dataclass(frozen=True, slots=True)
class _Stage:
    """One upsampling with its residual blocks: of each block, pairs of convolutions."""

    up: _Conv
    blocks: tuple[tuple[tuple[_Conv, _Conv], ...], ...]


class Vocoder:
    """The generator of the library's `HifiDecoder`.

    Args:
        decoder: With its weights, float32.
        dtype: Precision of the convolutions of the first half of the stages.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        generator = decoder.waveform_decoder
        self.rate_hz: int = decoder.output_sample_rate
        self._scales = (decoder.ar_mel_length_compression / decoder.output_hop_length,
                        decoder.output_sample_rate / decoder.input_sample_rate)  # fmt: skip
        self._first = _conv(generator.conv_pre, dtype)
        self._last = _conv(generator.conv_post, torch.float32)
        self._stages = [_stage(generator, number, dtype) for number in range(generator.num_upsamples)]
        self._colours = [generator.cond_layer, *(generator.conds if generator.cond_in_each_up_layer else ())]
        self.device = self._first.weight.device

    @property
    def samples_per_latent(self) -> float:
        """Samples that one latent becomes at speed 1."""
        factor: float = self._scales[0] * self._scales[1]
        for stage in self._stages:
            factor *= stage.up.stride
        return factor

    @torch.inference_mode()
    def __call__(self, latents: Sequence[Tensor], voices: Sequence[Tensor], speeds: Sequence[float]) -> list[Tensor]:
        """Speak chunks in one batch.

        Args:
            latents: Of each chunk, float32 [n, channels].
            voices: Of each chunk, the speaker embedding, float32 [1, d, 1].
            speeds: Of each chunk; 2 is twice as fast.

        Returns:
            Of each chunk, float32 [samples] on the CPU, -1 … 1.
        """
        stretched = [self._stretched(latent, speed) for latent, speed in zip(latents, speeds, strict=True)]
        lengths = [one.shape[-1] for one in stretched]
        frames = _round_up(max(lengths))
        x = torch.zeros(len(lengths), stretched[0].shape[1], 1, frames, device=self.device)
        for row, one in enumerate(stretched):
            x[row, :, 0, : lengths[row]] = one[0]
        sound = self._speak(x, torch.cat([voice.to(self.device) for voice in voices]), lengths).cpu()
        factor = sound.shape[-1] // frames
        return [sound[row, 0, 0, : length * factor].clone() for row, length in enumerate(lengths)]

    def _stretched(self, latent: Tensor, speed: float) -> Tensor:
        """[n, channels] -> [1, channels, frames]: to the speed, then to the vocoder's frames, as the library does."""
        z = latent.to(self.device).t().unsqueeze(0)
        scales = ((1.0 / speed,) if speed != 1.0 else ()) + self._scales
        for scale in scales:
            if scale != 1.0 and z.shape[-1] * scale >= 1:  # a chunk that ended at once has nothing to shorten
                z = F.interpolate(z, scale_factor=scale, mode="linear")
        return z

    def _speak(self, x: Tensor, voice: Tensor, ends: Sequence[int]) -> Tensor:
        colours = [layer(voice).unsqueeze(-1) for layer in self._colours]
        x = self._first(x.contiguous(memory_format=torch.channels_last)) + colours[0]
        for number, stage in enumerate(self._stages):
            x = stage.up(F.leaky_relu(_cut(x, ends), _SLOPE))
            ends = [end * stage.up.stride for end in ends]
            if number + 1 < len(colours):
                x = x + colours[number + 1]
            x = _cut(x, ends)
            x = _mean([_residual(x, pairs, ends) for pairs in stage.blocks])
        return torch.tanh(self._last(F.leaky_relu(_cut(x, ends), _LAST_SLOPE)))


def _round_up(frames: int) -> int:
    """To one of eight lengths in each octave: kernels are made, and kept, for each length that comes."""
    step = 1 << max(4, frames.bit_length() - 4)
    return -(-frames // step) * step


def _stage(generator: Any, number: int, dtype: torch.dtype) -> _Stage:
    if number >= generator.num_upsamples // 2:
        dtype = torch.float32
    count = generator.num_kernels
    blocks = generator.resblocks[number * count : (number + 1) * count]
    return _Stage(_conv(generator.ups[number], dtype), tuple(_pairs(block, dtype) for block in blocks))


def _residual(x: Tensor, pairs: Sequence[tuple[_Conv, _Conv]], ends: Sequence[int]) -> Tensor:
    """One residual block; x itself stays, for the other blocks."""
    for number, (first, second) in enumerate(pairs):
        inner = _cut(first(F.leaky_relu(x, _SLOPE)), ends)
        change = _cut(second(F.leaky_relu_(inner, _SLOPE)), ends)
        x = x.add_(change) if number else x + change
    return x


def _mean(blocks: Sequence[Tensor]) -> Tensor:
    total = blocks[0]
    for block in blocks[1:]:
        total += block
    return total.div_(len(blocks))


def _cut(x: Tensor, ends: Sequence[int]) -> Tensor:
    """x itself, zero now behind each row's end."""
    for row, end in enumerate(ends):
        x[row, :, :, end:] = 0
    return x


def _pairs(block: Any, dtype: torch.dtype) -> tuple[tuple[_Conv, _Conv], ...]:
    return tuple(
        (_conv(first, dtype), _conv(second, dtype)) for first, second in zip(block.convs1, block.convs2, strict=True)
    )


def _conv(module: Any, dtype: torch.dtype) -> _Conv:
    """Reading `module.weight` folds the weight norm."""
    weight = module.weight.detach().unsqueeze(2).to(dtype, memory_format=torch.channels_last)
    bias = module.bias.detach().to(dtype) if module.bias is not None else None
    return _Conv(weight, bias, module.stride[0], module.padding[0], module.dilation[0])
