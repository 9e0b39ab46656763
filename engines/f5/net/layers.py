"""The layers of F5-TTS (a DiT, arXiv 2212.09748) and of E2-TTS (a flat U-Net of transformer layers, arXiv 2406.18009).

The stream between layers stays float32, norms are float32, matrices are in the precision asked for. Time is the same
for all rows, so what it does to a DiT's norms is their weight and bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import Sizes
from engines.f5.net.attention import Attention, Layout
from engines.torch.linear import Linear
from engines.torch.source import WeightSource

_EPS = 1e-6
_RMS_EPS = 1e-24  # the library keeps from dividing by nothing, and no more
_CHANGES = 6  # of one layer of a DiT: shift, scale and gate of its attention, and of its feed-forward part


class Layers(Protocol):
    """All layers of a model, from what goes in to the last norm.

    Attributes:
        leading: So many rows go before the frames of each sequence: time, where it is no change of the norms.
    """

    leading: int

    def moments(self, times: Tensor) -> Tensor:
        """Embeddings of times [steps, dim] -> what the layers do at each of them, float32 [steps, n, dim]."""

    def __call__(self, x: Tensor, layout: Layout, moment: Tensor) -> Tensor:
        """All rows, float32 [rows, dim], at one moment [n, dim] -> the same shape; x may be changed."""


@dataclass(frozen=True, slots=True)
class _Layer:
    attention: Attention
    up: Linear
    down: Linear

    @classmethod
    def of(cls, source: WeightSource, attention: str, feed_forward: str, sizes: Sizes) -> _Layer:
        inner = source.within(f"{feed_forward}.ff.")
        attends = Attention(source.within(f"{attention}."), sizes)
        return cls(attends, inner.linear("0.0", "tanh"), inner.linear("2"))

    def attend(self, normed: Tensor, layout: Layout) -> Tensor:
        return self.attention(normed.to(self.up.dtype), layout)

    def feed_forward(self, normed: Tensor) -> Tensor:
        return self.down(self.up(normed.to(self.up.dtype)))


class Dit:
    """The library's `DiT` behind its input.

    What time does to the norms follows from two fifths of all weights, and is asked for once for many renderings: those
    weights stay in the computer's memory, whatever the device.
    """

    leading = 0

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        layers = [source.within(f"transformer_blocks.{number}.") for number in range(sizes.depth)]
        self._layers = [_Layer.of(layer, "attn", "ff", sizes) for layer in layers]
        self._changes = [_Change(layer.within("attn_norm.")) for layer in layers]
        self._last_change = _Change(source.within("norm_out."))
        self._long_skip = source.linear("long_skip_connection") if sizes.long_skip_connection else None

    def moments(self, times: Tensor) -> Tensor:
        """Shift, scale and gate twice for each layer; then shift and scale of the last norm."""
        times = F.silu(times)
        of_layers = torch.stack([change(times, _CHANGES) for change in self._changes], 1)
        of_layers[:, :, 1::3] += 1
        scale, shift = self._last_change(times, 2).unbind(1)
        return torch.cat([of_layers.flatten(1, 2), torch.stack([shift, 1 + scale], 1)], 1)

    def __call__(self, x: Tensor, layout: Layout, moment: Tensor) -> Tensor:
        start = None if self._long_skip is None else x.clone()
        *changes, last = torch.split(moment, _CHANGES)
        for layer, (shift, scale, gate, shift_2, scale_2, gate_2) in zip(self._layers, changes, strict=True):
            x.addcmul_(layer.attend(_normed(x, scale, shift), layout), gate)
            x.addcmul_(layer.feed_forward(_normed(x, scale_2, shift_2)), gate_2)
        if self._long_skip is not None and start is not None:
            x = self._long_skip(torch.cat([x, start], 1).to(self._long_skip.dtype)).float()
        return _normed(x, last[1], last[0])


def _normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[1:], scale, shift, _EPS)


class _Change:
    """Time -> what it does to a norm.

    The weights stay in the computer's memory, and go where they are needed; until they are used they are a view of the
    file, as those of `Linear` are.
    """

    def __init__(self, source: WeightSource) -> None:
        self._weight, self._dtype = source.read("linear.weight"), source.dtype
        self._bias = source.kept("linear.bias")
        self._is_own = False

    def __call__(self, times: Tensor, count: int) -> Tensor:
        """float32 [steps, dim] -> [steps, count, dim]."""
        if not self._is_own:
            self._weight, self._is_own = self._weight.to(self._dtype, copy=True), True
        changes = F.linear(times, self._weight.to(times.device).float(), self._bias)
        return changes.view(len(times), count, -1)


class UnetT:
    """The library's `UNetT` behind its input: time is a row before the frames; late layers see early ones again."""

    leading = 1

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self._half = sizes.depth // 2
        layers = [source.within(f"layers.{number}.") for number in range(sizes.depth)]
        self._layers = [_Layer.of(layer, "2", "4", sizes) for layer in layers]
        self._norms = [(layer.kept("1.g"), layer.kept("3.g")) for layer in layers]
        self._skips = [layer.linear("0") for layer in layers[self._half :]]
        self._last = source.kept("norm_out.g")

    def moments(self, times: Tensor) -> Tensor:
        return times.unsqueeze(1)

    def __call__(self, x: Tensor, layout: Layout, moment: Tensor) -> Tensor:
        x[layout.packing.offsets[:-1]] = moment
        seen: list[Tensor] = []
        for number, (layer, (first, second)) in enumerate(zip(self._layers, self._norms, strict=True)):
            if number < self._half:
                seen.append(x)
            else:
                skip = self._skips[number - self._half]
                x = skip(torch.cat([x, seen.pop()], 1).to(skip.dtype)).float()
            x = x + layer.attend(_rms_normed(x, first), layout)
            x += layer.feed_forward(_rms_normed(x, second))
        return _rms_normed(x, self._last)


def _rms_normed(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[1:], weight, _RMS_EPS)
