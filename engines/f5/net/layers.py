"""The transformers of F5-TTS (DiT, arXiv 2212.09748) and E2-TTS (UNetT, arXiv 2406.18009), between input and output
projection.

The residual stream and all norms are float32; matrices are in the precision asked for. All tokens of a batch are at the
same time of the ODE, so the AdaLN modulation is one vector for all of them: the scale and shift become weight and bias
of the layer norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import Sizes
from engines.f5.net.attention import Attention, AttentionMetadata
from engines.torch.linear import Linear
from engines.torch.source import WeightSource

_LAYER_NORM_EPS = 1e-6
_RMS_NORM_EPS = 1e-24  # only avoids a division by zero: x_transformers' RMSNorm divides by max(norm, 1e-12)
_ADALN_CHUNKS = 6  # shift, scale and gate of attention, then of the feed-forward network


class Transformer(Protocol):
    """All blocks of a model, from the input embedding to `norm_out`.

    Attributes:
        time_tokens: Tokens before the frames of each sequence: 1 if the time is a token, 0 if it modulates the norms.
    """

    time_tokens: int

    def time_conditioning(self, time_embed: Tensor) -> Tensor:
        """Time embeddings (steps, dim) -> what the blocks need of each of them, float32 (steps, n, dim)."""

    def __call__(self, x: Tensor, metadata: AttentionMetadata, time_cond: Tensor) -> Tensor:
        """float32 (total, dim) and the conditioning of one time (n, dim) -> (total, dim); x may be overwritten."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Attention and feed-forward network of one block; norms and residual connections differ between DiT and UNetT.

    Same as `f5_tts.model.modules.Attention` and `f5_tts.model.modules.FeedForward` (with `approximate="tanh"`).
    """

    attention: Attention
    ff_in: Linear
    ff_out: Linear

    @classmethod
    def of(cls, source: WeightSource, attention: str, feed_forward: str, sizes: Sizes) -> _Block:
        """From tensors named `{attention}.to_q.weight`, `{feed_forward}.ff.0.0.weight` and so on."""
        ff = source.within(f"{feed_forward}.ff.")
        return cls(Attention(source.within(f"{attention}."), sizes), ff.linear("0.0", "tanh"), ff.linear("2"))

    def attend(self, normed: Tensor, metadata: AttentionMetadata) -> Tensor:
        """float32 (total, dim) -> (total, dim) in the precision of the weights."""
        return self.attention(normed.to(self.ff_in.dtype), metadata)

    def feed_forward(self, normed: Tensor) -> Tensor:
        """float32 (total, dim) -> (total, ff_mult * dim) -> (total, dim) in the precision of the weights."""
        return self.ff_out(self.ff_in(normed.to(self.ff_in.dtype)))


# --- DiT -------------------------------------------------------------------------------------------------------------


class DiT:
    """Same as `f5_tts.model.backbones.dit.DiT` from `transformer_blocks` to `norm_out`, on packed sequences; compared
    in `tests/unit/engines/f5/net/test_model.py`.

    The modulation weights are two fifths of the model and are needed once for a schedule of times: they stay in CPU
    memory, whatever the device.
    """

    time_tokens = 0

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        blocks = [source.within(f"transformer_blocks.{n}.") for n in range(sizes.depth)]
        self._blocks = [_Block.of(block, "attn", "ff", sizes) for block in blocks]
        self._attn_norms = [_Modulation(block.within("attn_norm.")) for block in blocks]
        self._norm_out = _Modulation(source.within("norm_out."))
        self._long_skip = source.linear("long_skip_connection") if sizes.long_skip_connection else None

    def time_conditioning(self, time_embed: Tensor) -> Tensor:
        """AdaLN modulation of all blocks: (steps, dim) -> (steps, 6 * depth + 2, dim).

        Six vectors for each block (shift, 1 + scale, gate of attention, the same of the feed-forward network), then
        shift and 1 + scale of `norm_out`.
        """
        time_embed = F.silu(time_embed)
        blocks = torch.stack([norm(time_embed, _ADALN_CHUNKS) for norm in self._attn_norms], 1)
        blocks[:, :, 1::3] += 1  # blocks (steps, depth, 6, dim); the scales are at 1 and 4
        # AdaLayerNorm_Final has scale before shift: each (steps, dim)
        scale, shift = self._norm_out(time_embed, 2).unbind(1)
        norm_out = torch.stack([shift, 1 + scale], 1)  # (steps, 2, dim)
        return torch.cat([blocks.flatten(1, 2), norm_out], 1)  # (steps, 6 * depth + 2, dim)

    def __call__(self, x: Tensor, metadata: AttentionMetadata, time_cond: Tensor) -> Tensor:
        """Overwrites x."""
        skip = None if self._long_skip is None else x.clone()  # (total, dim)
        *modulations, norm_out = torch.split(time_cond, _ADALN_CHUNKS)  # depth times (6, dim), then (2, dim)
        for block, modulation in zip(self._blocks, modulations, strict=True):
            shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation  # each (dim,)
            x.addcmul_(block.attend(_layer_norm(x, scale_msa, shift_msa), metadata), gate_msa)
            x.addcmul_(block.feed_forward(_layer_norm(x, scale_mlp, shift_mlp)), gate_mlp)
        if self._long_skip is not None and skip is not None:
            # (total, 2 dim) -> (total, dim)
            x = self._long_skip(torch.cat([x, skip], 1).to(self._long_skip.dtype)).float()
        shift, scale = norm_out
        return _layer_norm(x, scale, shift)


class _Modulation:
    """The linear layer of `f5_tts.model.modules.AdaLayerNorm` and `AdaLayerNorm_Final`: time -> shift, scale, gate.

    Its weights stay in CPU memory and are copied to the device for each use; until the first one they are a view of the
    mapped file, as those of `Linear` are.
    """

    def __init__(self, source: WeightSource) -> None:
        self._weight, self._dtype = source.read("linear.weight"), source.dtype  # (chunks * dim, dim)
        self._bias = source.kept("linear.bias")
        self._is_own = False

    def __call__(self, time_embed: Tensor, chunks: int) -> Tensor:
        """float32 (steps, dim) -> (steps, chunks, dim)."""
        if not self._is_own:
            self._weight, self._is_own = self._weight.to(self._dtype, copy=True), True
        modulation = F.linear(time_embed, self._weight.to(time_embed.device).float(), self._bias)
        return modulation.view(len(time_embed), chunks, -1)  # (steps, chunks * dim) -> (steps, chunks, dim)


def _layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(x) * scale + shift over the channels: (total, dim) -> (total, dim)."""
    return F.layer_norm(x, x.shape[1:], scale, shift, _LAYER_NORM_EPS)


