"""Vocos (arXiv 2306.00814): a vocoder from mel spectrogram to waveform, for several mels at a time.

The weights are those of the library vocos, from charactr/vocos-mel-24khz. Mels of different length are packed
(`packing`), so each gives the waveform that it gives alone.
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
from engines.torch.convnext import KERNEL, ConvNeXtBlock
from engines.torch.convolution import Convolution
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

CONFIG, WEIGHTS = "config.yaml", "pytorch_model.bin"
_EPS = 1e-6
_MAX_MAGNITUDE = 100.0  # "safeguard to prevent excessively large magnitudes" of `ISTFTHead`
_MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class VocosConfig:
    """Sizes from a vocoder's config.yaml.

    Attributes:
        rate_hz: Sample rate of the waveform.
        hop: Samples from one frame to the next.
        n_fft: Samples in the window of a frame.
        n_mels: Mel bands, the library's `input_channels`.
        dim: Channels of the backbone.
        intermediate_dim: Channels inside a ConvNeXt block.
        num_layers: ConvNeXt blocks.
    """

    rate_hz: int
    hop: int
    n_fft: int
    n_mels: int
    dim: int
    intermediate_dim: int
    num_layers: int


class Vocos:
    """Same as `vocos.models.VocosBackbone` with `vocos.heads.ISTFTHead`, on packed sequences, in float32; compared in
    `tests/unit/engines/torch/test_vocos.py`.

    Args:
        folder: With config.yaml and pytorch_model.bin.
        device: Where it runs.

    Raises:
        RequestRefused: A file is missing, unreadable, or not of this architecture.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.config = _config(folder / CONFIG)
        source = _source(folder / WEIGHTS, self.config, device)
        backbone, head = source.within("backbone."), source.within("head.")
        self._embed = Convolution(backbone.kept("embed.weight"), backbone.kept("embed.bias"))
        self._norm, self._final_layer_norm = backbone.norm("norm"), backbone.norm("final_layer_norm")
        self._convnext = [ConvNeXtBlock(backbone.within(f"convnext.{n}.")) for n in range(self.config.num_layers)]
        self._out, self._window = head.linear("out"), head.kept("istft.window")
        self.device = device

    @torch.inference_mode()
    def __call__(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Compute waveforms.

        Args:
            mels: Log mel spectrograms, each float32 (frames, n_mels) with 2 or more frames.

        Returns:
            For each, float32 ((frames - 1) * hop,) on the device.
        """
        packing = Packing([len(mel) for mel in mels], self.device)
        padding = packing.conv_padding(KERNEL // 2)
        x = torch.cat(list(mels)).to(self.device)  # (total, n_mels)
        x = padding.unpad(self._embed(padding.pad(x)))  # (total, dim)
        x = F.layer_norm(x, x.shape[1:], *self._norm, _EPS)
        for block in self._convnext:
            x = block(x, packing)
        x = self._out(F.layer_norm(x, x.shape[1:], *self._final_layer_norm, _EPS))  # (total, n_fft + 2)
        magnitude, phase = x.t().chunk(2)  # each (n_fft / 2 + 1, total)
        spectrum = torch.polar(magnitude.exp().clamp_(max=_MAX_MAGNITUDE), phase)  # complex64, the same shape
        return [self._istft(spectrum[:, span]) for span in packing.spans]

    def bytes_for(self, frames: int) -> int:
        """Peak memory for a number of frames, without the weights: either in the ISTFT or in a ConvNeXt block."""
        config = self.config
        return frames * 4 * max(6 * config.n_fft, config.n_fft + 3 * config.dim + 2 * config.intermediate_dim)

    def _istft(self, spectrum: Tensor) -> Tensor:
        """complex64 (n_fft / 2 + 1, frames) -> ((frames - 1) * hop,)."""
        return torch.istft(spectrum, self.config.n_fft, self.config.hop, window=self._window)


_KNOWN = {"backbone": "vocos.models.VocosBackbone", "head": "vocos.heads.ISTFTHead"}
_CURE = "Use the unmodified files of charactr/vocos-mel-24khz: `voicespool models pull f5` downloads them."


def _config(path: Path) -> VocosConfig:
    try:
        config = sidecar.read(path)
        for part, known in _KNOWN.items():
            if config[part]["class_path"] != known:
                raise ValueError(f"unsupported {part} {config[part]['class_path']!s:.80}; supported: {known}")
        features, backbone, head = (config[part]["init_args"] for part in ("feature_extractor", *_KNOWN))
        # The library's other padding, `same`, needs an ISTFT of its own; the published model has `center`.
        if head.get("padding") != "center":
            raise ValueError("the padding of its head is not `center`")
        return _sizes(features, backbone, head)
    except OSError as error:
        raise RequestRefused(f"can't read the vocoder's {path}: {error.strerror}", _CURE) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else "keys of a Vocos configuration are missing"
        raise RequestRefused(f"the vocoder's {path.name} can't be used ({reason})", _CURE) from None


def _sizes(features: Mapping[str, Any], backbone: Mapping[str, Any], head: Mapping[str, Any]) -> VocosConfig:
    config = VocosConfig(
        rate_hz=int(features["sample_rate"]),
        hop=int(head["hop_length"]),
        n_fft=int(head["n_fft"]),
        n_mels=int(backbone["input_channels"]),
        dim=int(backbone["dim"]),
        intermediate_dim=int(backbone["intermediate_dim"]),
        num_layers=int(backbone["num_layers"]),
    )
    if min(astuple(config)) < 1 or config.num_layers > _MAX_LAYERS:
        raise ValueError(f"sizes out of range: {config}")
    return config


def _source(path: Path, config: VocosConfig, device: torch.device) -> WeightSource:
    try:
        entries = tensors.read(path).entries
    except tensors.UnreadableModelFile as error:
        raise RequestRefused(f"the vocoder's {path.name} can't be used: {error.reason}", error.cure) from None
    except OSError as error:
        raise RequestRefused(f"can't read the vocoder's {path}: {error.strerror}", _CURE) from None
    for name, expected in _expected(config).items():
        if name not in entries or entries[name].shape != expected:
            found = f"is {list(entries[name].shape)}" if name in entries else "is missing"
            raise RequestRefused(
                f"the vocoder's {path.name} does not match its {CONFIG}: {name} {found}, expected {list(expected)}",
                _CURE,
            )
    return WeightSource(path, entries, device, torch.float32)


def _expected(config: VocosConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that are read; the file also has those of the feature extractor."""
    dim, inner = config.dim, config.intermediate_dim
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.embed.weight": (dim, config.n_mels, KERNEL), "backbone.embed.bias": (dim,),
        "head.out.weight": (config.n_fft + 2, dim), "head.out.bias": (config.n_fft + 2,),
        "head.istft.window": (config.n_fft,),
    }  # fmt: skip
    block = {
        "dwconv.weight": (dim, 1, KERNEL), "dwconv.bias": (dim,), "norm.weight": (dim,), "norm.bias": (dim,),
        "pwconv1.weight": (inner, dim), "pwconv1.bias": (inner,),
        "pwconv2.weight": (dim, inner), "pwconv2.bias": (dim,), "gamma": (dim,),
    }  # fmt: skip
    for n in range(config.num_layers):
        shapes |= {f"backbone.convnext.{n}.{name}": shape for name, shape in block.items()}
    for norm in ("norm", "final_layer_norm"):
        shapes |= {f"backbone.{norm}.weight": (dim,), f"backbone.{norm}.bias": (dim,)}
    return shapes
