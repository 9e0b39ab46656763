"""Vocos (arXiv 2306.00814): mels to sound, several at a time.

The weights are those of the library vocos, as charactr/vocos-mel-24khz has them. Mels of different length are laid end
to end (`packing`): each gives what it gives alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints import sidecar
from engines.errors import RequestRefused
from engines.modelfiles import tensors
from engines.torch.convnext import KERNEL, ConvNext
from engines.torch.convolution import Convolution
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

CONFIG, WEIGHTS = "config.yaml", "pytorch_model.bin"
_EPS = 1e-6
_LOUDEST = 100.0  # magnitudes above are cut
_MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class VocosConfig:
    """What a vocoder's config.yaml says.

    Attributes:
        rate_hz: Of the sound.
        hop: Samples from one frame to the next.
        n_fft: Samples that a frame looks at.
        n_mels, dim, inner, layers: Of the model.
    """

    rate_hz: int
    hop: int
    n_fft: int
    n_mels: int
    dim: int
    inner: int
    layers: int


class Vocos:
    """A loaded vocoder, in float32.

    Args:
        folder: With config.yaml and pytorch_model.bin.

    Raises:
        RequestRefused: They are not there, or no vocoder that is known here.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.shape = _shape(folder / CONFIG)
        source = _source(folder / WEIGHTS, self.shape, device)
        backbone, head = source.within("backbone."), source.within("head.")
        self._embed = Convolution(backbone.kept("embed.weight"), backbone.kept("embed.bias"))
        self._first, self._last = backbone.norm("norm"), backbone.norm("final_layer_norm")
        self._blocks = [ConvNext(backbone.within(f"convnext.{number}.")) for number in range(self.shape.layers)]
        self._out, self._window = head.linear("out"), head.kept("istft.window")
        self.device = device

    @torch.inference_mode()
    def __call__(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Speak.

        Args:
            mels: Each float32 [frames, n_mels], 2 or more frames.

        Returns:
            Of each, float32 [(frames - 1) * hop] on the device.
        """
        packing = Packing([len(mel) for mel in mels], self.device)
        gapped = packing.gapped(KERNEL // 2)
        x = gapped.close(self._embed(gapped.open(torch.cat(list(mels)).to(self.device))))
        x = F.layer_norm(x, x.shape[1:], *self._first, _EPS)
        for block in self._blocks:
            x = block(x, packing)
        x = self._out(F.layer_norm(x, x.shape[1:], *self._last, _EPS))
        magnitude, phase = x.t().chunk(2)
        spectrum = torch.polar(magnitude.exp().clamp_(max=_LOUDEST), phase)
        return [self._sound(spectrum[:, span]) for span in packing.spans]

    def bytes_for(self, frames: int) -> int:
        """The most memory that so many frames take, besides the weights: when spectra become sound."""
        return frames * 4 * max(6 * self.shape.n_fft, self.shape.n_fft + 3 * self.shape.dim + 2 * self.shape.inner)

    def _sound(self, spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, self.shape.n_fft, self.shape.hop, window=self._window)


_KNOWN = {"backbone": "vocos.models.VocosBackbone", "head": "vocos.heads.ISTFTHead"}
_CURE = "Use the files of charactr/vocos-mel-24khz, as they are: `voicespool models pull f5` brings them."


def _shape(config: Path) -> VocosConfig:
    try:
        said = sidecar.read(config)
        for part, known in _KNOWN.items():
            if said[part]["class_path"] != known:
                raise ValueError(f"its {part} is {said[part]['class_path']!s:.80}, known is {known}")
        hears, thinks, speaks = (said[part]["init_args"] for part in ("feature_extractor", *_KNOWN))
        if speaks.get("padding") != "center":
            raise ValueError("its padding is not `center`")
        return _numbers(hears, thinks, speaks)
    except OSError as error:
        raise RequestRefused(f"the vocoder's {config} can't be read: {error.strerror}", _CURE) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = str(error) if type(error) is ValueError else "it lacks what describes a Vocos"
        raise RequestRefused(f"the vocoder's {config.name} can't be used ({words})", _CURE) from None


def _numbers(hears: Mapping[str, Any], thinks: Mapping[str, Any], speaks: Mapping[str, Any]) -> VocosConfig:
    shape = VocosConfig(
        rate_hz=int(hears["sample_rate"]),
        hop=int(speaks["hop_length"]),
        n_fft=int(speaks["n_fft"]),
        n_mels=int(thinks["input_channels"]),
        dim=int(thinks["dim"]),
        inner=int(thinks["intermediate_dim"]),
        layers=int(thinks["num_layers"]),
    )
    if min(astuple(shape)) < 1 or shape.layers > _MAX_LAYERS:
        raise ValueError(f"no vocoder has such sizes: {shape}")
    return shape


def _source(path: Path, shape: VocosConfig, device: torch.device) -> WeightSource:
    try:
        entries = tensors.read(path).entries
    except tensors.UnreadableModelFile as error:
        raise RequestRefused(f"the vocoder's {path.name} can't be used: {error.reason}", error.cure) from None
    except OSError as error:
        raise RequestRefused(f"the vocoder's {path} can't be read: {error.strerror}", _CURE) from None
    for name, wanted in _expected(shape).items():
        if name not in entries or entries[name].shape != wanted:
            found = f"is {list(entries[name].shape)}" if name in entries else "is missing"
            raise RequestRefused(
                f"the vocoder's {path.name} does not fit its {CONFIG}: {name} {found}, not {list(wanted)}", _CURE
            )
    return WeightSource(path, entries, device, torch.float32)


def _expected(shape: VocosConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that speaking needs."""
    dim, inner = shape.dim, shape.inner
    table: dict[str, tuple[int, ...]] = {
        "backbone.embed.weight": (dim, shape.n_mels, KERNEL), "backbone.embed.bias": (dim,),
        "head.out.weight": (shape.n_fft + 2, dim), "head.out.bias": (shape.n_fft + 2,),
        "head.istft.window": (shape.n_fft,),
    }  # fmt: skip
    block = {
        "dwconv.weight": (dim, 1, KERNEL), "dwconv.bias": (dim,), "norm.weight": (dim,), "norm.bias": (dim,),
        "pwconv1.weight": (inner, dim), "pwconv1.bias": (inner,),
        "pwconv2.weight": (dim, inner), "pwconv2.bias": (dim,), "gamma": (dim,),
    }  # fmt: skip
    for number in range(shape.layers):
        table |= {f"backbone.convnext.{number}.{name}": wanted for name, wanted in block.items()}
    for norm in ("norm", "final_layer_norm"):
        table |= {f"backbone.{norm}.weight": (dim,), f"backbone.{norm}.bias": (dim,)}
    return table
