"""Attention over sequences laid end to end, with places told by turning (arXiv 2104.09864)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import Sizes
from engines.torch.linear import Linear, is_packed, product
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Layout:
    """What attention knows of its rows.

    Attributes:
        packing: Which belong together.
        turns: By how much a row's place turns each pair of channels, complex64 [rows, dim_head / 2].
        heads: So many heads know about places, the first ones.
        longest: What no sequence is longer than, where torch can attend within all of them at once; else None.
    """

    packing: Packing
    turns: Tensor
    heads: int
    longest: int | None = None


class Attention:
    """One layer's.

    The likeness of queries and keys is always float32: it goes through an exponential. The rest is in the precision of
    the matrices.

    Args:
        source: `to_q`, `to_k`, `to_v`, `to_out.0`, and where sizes say so `q_norm` and `k_norm`.
    """

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self._heads, self._width = sizes.heads, sizes.dim_head
        scale: float = sizes.dim_head**-0.5
        self._norms = None
        if sizes.qk_norm:
            self._norms = source.kept("q_norm.weight") * scale, source.kept("k_norm.weight")
            scale = 1.0
        self._qkv = _joined(source, ("to_q", "to_k", "to_v"), scale)
        self._out = source.linear("to_out.0")

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """[rows, dim] -> [rows, dim], both in the precision of the matrices."""
        mixed = self._qkv(x).view(-1, 3, self._heads, self._width).permute(1, 2, 0, 3)
        alike = _placed(mixed[:2])
        if self._norms is not None:
            for one, weight in zip(alike, self._norms, strict=True):
                one.copy_(F.rms_norm(one, (self._width,), weight, _EPS))
        _turn(alike[:, : layout.heads], layout.turns)
        return self._out(_attend(alike, mixed[2], layout).flatten(1))


def _joined(source: WeightSource, names: Sequence[str], scale: float) -> Linear:
    """Several matrices as one, the first of them scaled."""
    weights = [source.read(f"{name}.weight").to(source.device, source.dtype) for name in names]
    weight, bias = torch.cat(weights), torch.cat([source.kept(f"{name}.bias") for name in names])
    for joined in (weight, bias):
        joined[: len(weights[0])] *= scale
    return Linear(weight, bias, source.dtype, "many")


def turns(positions: Tensor, speeds: Tensor) -> Tensor:
    """How far places [rows] turn pairs of channels of these speeds [pairs]: complex64 [rows, pairs]."""
    angles = torch.outer(positions.float(), speeds)
    return torch.polar(torch.ones_like(angles), angles)


def _turn(x: Tensor, by: Tensor) -> None:
    """Turn neighbouring channels of x, float32 [2, heads, rows, channels], in place."""
    pairs = torch.view_as_complex(x.view(*x.shape[:3], by.shape[1], 2))
    pairs *= by


def can_attend_at_once(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether torch has FlashAttention (arXiv 2307.08691) for heads of this width there: it keeps to its sequences."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or width > 256 or width % 8:
        return False
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _placed(alike: Tensor) -> Tensor:
    """Queries and keys [2, heads, rows, channels] in float32, as attention reads them: where products are oneDNN's a
    head's rows one after the other, else as they come, a row's heads one after the other.
    """
    if is_packed(alike.device, alike.dtype, "many"):
        return alike.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return alike.float()


def _attend(alike: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """Each sequence looks at itself.

    Where products are oneDNN's, torch's own attention, which has them from another library, takes twice as long.

    Args:
        alike: Queries and keys, float32 [2, heads, rows, channels].
        values: [heads, rows, channels].

    Returns:
        [rows, heads, channels] in the precision of the values.
    """
    if layout.longest is not None:
        from torch.nn.attention.varlen import varlen_attn  # takes a second, and only cards need it

        queries, keys, values = (one.transpose(0, 1) for one in (*alike.to(values.dtype), values))
        offsets, longest = layout.packing.offsets, layout.longest
        seen = varlen_attn(queries, keys, values, offsets, offsets, longest, longest, scale=1.0)
        assert isinstance(seen, Tensor)  # noqa: S101 - nothing else was asked for
        return seen
    return _attend_in_turn(alike, values, layout.packing.spans)


def _attend_in_turn(alike: Tensor, values: Tensor, spans: Sequence[slice]) -> Tensor:
    heads, rows, channels = values.shape
    out = values.new_empty(rows, heads, channels)
    if is_packed(values.device, values.dtype, "many"):
        values = values.contiguous()
        for span in spans:
            for head in range(heads):
                out[span, head] = _seen(alike[0, head, span], alike[1, head, span], values[head, span])
        return out
    queries, keys = alike.to(values.dtype).unsqueeze(1)
    for span in spans:
        own = values[None, :, span]
        seen = F.scaled_dot_product_attention(queries[:, :, span], keys[:, :, span], own, scale=1.0)
        out[span] = seen[0].transpose(0, 1)
    return out


def _seen(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One head of one sequence: [n, channels] of each -> the same."""
    weights = product(queries, keys)
    torch.softmax(weights, 1, out=weights)
    return product(weights.to(values.dtype), values.t())
