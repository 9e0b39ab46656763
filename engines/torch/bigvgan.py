"""BigVGAN (arXiv 2206.04658): mels to sound, with activations that do not alias.

The weights are those of nvidia/bigvgan_v2_24khz_100band_256x, with the weight norm folded in once. Each activation runs
at twice the rate: both halves of the samples between two frames of it are kept side by side, so that raising the rate,
bending the signal and lowering the rate are two short convolutions and nothing is ever interleaved.

Mels are spoken one after the other: one keeps a device busy, and each gives what it gives alone.
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
_ENDS = 7  # kernel of the first and the last convolution
_NEVER_ZERO = 1e-9  # added to what is divided by
_TAPS, _REACH = 12, 3  # of the low-pass filter, and so many samples of the lower rate it looks to each side
_MOST = 4096  # channels; stages, kernels and dilations are far fewer


@dataclass(frozen=True, slots=True)
class BigVganConfig:
    """What a vocoder's config.json says.

    Attributes:
        rate_hz: Of the sound.
        hop: Samples from one frame to the next.
        n_mels: Of a frame.
        channels: Before the first stage; each stage halves them.
        stages: Of each, by how much it raises the rate, and its kernel.
        blocks: Of each stage's residual blocks, the kernel, and the dilations of its pairs of convolutions.
        bias, tanh: Whether the last convolution has a bias, and whether a tanh is what keeps the sound within bounds.
    """

    rate_hz: int
    hop: int
    n_mels: int
    channels: int
    stages: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, tuple[int, ...]], ...]
    bias: bool
    tanh: bool

    def width(self, stage: int) -> int:
        """Channels behind so many stages."""
        return self.channels >> stage


class BigVGAN:
    """A loaded vocoder, in float32.

    Args:
        folder: With config.json and bigvgan_generator.pt.

    Raises:
        RequestRefused: They are not there, or no vocoder that is known here.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.shape = shape = _shape(folder / CONFIG)
        source = _source(folder / WEIGHTS, shape, device)
        count = len(shape.blocks)
        self._first, self._last = _Convolution(source, "conv_pre"), _Convolution(source, "conv_post")
        self._stages = [_Raise(source, f"ups.{number}.0", rate) for number, (rate, _kernel) in enumerate(shape.stages)]
        self._blocks = [
            [_Block(source.within(f"resblocks.{number * count + own}."), *block)
             for own, block in enumerate(shape.blocks)]
            for number in range(len(shape.stages))
        ]  # fmt: skip
        self._bend = _Activation(source.within("activation_post."))
        self.device = device

    @torch.inference_mode()
    def __call__(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Speak.

        Args:
            mels: Each float32 [frames, n_mels], 1 or more frames.

        Returns:
            Of each, float32 [frames * hop] on the device, -1 … 1.
        """
        return [self._speak(mel.to(self.device).t()) for mel in mels]

    def bytes_for(self, frames: int) -> int:
        """The most memory that so many frames take, besides the weights: within the widest stage.

        There are the stage's input, the sum over its blocks, the state of one, and an activation at twice the rate.
        """
        samples, widest = frames, self.shape.channels * frames
        for number, (rate, _kernel) in enumerate(self.shape.stages, 1):
            samples *= rate
            widest = max(widest, samples * self.shape.width(number))
        return 4 * 12 * widest

    def _speak(self, x: Tensor) -> Tensor:
        """[n_mels, frames] -> [samples]."""
        x = self._first(x)
        for stage, blocks in zip(self._stages, self._blocks, strict=True):
            x = stage(x)
            total = blocks[0](x)
            for block in blocks[1:]:
                total += block(x)
            x = total.div_(len(blocks))
        x = self._last(self._bend(x))[0]
        return torch.tanh(x) if self.shape.tanh else x.clamp(-1, 1)


class _Convolution:
    """[in, n] -> [out, n]."""

    def __init__(self, source: WeightSource, name: str, dilation: int = 1) -> None:
        self._weight, self._dilation = _weight(source, name), dilation
        self._bias = source.kept(f"{name}.bias") if source.has(f"{name}.bias") else None

    def __call__(self, x: Tensor) -> Tensor:
        reach = (self._weight.shape[2] - 1) * self._dilation // 2
        return F.conv1d(x[None], self._weight, self._bias, padding=reach, dilation=self._dilation)[0]


class _Raise:
    """[in, n] -> [out, rate * n]: a transposed convolution."""

    def __init__(self, source: WeightSource, name: str, rate: int) -> None:
        self._weight, self._bias, self._rate = _weight(source, name), source.kept(f"{name}.bias"), rate

    def __call__(self, x: Tensor) -> Tensor:
        padding = (self._weight.shape[2] - self._rate) // 2
        return F.conv_transpose1d(x[None], self._weight, self._bias, self._rate, padding)[0]


class _Block:
    """A residual block: pairs of convolutions, an activation before each."""

    def __init__(self, source: WeightSource, _kernel: int, dilations: Sequence[int]) -> None:
        self._pairs = [
            (_Activation(source.within(f"activations.{2 * number}.")),
             _Convolution(source, f"convs1.{number}", dilation),
             _Activation(source.within(f"activations.{2 * number + 1}.")),
             _Convolution(source, f"convs2.{number}"))
            for number, dilation in enumerate(dilations)
        ]  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        for bend, first, bend_again, second in self._pairs:
            x = x + second(bend_again(first(bend(x))))
        return x


class _Activation:
    """Snake with a frequency and a strength for each channel at twice the rate: x + sin²(αx) / β (arXiv 2006.08195)."""

    def __init__(self, source: WeightSource) -> None:
        self._alpha = source.kept("act.alpha").exp_()[:, None, None]
        self._strength = 1 / (source.kept("act.beta").exp_() + _NEVER_ZERO)[:, None, None]
        self._up, self._down = (weight.to(source.device) for weight in _halves())

    def __call__(self, x: Tensor) -> Tensor:
        """[channels, n] -> the same shape."""
        wide = F.conv1d(F.pad(x[:, None], (_REACH, _REACH), mode="replicate"), self._up)  # [channels, 2, n]
        wide += (wide * self._alpha).sin_().square_().mul_(self._strength)
        # Before the first sample of the higher rate lies that sample again, and behind the last one the last.
        before, behind = (end.expand(-1, 2, _REACH) for end in (wide[:, :1, :1], wide[:, 1:, -1:]))
        return F.conv1d(torch.cat([before, wide, behind], dim=2), self._down)[:, 0]


def _halves() -> tuple[Tensor, Tensor]:
    """The low-pass filter, apart for the even and the odd samples of the higher rate.

    Returns:
        For raising the rate [2, 1, taps], and for lowering it [1, 2, taps].
    """
    taps, nothing = _low_pass(), torch.zeros(1)
    even, odd = taps[0::2], taps[1::2]
    up = torch.stack([torch.cat([odd.flip(0), nothing]), torch.cat([nothing, even.flip(0)])])
    down = torch.stack([torch.cat([nothing, odd]), torch.cat([even, nothing])])
    return 2 * up[:, None], down[None]


def _low_pass() -> Tensor:
    """A sinc within a Kaiser window that passes the lower half of the frequencies, with a sum of 1: [taps].

    The window's shape follows from the width of the transition, 1.2 of the lower rate's Nyquist frequency, by Kaiser's
    formula (Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5.3).
    """
    attenuation_db = 2.285 * (_TAPS // 2 - 1) * math.pi * 1.2 + 7.95
    window = torch.kaiser_window(_TAPS, periodic=False, beta=0.1102 * (attenuation_db - 8.7))
    time = torch.arange(_TAPS) - (_TAPS - 1) / 2
    taps = window * torch.sinc(time / 2)
    return taps / taps.sum()


# --- files -----------------------------------------------------------------------------------------------------------

_CURE = f"Use {CONFIG} and {WEIGHTS} of nvidia/bigvgan_v2_24khz_100band_256x, as they are."
_KNOWN: Mapping[str, object] = {
    "resblock": "1", "activation": "snakebeta", "snake_logscale": True,
    "sampling_rate": RATE_HZ, "hop_size": HOP, "n_fft": N_FFT, "win_size": N_FFT, "num_mels": N_MELS, "fmin": 0,
}  # fmt: skip
"""What is built here, and the mels that F5-TTS makes for it."""


def _shape(config: Path) -> BigVganConfig:
    try:
        said = json_in(config)
        for name, known in _KNOWN.items():
            if said[name] != known:
                raise ValueError(f"its {name} is {said[name]!s:.80}, known is {known}")
        return _numbers(said)
    except OSError as error:
        raise RequestRefused(f"the vocoder's {config} can't be read: {error.strerror}", _CURE) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        words = str(error) if type(error) is ValueError else "it lacks what describes a BigVGAN"
        raise RequestRefused(f"the vocoder's {config.name} can't be used ({words})", _CURE) from None


def _numbers(said: Mapping[str, Any]) -> BigVganConfig:
    dilations = (tuple(map(int, those)) for those in said["resblock_dilation_sizes"])
    shape = BigVganConfig(
        rate_hz=int(said["sampling_rate"]),
        hop=int(said["hop_size"]),
        n_mels=int(said["num_mels"]),
        channels=int(said["upsample_initial_channel"]),
        stages=tuple(zip(map(int, said["upsample_rates"]), map(int, said["upsample_kernel_sizes"]), strict=True)),
        blocks=tuple(zip(map(int, said["resblock_kernel_sizes"]), dilations, strict=True)),
        bias=bool(said.get("use_bias_at_final", True)),
        tanh=bool(said.get("use_tanh_at_final", True)),
    )
    kernels = [kernel for kernel, those in shape.blocks for _dilation in those]
    sizes = [shape.channels, *(number for stage in shape.stages for number in stage), *kernels]
    sizes += [dilation for _kernel, those in shape.blocks for dilation in those]
    right = (
        bool(shape.blocks) and all(0 < size <= _MOST for size in sizes) and all(kernel % 2 for kernel in kernels)
        and all(kernel >= rate and (kernel - rate) % 2 == 0 for rate, kernel in shape.stages)
        and math.prod(rate for rate, _kernel in shape.stages) == shape.hop
        and shape.width(len(shape.stages)) > 0 and len(sizes) <= 100
    )  # fmt: skip
    if not right:
        raise ValueError("no vocoder has such sizes")
    return shape


def _source(path: Path, shape: BigVganConfig, device: torch.device) -> WeightSource:
    try:
        entries = _entries(path)
    except tensors.UnreadableModelFile as error:
        raise RequestRefused(f"the vocoder's {path.name} can't be used: {error.reason}", error.cure) from None
    except OSError as error:
        raise RequestRefused(f"the vocoder's {path} can't be read: {error.strerror}", _CURE) from None
    for name, wanted in _expected(shape, entries):
        if name not in entries or entries[name].shape != wanted:
            found = f"is {list(entries[name].shape)}" if name in entries else "is missing"
            raise RequestRefused(
                f"the vocoder's {path.name} does not fit its {CONFIG}: {name} {found}, not {list(wanted)}", _CURE
            )
    return WeightSource(path, entries, device, torch.float32)


def _entries(path: Path) -> dict[str, Entry]:
    """Its tensors by the names that they have within the generator, weight norm as torch has it today."""
    found = tensors.read(path).entries
    return unwrapped({name.removeprefix("generator."): entry for name, entry in found.items()})


_NORMED = "parametrizations.weight.original"


def _weight(source: WeightSource, name: str) -> Tensor:
    """A convolution's weight, with its weight norm (arXiv 1602.07868) folded in where it has one."""
    if source.has(f"{name}.weight"):
        return source.kept(f"{name}.weight")
    size, direction = (source.kept(f"{name}.{_NORMED}{number}") for number in (0, 1))
    return direction.mul_(size / direction.norm(dim=(1, 2), keepdim=True))


def _expected(shape: BigVganConfig, entries: Mapping[str, Entry]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that speaking needs."""
    for name, weight, bias in _convolutions(shape):
        if f"{name}.weight" in entries:
            yield f"{name}.weight", weight
        else:
            yield f"{name}.{_NORMED}0", (weight[0], 1, 1)
            yield f"{name}.{_NORMED}1", weight
        if bias:
            yield f"{name}.bias", (bias,)
    for name, width in _activations(shape):
        yield f"{name}.act.alpha", (width,)
        yield f"{name}.act.beta", (width,)


def _convolutions(shape: BigVganConfig) -> Iterator[tuple[str, tuple[int, int, int], int]]:
    """Name, shape of the weight, and size of the bias of each; 0 for none."""
    last, count = shape.width(len(shape.stages)), len(shape.blocks)
    yield "conv_pre", (shape.channels, shape.n_mels, _ENDS), shape.channels
    yield "conv_post", (1, last, _ENDS), int(shape.bias)
    for number, (_rate, kernel) in enumerate(shape.stages):
        width = shape.width(number + 1)
        yield f"ups.{number}.0", (shape.width(number), width, kernel), width
        for own, (size, dilations) in enumerate(shape.blocks):
            for pair in range(len(dilations)):
                for side in ("convs1", "convs2"):
                    yield f"resblocks.{number * count + own}.{side}.{pair}", (width, width, size), width


def _activations(shape: BigVganConfig) -> Iterator[tuple[str, int]]:
    yield "activation_post", shape.width(len(shape.stages))
    for number in range(len(shape.stages)):
        for own, (_size, dilations) in enumerate(shape.blocks):
            block = f"resblocks.{number * len(shape.blocks) + own}"
            for place in range(2 * len(dilations)):
                yield f"{block}.activations.{place}", shape.width(number + 1)
