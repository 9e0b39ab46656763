"""BigVGAN (arXiv 2206.04658): a vocoder from mel spectrogram to waveform, with anti-aliased snake activations.

The weights are those of nvidia/bigvgan_v2_24khz_100band_256x; weight norm is folded in when they are loaded. An
activation runs at twice the sample rate. The samples of the higher rate are kept as two phases, even and odd, in an
axis of their own (polyphase filters), so up- and downsampling are two short convolutions at the lower rate.

Mels are computed one after the other: a single one keeps a device busy, and each gives what it gives alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.architectures import unwrapped
from engines.errors import RequestRefused
from engines.modelfiles import tensors
from engines.modelfiles.tensors import Entry
from engines.torch.mel import HOP, N_FFT, N_MELS, RATE_HZ
from engines.torch.source import WeightSource
from engines.torch.weights import json_in

CONFIG, WEIGHTS = "config.json", "bigvgan_generator.pt"
_PRE_POST_KERNEL = 7  # of conv_pre and conv_post
_EPS = 1e-9  # added to beta, which is divided by
_TAPS = 12  # of the low-pass filter, at the higher rate
_PHASE_PADDING = 3  # samples of the lower rate on each side of a phase filter
_MAX_SIZE = 4096  # channels; rates, kernels and dilations are far smaller


@dataclass(frozen=True, slots=True)
class BigVganConfig:
    """Sizes from a vocoder's config.json.

    Attributes:
        rate_hz: Sample rate of the waveform.
        hop: Samples from one frame to the next, the product of all upsampling rates.
        n_mels: Mel bands.
        channels: Of the first stage's input (`upsample_initial_channel`); each stage halves them.
        upsamples: Rate and kernel size of each stage's transposed convolution.
        resblocks: Kernel size and dilations of each residual block of a stage.
        bias: Whether conv_post has a bias (`use_bias_at_final`).
        tanh: Whether the output goes through tanh (`use_tanh_at_final`); otherwise it is clamped to -1 … 1.
    """

    rate_hz: int
    hop: int
    n_mels: int
    channels: int
    upsamples: tuple[tuple[int, int], ...]
    resblocks: tuple[tuple[int, tuple[int, ...]], ...]
    bias: bool
    tanh: bool

    def channels_after(self, stages: int) -> int:
        """Channels after a number of stages."""
        return self.channels >> stages


class BigVGAN:
    """Same as `bigvgan.BigVGAN` of NVIDIA's repository with `resblock: "1"` and `activation: snakebeta`, in float32;
    compared with the independent one of transformers in `tests/unit/engines/torch/test_bigvgan.py`.

    Args:
        folder: With config.json and bigvgan_generator.pt.
        device: Where it runs.

    Raises:
        RequestRefused: A file is missing, unreadable, or not of this architecture.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.config = config = _config(folder / CONFIG)
        source = _source(folder / WEIGHTS, config, device)
        per_stage = len(config.resblocks)
        self._conv_pre, self._conv_post = _Conv1d(source, "conv_pre"), _Conv1d(source, "conv_post")
        self._ups = [_ConvTranspose1d(source, f"ups.{n}.0", rate) for n, (rate, _kernel) in enumerate(config.upsamples)]
        self._resblocks = [
            [_AMPBlock(source.within(f"resblocks.{stage * per_stage + n}."), dilations)
             for n, (_kernel, dilations) in enumerate(config.resblocks)]
            for stage in range(len(config.upsamples))
        ]  # fmt: skip
        self._activation_post = _Activation(source.within("activation_post."))
        self.device = device

    @torch.inference_mode()
    def __call__(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Compute waveforms.

        Args:
            mels: Log mel spectrograms, each float32 (frames, n_mels) with 1 or more frames.

        Returns:
            For each, float32 (frames * hop,) on the device, -1 … 1.
        """
        return [self._waveform(mel.to(self.device).t()) for mel in mels]

    def bytes_for(self, frames: int) -> int:
        """Peak memory for a number of frames, without the weights: within the stage that has the most values.

        It holds the stage's input, the sum over its blocks, the state of one block, and an activation at twice the
        rate: together 12 float32 tensors of the stage's size.
        """
        samples, largest = frames, self.config.channels * frames
        for stage, (rate, _kernel) in enumerate(self.config.upsamples, 1):
            samples *= rate
            largest = max(largest, samples * self.config.channels_after(stage))
        return 4 * 12 * largest

    def _waveform(self, x: Tensor) -> Tensor:
        """(n_mels, frames) -> (frames * hop,)."""
        x = self._conv_pre(x)  # (channels, frames)
        for upsample, resblocks in zip(self._ups, self._resblocks, strict=True):
            x = upsample(x)  # (channels / 2, rate * time)
            total = resblocks[0](x)
            for resblock in resblocks[1:]:
                total += resblock(x)
            x = total.div_(len(resblocks))
        x = self._conv_post(self._activation_post(x))[0]  # (1, samples) -> (samples,)
        return torch.tanh(x) if self.config.tanh else x.clamp(-1, 1)


class _Conv1d:
    """(in, time) -> (out, time), zero-padded to the same length."""

    def __init__(self, source: WeightSource, name: str, dilation: int = 1) -> None:
        self._weight, self._dilation = _weight(source, name), dilation  # (out, in, kernel)
        self._bias = source.kept(f"{name}.bias") if source.has(f"{name}.bias") else None

    def __call__(self, x: Tensor) -> Tensor:
        padding = (self._weight.shape[2] - 1) * self._dilation // 2
        # conv1d takes (batch, in, time)
        return F.conv1d(x[None], self._weight, self._bias, padding=padding, dilation=self._dilation)[0]


class _ConvTranspose1d:
    """(in, time) -> (out, rate * time)."""

    def __init__(self, source: WeightSource, name: str, rate: int) -> None:
        # weight (in, out, kernel)
        self._weight, self._bias, self._rate = _weight(source, name), source.kept(f"{name}.bias"), rate

    def __call__(self, x: Tensor) -> Tensor:
        padding = (self._weight.shape[2] - self._rate) // 2
        return F.conv_transpose1d(x[None], self._weight, self._bias, self._rate, padding)[0]


class _AMPBlock:
    """Same as `AMPBlock1`: residual pairs of a dilated and a plain convolution, each after an activation."""

    def __init__(self, source: WeightSource, dilations: Sequence[int]) -> None:
        self._pairs = [
            (_Activation(source.within(f"activations.{2 * n}.")), _Conv1d(source, f"convs1.{n}", dilation),
             _Activation(source.within(f"activations.{2 * n + 1}.")), _Conv1d(source, f"convs2.{n}"))
            for n, dilation in enumerate(dilations)
        ]  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        """(channels, time) -> (channels, time)."""
        for activation_1, conv_1, activation_2, conv_2 in self._pairs:
            x = x + conv_2(activation_2(conv_1(activation_1(x))))
        return x


class _Activation:
    """Same as `Activation1d(SnakeBeta)`: upsample by 2, snake, downsample by 2, with a low-pass filter both times.

    Snake (arXiv 2006.08195) is x + sin²(αx) / β with α and β for each channel, here stored as logarithms.
    """

    def __init__(self, source: WeightSource) -> None:
        self._alpha = source.kept("act.alpha").exp_()[:, None, None]  # (channels, 1, 1)
        self._inverse_beta = 1 / (source.kept("act.beta").exp_() + _EPS)[:, None, None]  # (channels, 1, 1)
        self._up, self._down = (weight.to(source.device) for weight in _phase_filters())

    def __call__(self, x: Tensor) -> Tensor:
        """(channels, time) -> (channels, time)."""
        # Channels are the batch of the convolutions: (channels, 1, time + 6) -> (channels, 2 phases, time)
        phases = F.conv1d(F.pad(x[:, None], (_PHASE_PADDING, _PHASE_PADDING), mode="replicate"), self._up)
        phases += (phases * self._alpha).sin_().square_().mul_(self._inverse_beta)
        # Replicate padding at the higher rate: the first sample there is of the even phase, the last one of the odd.
        before, after = (end.expand(-1, 2, _PHASE_PADDING) for end in (phases[:, :1, :1], phases[:, 1:, -1:]))
        # (channels, 2 phases, time + 6) -> (channels, 1, time)
        return F.conv1d(torch.cat([before, phases, after], dim=2), self._down)[:, 0]


def _phase_filters() -> tuple[Tensor, Tensor]:
    """The low-pass filter split into polyphase components, as weights of two convolutions at the lower rate.

    Returns:
        For upsampling (2 phases, 1, taps / 2 + 1), times 2 for the zeros between samples; for downsampling
        (1, 2 phases, taps / 2 + 1).
    """
    taps, zero = _low_pass(), torch.zeros(1)
    even, odd = taps[0::2], taps[1::2]  # each (taps / 2,)
    # The phases are half a sample apart, so their zero taps are at opposite ends.
    up = torch.stack([torch.cat([odd.flip(0), zero]), torch.cat([zero, even.flip(0)])])  # (2, taps / 2 + 1)
    down = torch.stack([torch.cat([zero, odd]), torch.cat([even, zero])])  # (2, taps / 2 + 1)
    return 2 * up[:, None], down[None]


def _low_pass() -> Tensor:
    """Same as `kaiser_sinc_filter1d` with cutoff 0.25 and half width 0.3 of the higher rate: (taps,), its sum is 1.

    The window's beta follows from the width of the transition, 1.2 of the lower rate's Nyquist frequency, by Kaiser's
    formula (Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5.3).
    """
    attenuation_db = 2.285 * (_TAPS // 2 - 1) * math.pi * 1.2 + 7.95
    window = torch.kaiser_window(_TAPS, periodic=False, beta=0.1102 * (attenuation_db - 8.7))
    time = torch.arange(_TAPS) - (_TAPS - 1) / 2
    taps = window * torch.sinc(time / 2)
    return taps / taps.sum()


# --- files -----------------------------------------------------------------------------------------------------------

_CURE = f"Use the unmodified {CONFIG} and {WEIGHTS} of nvidia/bigvgan_v2_24khz_100band_256x."
_KNOWN: Mapping[str, object] = {
    "resblock": "1", "activation": "snakebeta", "snake_logscale": True,
    "sampling_rate": RATE_HZ, "hop_size": HOP, "n_fft": N_FFT, "win_size": N_FFT, "num_mels": N_MELS, "fmin": 0,
}  # fmt: skip
"""The architecture implemented here, and the mel spectrogram that F5-TTS generates for it."""


def _config(path: Path) -> BigVganConfig:
    try:
        config = json_in(path)
        for name, known in _KNOWN.items():
            if config[name] != known:
                raise ValueError(f"unsupported {name} {config[name]!s:.80}; supported: {known}")
        return _sizes(config)
    except OSError as error:
        raise RequestRefused(f"can't read the vocoder's {path}: {error.strerror}", _CURE) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "keys of a BigVGAN configuration are missing"
        raise RequestRefused(f"the vocoder's {path.name} can't be used ({reason})", _CURE) from None


def _sizes(values: Mapping[str, Any]) -> BigVganConfig:
    dilations = (tuple(map(int, each)) for each in values["resblock_dilation_sizes"])
    rates, kernels = map(int, values["upsample_rates"]), map(int, values["upsample_kernel_sizes"])
    config = BigVganConfig(
        rate_hz=int(values["sampling_rate"]),
        hop=int(values["hop_size"]),
        n_mels=int(values["num_mels"]),
        channels=int(values["upsample_initial_channel"]),
        upsamples=tuple(zip(rates, kernels, strict=True)),
        resblocks=tuple(zip(map(int, values["resblock_kernel_sizes"]), dilations, strict=True)),
        bias=bool(values.get("use_bias_at_final", True)),
        tanh=bool(values.get("use_tanh_at_final", True)),
    )
    if not _is_buildable(config):
        raise ValueError("sizes out of range, or not those of one network")
    return config


def _is_buildable(config: BigVganConfig) -> bool:
    """Whether the sizes are bounded, keep lengths the same in residual blocks, and upsample a frame to a hop."""
    kernels = [kernel for kernel, dilations in config.resblocks for _dilation in dilations]
    sizes = [config.channels, *(size for upsample in config.upsamples for size in upsample), *kernels]
    sizes += [dilation for _kernel, dilations in config.resblocks for dilation in dilations]
    return (
        bool(config.resblocks) and all(0 < size <= _MAX_SIZE for size in sizes)
        and all(kernel % 2 for kernel in kernels)
        and all(kernel >= rate and (kernel - rate) % 2 == 0 for rate, kernel in config.upsamples)
        and math.prod(rate for rate, _kernel in config.upsamples) == config.hop
        and config.channels_after(len(config.upsamples)) > 0 and len(sizes) <= 100
    )  # fmt: skip


def _source(path: Path, config: BigVganConfig, device: torch.device) -> WeightSource:
    try:
        entries = _entries(path)
    except tensors.UnreadableModelFile as error:
        raise RequestRefused(f"the vocoder's {path.name} can't be used: {error.reason}", error.cure) from None
    except OSError as error:
        raise RequestRefused(f"can't read the vocoder's {path}: {error.strerror}", _CURE) from None
    for name, expected in _expected(config, entries):
        if name not in entries or entries[name].shape != expected:
            found = f"is {list(entries[name].shape)}" if name in entries else "is missing"
            raise RequestRefused(
                f"the vocoder's {path.name} does not match its {CONFIG}: {name} {found}, expected {list(expected)}",
                _CURE,
            )
    return WeightSource(path, entries, device, torch.float32)


def _entries(path: Path) -> dict[str, Entry]:
    """Entries by their names within the generator; `weight_g` and `weight_v` get the names that torch has today."""
    entries = tensors.read(path).entries
    return unwrapped({name.removeprefix("generator."): entry for name, entry in entries.items()})


_WEIGHT_NORM = "parametrizations.weight.original"


def _weight(source: WeightSource, name: str) -> Tensor:
    """A convolution's weight, with its weight norm (arXiv 1602.07868) folded in if it has one."""
    if source.has(f"{name}.weight"):
        return source.kept(f"{name}.weight")
    g, v = (source.kept(f"{name}.{_WEIGHT_NORM}{n}") for n in (0, 1))  # (dim 0, 1, 1) and the weight's shape
    return v.mul_(g / v.norm(dim=(1, 2), keepdim=True))


def _expected(config: BigVganConfig, entries: Mapping[str, Entry]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that are read, with or without weight norm, whichever the file has."""
    for name, weight, bias in _convolutions(config):
        if f"{name}.weight" in entries:
            yield f"{name}.weight", weight
        else:
            yield f"{name}.{_WEIGHT_NORM}0", (weight[0], 1, 1)
            yield f"{name}.{_WEIGHT_NORM}1", weight
        if bias:
            yield f"{name}.bias", (bias,)
    for name, channels in _activations(config):
        yield f"{name}.act.alpha", (channels,)
        yield f"{name}.act.beta", (channels,)


def _convolutions(config: BigVganConfig) -> Iterator[tuple[str, tuple[int, int, int], int]]:
    """Name, weight shape and bias size of each convolution; bias size 0 for no bias."""
    last, per_stage = config.channels_after(len(config.upsamples)), len(config.resblocks)
    yield "conv_pre", (config.channels, config.n_mels, _PRE_POST_KERNEL), config.channels
    yield "conv_post", (1, last, _PRE_POST_KERNEL), int(config.bias)
    for stage, (_rate, upsample_kernel) in enumerate(config.upsamples):
        channels = config.channels_after(stage + 1)
        # A transposed convolution's weight is (in, out, kernel).
        yield f"ups.{stage}.0", (config.channels_after(stage), channels, upsample_kernel), channels
        for n, (kernel, dilations) in enumerate(config.resblocks):
            for pair in range(len(dilations)):
                for convs in ("convs1", "convs2"):
                    yield f"resblocks.{stage * per_stage + n}.{convs}.{pair}", (channels, channels, kernel), channels


def _activations(config: BigVganConfig) -> Iterator[tuple[str, int]]:
    """Name and channels of each activation."""
    yield "activation_post", config.channels_after(len(config.upsamples))
    for stage in range(len(config.upsamples)):
        for n, (_kernel, dilations) in enumerate(config.resblocks):
            resblock = f"resblocks.{stage * len(config.resblocks) + n}"
            for activation in range(2 * len(dilations)):
                yield f"{resblock}.activations.{activation}", config.channels_after(stage + 1)
