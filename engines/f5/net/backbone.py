"""The networks of F5-TTS and E2-TTS: which way noise should go to become the sound of a text in a voice.

The weights are those of f5-tts (`DiT`, `UNetT`); the computation is ours. Sounds of different length are laid end to
end (`packing`), so that none sees another and no work is done on padding. What does not change from one step to the
next is computed once: text, the part of the input that is not noise, places, and all that depends on time alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import Flags
from engines.f5.net.attention import Layout, can_attend_at_once, turns
from engines.f5.net.batch import Given, PreparedBatch
from engines.f5.net.graphs import Evaluation, Graphs, filled
from engines.f5.net.layers import Dit, Layers, UnetT
from engines.f5.net.text import TextEmbedding
from engines.torch.convolution import GroupedConvolution
from engines.torch.linear import Linear
from engines.torch.packing import Gapped, Packing
from engines.torch.source import WeightSource

_TIME_WIDTH, _TIME_SCALE, _TIME_BASE = 256, 1000.0, 10_000.0
_PLACES_KERNEL = 31
_LENGTHS = 512  # attention is told a bound of lengths, a multiple of so many
_KEPT_MOMENTS = 2  # courses; 18 MB for 32 steps


class Backbone:
    """A loaded network.

    Args:
        source: The model's tensors, by the library's names within `transformer.`.
    """

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self.sizes, self.device, self.dtype = sizes, source.device, source.dtype
        exact = source.in_float32()
        self._time = exact.linear("time_embed.time_mlp.0"), exact.linear("time_embed.time_mlp.2")
        self._text = TextEmbedding(source.within("text_embed."), sizes)
        self._noise, self._mel, self._words = _split(exact.within("input_embed."), sizes)
        places = source.within("input_embed.conv_pos_embed.conv1d.")
        self._places = [_convolution(places.within(f"{number}.")) for number in (0, 2)]
        self._speeds = _speeds(source, sizes)
        self._layers: Layers = Dit(source, sizes) if sizes.family == "dit" else UnetT(source, sizes)
        self._out = exact.linear("proj_out")
        self._at_once = can_attend_at_once(self.device, self.dtype, sizes.dim_head)
        self._graphs = Graphs(self.velocity) if self._at_once else None
        self.moments = lru_cache(maxsize=_KEPT_MOMENTS)(self._moments)
        """All that depends on time alone: times, 0 (noise) … 1 (sound) -> float32 [times, n, dim] for `velocity`."""

    def _moments(self, times: tuple[float, ...]) -> Tensor:
        half = _TIME_WIDTH // 2
        speeds = torch.exp(torch.arange(half).float() * (-math.log(_TIME_BASE) / (half - 1)))
        angles = _TIME_SCALE * torch.outer(torch.tensor(times), speeds)
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.device)
        first, second = self._time
        return self._layers.moments(second(F.silu(first(waves))))

    def filled(self, batch: Sequence[Given], *, guided: bool) -> Sequence[Given]:
        """A batch, with others behind it where it is faster in their company."""
        return batch if self._graphs is None else filled(batch, 2 if guided else 1)

    def prepare(self, batch: Sequence[Given], flags: Flags, *, guided: bool) -> PreparedBatch:
        """Compute what stays as it is for a batch."""
        passes = 2 if guided else 1
        lengths = [one.frames for one in batch]
        own, frames = Packing(lengths, self.device), Packing(lengths * passes, self.device)
        rows = Packing([length + self._layers.leading for length in frames.lengths], self.device)
        texts = [one.symbols for one in batch]
        mels = torch.cat([F.pad(one.mel, (0, 0, 0, one.frames - len(one.mel))) for one in batch]).to(self.device)
        fixed = [self._mel(mels) + self._words(self._text(texts, own, flags))]
        if guided:
            fixed.append(self._words(self._text(texts, own, flags, is_dropped=True)))
        heads = self.sizes.heads if flags.pe_attn_head is None else flags.pe_attn_head
        longest = rows.longest + -rows.longest % _LENGTHS if self._at_once else None
        layout = Layout(rows, turns(rows.positions, self._speeds), heads, longest)
        inner = (rows.positions >= self._layers.leading).nonzero()[:, 0] if self._layers.leading else None
        return PreparedBatch(layout, inner, frames.gapped(_PLACES_KERNEL // 2), torch.cat(fixed), passes)

    def evaluation(self, prepared: PreparedBatch) -> Evaluation:
        """`velocity` for a batch, as fast as the device has it."""
        if self._graphs is None:
            return lambda noise, moment: self.velocity(noise, prepared, moment)
        return self._graphs.evaluation(prepared)

    def velocity(self, noise: Tensor, prepared: PreparedBatch, moment: Tensor) -> Tensor:
        """Which way to go.

        Args:
            noise: float32 [rows, n_mels] of the batch, where it has come to.
            moment: Of this time, [n, dim].

        Returns:
            float32 [passes, rows, n_mels].
        """
        x = self._noise(noise).repeat(prepared.passes, 1).add_(prepared.fixed)
        x += self._placed(x, prepared.placing)
        if prepared.inner is None:
            x = self._layers(x, prepared.layout, moment)
        else:
            opened = x.new_zeros(prepared.layout.packing.rows, x.shape[1]).index_copy_(0, prepared.inner, x)
            x = self._layers(opened, prepared.layout, moment)[prepared.inner]
        return self._out(x).view(prepared.passes, -1, self.sizes.n_mels)

    def bytes_for(self, frames: int, *, guided: bool) -> int:
        """The most memory that a sound of so many frames takes in a batch, besides the weights."""
        sizes, size = self.sizes, self.dtype.itemsize
        attending = sizes.heads * sizes.dim_head * (5 * size + 2 * 4)
        feeding = int(sizes.dim * size * (1 + sizes.ff_mult))
        row = sizes.dim * (3 * 4 + size) + max(attending, feeding) + 4 * sizes.dim_head + 4 * 4 * sizes.n_mels
        if sizes.family == "unett":
            row += 4 * sizes.dim * sizes.depth // 2
        # Attention of one head in float32, and a copy if the precision is half; on a card it is never written down.
        one_head = frames**2 * (4 + size % 4) if self.device.type == "cpu" else 0
        return row * (frames + 1) * (2 if guided else 1) + one_head

    def _placed(self, x: Tensor, gapped: Gapped) -> Tensor:
        """The convolutions by which a frame knows its place."""
        x = x.to(self.dtype)
        for convolution in self._places:
            x = F.mish(gapped.close(convolution(gapped.open(x))))
        return x


def _split(source: WeightSource, sizes: Sizes) -> tuple[Linear, Linear, Linear]:
    """The projection of noise, recording and text side by side, as one of each; the last has the bias."""
    widths = [sizes.n_mels, sizes.n_mels, sizes.text_dim]
    parts = torch.split(source.kept("proj.weight"), widths, 1)
    biases = None, None, source.kept("proj.bias")
    noise, mel, words = (Linear(part, bias, source.dtype, "many") for part, bias in zip(parts, biases, strict=True))
    return noise, mel, words


def _convolution(source: WeightSource) -> GroupedConvolution:
    return GroupedConvolution(source.read("weight").to(source.device, source.dtype), source.kept("bias"))


def _speeds(source: WeightSource, sizes: Sizes) -> Tensor:
    """How fast places turn pairs of channels, [dim_head / 2]."""
    if source.has("rotary_embed.inv_freq"):
        return source.kept("rotary_embed.inv_freq")
    turned = torch.arange(0, sizes.dim_head, 2, device=source.device).float() / sizes.dim_head
    return 1 / 10_000.0**turned
