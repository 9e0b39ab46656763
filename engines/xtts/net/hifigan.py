"""The vocoder of XTTS, HiFi-GAN (Kong et al. 2020, arXiv 2010.05646): GPT latents to a waveform, in batches.

The weights are those of coqui-tts, with weight norm (arXiv 1602.07868) folded once instead of in every call. One-
dimensional convolutions run as two-dimensional ones of height 1 in channels-last memory format: twice as fast on a CPU,
and up to six times with bfloat16.

With 16 bits, the convolutions of the first half of the upsampling stages, which are most of the work, run in that
precision. The residual sums, the second half and `conv_post` stay float32: 42 dB signal-to-noise ratio instead of 36
(bfloat16, random weights).

A chunk gives the same samples in a batch as alone: everything past its length is set to zero before each convolution,
which is what the convolution's own padding would be. So batches may be padded, and lengths are rounded up to a few.

Shapes: batch is chunks, channels those of the stage, frames the current time steps; upsampling multiplies frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

_LRELU_SLOPE = 0.1  # of the leaky ReLU before upsampling and in the residual blocks
_LAST_LRELU_SLOPE = 0.01  # before conv_post: torch's default, which coqui-tts and the original code both use there


@dataclass(frozen=True, slots=True)
class _Conv:
    """Same as `torch.nn.Conv1d`, or `ConvTranspose1d` where `stride` is above 1, over (batch, channels, 1, frames).

    Attributes:
        weight: (out, in, 1, kernel), or (in, out, 1, kernel) if transposed; channels-last.
        bias: (out,), or None.
    """

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
    """One upsampling and its multi-receptive field fusion (MRF, section 2.2 of the paper).

    Attributes:
        upsample: Transposed convolution.
        resblocks: Each as its (convs1[i], convs2[i]) pairs.
    """

    upsample: _Conv
    resblocks: tuple[tuple[tuple[_Conv, _Conv], ...], ...]


class HifiGan:
    """Same as `TTS.tts.layers.xtts.hifigan_decoder.HifiDecoder`, whose network is
    `TTS.vocoder.models.hifigan_generator.HifiganGenerator`; checked in tests/unit/engines/xtts/net/test_hifigan.py.

    Args:
        decoder: The `HifiDecoder`, float32.
        dtype: Precision of the convolutions in the first half of the stages.

    Attributes:
        rate_hz: Of the waveform.
        device: Of the weights.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        generator = decoder.waveform_decoder
        self.rate_hz: int = decoder.output_sample_rate
        # GPT latents come at 22,050 / 1,024 Hz, frames of the generator at 24,000 / 256 Hz.
        self._scale_factors = (decoder.ar_mel_length_compression / decoder.output_hop_length,
                               decoder.output_sample_rate / decoder.input_sample_rate)  # fmt: skip
        self._conv_pre = _folded(generator.conv_pre, dtype)
        self._conv_post = _folded(generator.conv_post, torch.float32)
        self._stages = [_stage(generator, number, dtype) for number in range(generator.num_upsamples)]
        # The first is added after conv_pre; the others, if the model has them, after each upsampling.
        self._cond_layers = [generator.cond_layer, *(generator.conds if generator.cond_in_each_up_layer else ())]
        self.device = self._conv_pre.weight.device

    @property
    def samples_per_latent(self) -> float:
        """Samples of one GPT latent at speed 1."""
        factor: float = self._scale_factors[0] * self._scale_factors[1]
        for stage in self._stages:
            factor *= stage.upsample.stride
        return factor

    @torch.inference_mode()
    def __call__(
        self, latents: Sequence[Tensor], speaker_embeddings: Sequence[Tensor], speeds: Sequence[float]
    ) -> list[Tensor]:
        """Vocode chunks in one batch.

        Args:
            latents: Of each chunk, the GPT latents, float32 [n, model_dim].
            speaker_embeddings: Of each chunk, float32 [1, d_vector_dim, 1].
            speeds: Of each chunk, above 0; 2 is twice as fast.

        Returns:
            Of each chunk, float32 [samples] on the CPU, -1 … 1.
        """
        resampled = [self._resampled(latent, speed) for latent, speed in zip(latents, speeds, strict=True)]
        lengths = [z.shape[-1] for z in resampled]
        frames = _round_up(max(lengths))
        x = torch.zeros(len(lengths), resampled[0].shape[1], 1, frames, device=self.device)
        for row, z in enumerate(resampled):
            x[row, :, 0, : lengths[row]] = z[0]
        g = torch.cat([embedding.to(self.device) for embedding in speaker_embeddings])  # (batch, d_vector_dim, 1)
        waveforms = self._forward(x, g, lengths).cpu()  # (batch, 1, 1, samples)
        hop_length = waveforms.shape[-1] // frames
        return [waveforms[row, 0, 0, : length * hop_length].clone() for row, length in enumerate(lengths)]

    def _resampled(self, latent: Tensor, speed: float) -> Tensor:
        """Interpolate [n, model_dim] to [1, model_dim, frames], in the three steps of `Xtts.inference` and
        `HifiDecoder.forward`: to the speed, to the hop length, to the sample rate. A single step gives other values.
        """
        z = latent.to(self.device).t().unsqueeze(0)  # (n, model_dim) -> (1, model_dim, n)
        scale_factors = ((1.0 / speed,) if speed != 1.0 else ()) + self._scale_factors
        for factor in scale_factors:
            if factor != 1.0 and z.shape[-1] * factor >= 1:  # a single latent can't get shorter
                z = F.interpolate(z, scale_factor=factor, mode="linear")
        return z

    def _forward(self, x: Tensor, g: Tensor, lengths: Sequence[int]) -> Tensor:
        """`HifiganGenerator.forward`: (batch, model_dim, 1, frames) -> (batch, 1, 1, samples).

        Args:
            g: Speaker embeddings, (batch, d_vector_dim, 1).
            lengths: Frames of each chunk.
        """
        conds = [layer(g).unsqueeze(-1) for layer in self._cond_layers]  # each (batch, channels, 1, 1)
        x = self._conv_pre(x.contiguous(memory_format=torch.channels_last)) + conds[0]
        for number, stage in enumerate(self._stages):
            # (batch, channels, 1, frames) -> (batch, channels / 2, 1, frames * stride)
            x = stage.upsample(F.leaky_relu(_zero_past_end(x, lengths), _LRELU_SLOPE))
            lengths = [length * stage.upsample.stride for length in lengths]
            if number + 1 < len(conds):
                x = x + conds[number + 1]
            x = _zero_past_end(x, lengths)
            x = _mean([_resblock(x, pairs, lengths) for pairs in stage.resblocks])
        return torch.tanh(self._conv_post(F.leaky_relu(_zero_past_end(x, lengths), _LAST_LRELU_SLOPE)))