# --- UNetT -----------------------------------------------------------------------------------------------------------


class UNetT:
    """Same as `f5_tts.model.backbones.unett.UNetT` from its layers to `norm_out`, with `skip_connect_type="concat"`, on
    packed sequences; compared in `tests/unit/engines/f5/net/test_model.py`.

    The time embedding is the first token of each sequence. The second half of the layers gets the inputs of the first
    half in reverse order, by skip connections.
    """

    time_tokens = 1

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self._half = sizes.depth // 2
        layers = [source.within(f"layers.{n}.") for n in range(sizes.depth)]
        # The library's ModuleList of a layer: 0 skip projection, 1 and 3 norms, 2 attention, 4 feed-forward network.
        self._blocks = [_Block.of(layer, "2", "4", sizes) for layer in layers]
        self._norms = [(layer.kept("1.g"), layer.kept("3.g")) for layer in layers]
        self._skip_projs = [layer.linear("0") for layer in layers[self._half :]]
        self._norm_out = source.kept("norm_out.g")

    def time_conditioning(self, time_embed: Tensor) -> Tensor:
        """The time token: (steps, dim) -> (steps, 1, dim)."""
        return time_embed.unsqueeze(1)

    def __call__(self, x: Tensor, metadata: AttentionMetadata, time_cond: Tensor) -> Tensor:
        """Overwrites the time tokens of x."""
        x[metadata.packing.cu_seqlens[:-1]] = time_cond  # the first token of each sequence; (1, dim) is broadcast
        skips: list[Tensor] = []
        for n, (block, (attn_norm, ff_norm)) in enumerate(zip(self._blocks, self._norms, strict=True)):
            if n < self._half:
                skips.append(x)
            else:
                skip_proj = self._skip_projs[n - self._half]
                # (total, 2 dim) -> (total, dim)
                x = skip_proj(torch.cat([x, skips.pop()], 1).to(skip_proj.dtype)).float()
            x = x + block.attend(_rms_norm(x, attn_norm), metadata)  # a new tensor: skips has the old one
            x += block.feed_forward(_rms_norm(x, ff_norm))
        return _rms_norm(x, self._norm_out)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Same as `x_transformers.RMSNorm`: (total, dim) -> (total, dim)."""
    return F.rms_norm(x, x.shape[1:], weight, _RMS_NORM_EPS)
