"""The network of F5-TTS and E2-TTS: predicts the velocity of the flow from noise to mel spectrogram.

Sequences of different length are packed (`packing`). What does not change from one ODE step to the next is computed
once for a batch: text embedding, the share of condition and text in the input projection, rotary embedding. What
depends on time alone (AdaLN modulation) is computed once for a schedule of times.
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
from engines.f5.net.attention import AttentionMetadata, has_varlen_attention, rotary_freqs_cis
from engines.f5.net.batch import Conditions, PreparedBatch
from engines.f5.net.graphs import CudaGraphs, VelocityFunction, padded_for_graphs
from engines.f5.net.layers import DiT, Transformer, UNetT
from engines.f5.net.text import TextEmbedding
from engines.torch.convolution import GroupedConvolution
from engines.torch.linear import Linear
from engines.torch.packing import ConvPadding, Packing
from engines.torch.source import WeightSource

_FREQ_EMBED_DIM, _TIME_SCALE, _THETA = 256, 1000.0, 10_000.0
_CONV_POS_KERNEL = 31
_MAX_SEQLEN_STEP = 512  # max_seqlen is rounded up to a multiple, so that fewer CUDA graphs are needed
_KEPT_SCHEDULES = 2  # 18 MB of AdaLN modulation for 32 steps


class Backbone:
    """Same as `f5_tts.model.backbones.dit.DiT` or `unett.UNetT`, on packed sequences; compared in
    `tests/unit/engines/f5/net/test_model.py` and `test_flow.py`.

    Args:
        source: The model's tensors, by the library's names within `transformer.`.
        sizes: As read from their shapes.
    """

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self.sizes, self.device, self.dtype = sizes, source.device, source.dtype
        float32 = source.in_float32()
        self._time_mlp = float32.linear("time_embed.time_mlp.0"), float32.linear("time_embed.time_mlp.2")
        self._text_embed = TextEmbedding(source.within("text_embed."), sizes)
        self._proj_x, self._proj_cond, self._proj_text = _split_input_proj(float32.within("input_embed."), sizes)
        conv1d = source.within("input_embed.conv_pos_embed.conv1d.")
        self._conv_pos_embed = [_convolution(conv1d.within(f"{n}.")) for n in (0, 2)]
        self._inv_freq = _inv_freq(source, sizes)
        self._transformer: Transformer = DiT(source, sizes) if sizes.family == "dit" else UNetT(source, sizes)
        self._proj_out = float32.linear("proj_out")
        self._has_varlen = has_varlen_attention(self.device, self.dtype, sizes.dim_head)
        self._graphs = CudaGraphs(self.velocity) if self._has_varlen else None
        self.time_conditioning = lru_cache(maxsize=_KEPT_SCHEDULES)(self._time_conditioning)
        """Times, 0 (noise) … 1 (mel) -> float32 (times, n, dim), of which `velocity` takes one (n, dim)."""

    def _time_conditioning(self, times: tuple[float, ...]) -> Tensor:
        """Same as `f5_tts.model.modules.TimestepEmbedding`, then what the transformer makes of it."""
        half_dim = _FREQ_EMBED_DIM // 2
        freqs = torch.exp(torch.arange(half_dim).float() * (-math.log(_THETA) / (half_dim - 1)))  # (half_dim,)
        angles = _TIME_SCALE * torch.outer(torch.tensor(times), freqs)  # (times, half_dim)
        sinusoidal = torch.cat([angles.sin(), angles.cos()], 1).to(self.device)  # (times, 2 half_dim)
        linear_1, linear_2 = self._time_mlp
        return self._transformer.time_conditioning(linear_2(F.silu(linear_1(sinusoidal))))  # of (times, dim)

    def padded_for_graphs(self, batch: Sequence[Conditions], *, use_cfg: bool) -> Sequence[Conditions]:
        """The batch, where CUDA graphs are used with dummy sequences after it up to a size that has a graph."""
        return batch if self._graphs is None else padded_for_graphs(batch, 2 if use_cfg else 1)

    def prepare(self, batch: Sequence[Conditions], flags: Flags, *, use_cfg: bool) -> PreparedBatch:
        """Compute what stays the same for all steps.

        Args:
            batch: 1 or more sequences.
            flags: Of the model's variant.
            use_cfg: Whether to add an unconditional pass, without `cond` and `text`, for classifier-free guidance.
        """
        passes = 2 if use_cfg else 1
        durations = [sequence.duration for sequence in batch]
        conditional, frames = Packing(durations, self.device), Packing(durations * passes, self.device)
        tokens = Packing([length + self._transformer.time_tokens for length in frames.lengths], self.device)
        texts = [sequence.text for sequence in batch]
        # (n, n_mels) -> (duration, n_mels) each, then (frames of one pass, n_mels)
        padded = [F.pad(sequence.cond, (0, 0, 0, sequence.duration - len(sequence.cond))) for sequence in batch]
        cond = torch.cat(padded).to(self.device)
        # Each (frames of one pass, dim); the projection of a cond of zeros is zero.
        projected = [self._proj_cond(cond) + self._proj_text(self._text_embed(texts, conditional, flags))]
        if use_cfg:
            projected.append(self._proj_text(self._text_embed(texts, conditional, flags, drop_text=True)))
        pe_attn_head = self.sizes.heads if flags.pe_attn_head is None else flags.pe_attn_head
        max_seqlen = tokens.max_seqlen + -tokens.max_seqlen % _MAX_SEQLEN_STEP if self._has_varlen else None
        freqs_cis = rotary_freqs_cis(tokens.position_ids, self._inv_freq)
        metadata = AttentionMetadata(tokens, freqs_cis, pe_attn_head, max_seqlen)
        frame_ids = None
        if time_tokens := self._transformer.time_tokens:
            frame_ids = (tokens.position_ids >= time_tokens).nonzero()[:, 0]  # (frames, 1) -> (frames,)
        conv_padding = frames.conv_padding(_CONV_POS_KERNEL // 2)
        return PreparedBatch(metadata, frame_ids, conv_padding, torch.cat(projected), passes)

    def velocity_function(self, prepared: PreparedBatch) -> VelocityFunction:
        """`velocity` of a batch, replayed as a CUDA graph where that is faster."""
        if self._graphs is None:
            return lambda x, time_cond: self.velocity(x, prepared, time_cond)
        return self._graphs.velocity_function(prepared)

    def velocity(self, x: Tensor, prepared: PreparedBatch, time_cond: Tensor) -> Tensor:
        """One evaluation of the network.

        Args:
            x: The noised mels of the batch, float32 (frames of one pass, n_mels).
            prepared: The batch.
            time_cond: Of this time, (n, dim).

        Returns:
            float32 (passes, frames of one pass, n_mels); with classifier-free guidance conditional, then unconditional.
        """
        x = self._proj_x(x).repeat(prepared.passes, 1).add_(prepared.projected_cond)  # (frames, dim)
        x += self._conv_position(x, prepared.conv_padding)
        if prepared.frame_ids is None:
            x = self._transformer(x, prepared.metadata, time_cond)
        else:
            # (frames, dim) -> (tokens, dim) with room for the time tokens, and back
            tokens = x.new_zeros(prepared.metadata.packing.total, x.shape[1]).index_copy_(0, prepared.frame_ids, x)
            x = self._transformer(tokens, prepared.metadata, time_cond)[prepared.frame_ids]
        return self._proj_out(x).view(prepared.passes, -1, self.sizes.n_mels)

    def bytes_for(self, frames: int, *, use_cfg: bool) -> int:
        """Peak memory that a sequence adds to a batch, without the weights.

        Args:
            frames: Its duration.
            use_cfg: Whether there is an unconditional pass.
        """
        sizes, itemsize = self.sizes, self.dtype.itemsize
        attention = sizes.heads * sizes.dim_head * (5 * itemsize + 2 * 4)
        feed_forward = int(sizes.dim * itemsize * (1 + sizes.ff_mult))
        per_token = sizes.dim * (3 * 4 + itemsize) + max(attention, feed_forward)
        per_token += 4 * sizes.dim_head + 4 * 4 * sizes.n_mels
        if sizes.family == "unett":
            per_token += 4 * sizes.dim * sizes.depth // 2  # the skip connections
        # Attention weights of one head in float32, and a copy in half precision; FlashAttention never stores them.
        weights = frames**2 * (4 + itemsize % 4) if self.device.type == "cpu" else 0
        return per_token * (frames + 1) * (2 if use_cfg else 1) + weights

    def _conv_position(self, x: Tensor, padding: ConvPadding) -> Tensor:
        """Same as `f5_tts.model.modules.ConvPositionEmbedding`: (frames, dim) -> (frames, dim)."""
        x = x.to(self.dtype)
        for convolution in self._conv_pos_embed:
            x = F.mish(padding.unpad(convolution(padding.pad(x))))
        return x


def _split_input_proj(source: WeightSource, sizes: Sizes) -> tuple[Linear, Linear, Linear]:
    """`InputEmbedding.proj`, whose input is cat([x, cond, text_embed]), as one matrix for each of the three.

    The last one has the bias.
    """
    columns = [sizes.n_mels, sizes.n_mels, sizes.text_dim]
    # (dim, 2 n_mels + text_dim) -> (dim, n_mels), (dim, n_mels), (dim, text_dim)
    weights = torch.split(source.kept("proj.weight"), columns, 1)
    biases = None, None, source.kept("proj.bias")
    x, cond, text = (Linear(*parameters, source.dtype, "many") for parameters in zip(weights, biases, strict=True))
    return x, cond, text


def _convolution(source: WeightSource) -> GroupedConvolution:
    return GroupedConvolution(source.read("weight").to(source.device, source.dtype), source.kept("bias"))


def _inv_freq(source: WeightSource, sizes: Sizes) -> Tensor:
    """Inverse frequencies of the rotary embedding, float32 (dim_head / 2,); computed if the file has none."""
    if source.has("rotary_embed.inv_freq"):
        return source.kept("rotary_embed.inv_freq")
    exponents = torch.arange(0, sizes.dim_head, 2, device=source.device).float() / sizes.dim_head
    return 1 / _THETA**exponents