def _round_up(frames: int) -> int:
    """Round up to one of eight lengths per octave: oneDNN and cuDNN build and cache kernels for each length."""
    step = 1 << max(4, frames.bit_length() - 4)
    return -(-frames // step) * step


def _stage(generator: Any, number: int, dtype: torch.dtype) -> _Stage:
    # The second half has few channels, so float32 costs little there, and its rounding errors would be heard most.
    if number >= generator.num_upsamples // 2:
        dtype = torch.float32
    count = generator.num_kernels
    resblocks = generator.resblocks[number * count : (number + 1) * count]  # one flat list, stage after stage
    return _Stage(_folded(generator.ups[number], dtype), tuple(_conv_pairs(block, dtype) for block in resblocks))


def _resblock(x: Tensor, pairs: Sequence[tuple[_Conv, _Conv]], lengths: Sequence[int]) -> Tensor:
    """Same as `ResBlock1` of hifigan_generator; shape (batch, channels, 1, frames) in and out.

    x itself is not changed: the other blocks of the stage read it too.
    """
    for number, (conv1, conv2) in enumerate(pairs):
        xt = _zero_past_end(conv1(F.leaky_relu(x, _LRELU_SLOPE)), lengths)
        xt = _zero_past_end(conv2(F.leaky_relu_(xt, _LRELU_SLOPE)), lengths)
        x = x.add_(xt) if number else x + xt  # from the second pair on, x is this block's own
    return x


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    """Fuse the blocks of a stage. The paper sums them; the published code divides by their number."""
    total = outputs[0]
    for output in outputs[1:]:
        total += output
    return total.div_(len(outputs))


def _zero_past_end(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Set x, (batch, channels, 1, frames), to zero past each row's length, in place."""
    for row, length in enumerate(lengths):
        x[row, :, :, length:] = 0
    return x


def _conv_pairs(resblock: Any, dtype: torch.dtype) -> tuple[tuple[_Conv, _Conv], ...]:
    pairs = zip(resblock.convs1, resblock.convs2, strict=True)
    return tuple((_folded(conv1, dtype), _folded(conv2, dtype)) for conv1, conv2 in pairs)


def _folded(module: Any, dtype: torch.dtype) -> _Conv:
    """Take the weights of a convolution with its weight norm folded: reading `module.weight` computes it."""
    # (out, in, kernel) -> (out, in, 1, kernel)
    weight = module.weight.detach().unsqueeze(2).to(dtype, memory_format=torch.channels_last)
    bias = module.bias.detach().to(dtype) if module.bias is not None else None
    return _Conv(weight, bias, module.stride[0], module.padding[0], module.dilation[0])
