"""Self-attention on packed sequences, with rotary position embedding (RoPE, arXiv 2104.09864).

Three implementations with the same result: FlashAttention's `varlen` kernel on a GPU in half precision, oneDNN matrix
products head by head where they are the faster ones, and `scaled_dot_product_attention` sequence by sequence elsewhere.
"""

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

_QK_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """What all attention layers of a batch share.

    Attributes:
        packing: The sequences; no token attends to another sequence's.
        freqs_cis: Rotary embedding of each token, complex64 (total, dim_head / 2).
        pe_attn_head: How many heads, the first ones, have the rotary embedding.
        max_seqlen: Upper bound of the sequence lengths for FlashAttention; None where it is not used.
    """

    packing: Packing
    freqs_cis: Tensor
    pe_attn_head: int
    max_seqlen: int | None = None


class Attention:
    """Same as `f5_tts.model.modules.Attention` with `AttnProcessor`, on packed sequences; compared through whole models
    in `tests/unit/engines/f5/net/test_model.py`.

    Queries and keys are normalised and rotated in float32, because the softmax amplifies their error; matrix products
    are in the precision of the weights.

    Args:
        source: `to_q`, `to_k`, `to_v`, `to_out.0`, and with `sizes.qk_norm` also `q_norm` and `k_norm`.
    """

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self._heads, self._dim_head = sizes.heads, sizes.dim_head
        # The softmax scale is folded into to_q, or into the norm that follows it.
        scale: float = sizes.dim_head**-0.5
        self._qk_norm = None
        if sizes.qk_norm:
            self._qk_norm = source.kept("q_norm.weight") * scale, source.kept("k_norm.weight")
            scale = 1.0
        self._to_qkv = _fused_qkv(source, scale)
        self._to_out = source.linear("to_out.0")

    def __call__(self, x: Tensor, metadata: AttentionMetadata) -> Tensor:
        """(total, dim) -> (total, dim), both in the precision of the weights."""
        qkv = self._to_qkv(x).view(-1, 3, self._heads, self._dim_head)  # (total, 3, heads, dim_head)
        qkv = qkv.permute(1, 2, 0, 3)  # (3, heads, total, dim_head)
        qk = _to_float32(qkv[:2])  # (2, heads, total, dim_head)
        if self._qk_norm is not None:
            for projected, weight in zip(qk, self._qk_norm, strict=True):
                projected.copy_(F.rms_norm(projected, (self._dim_head,), weight, _QK_NORM_EPS))
        _apply_rotary_(qk[:, : metadata.pe_attn_head], metadata.freqs_cis)
        out = _attend(qk, qkv[2], metadata)  # (total, heads, dim_head)
        return self._to_out(out.flatten(1))  # (total, heads * dim_head) -> (total, dim)


def _fused_qkv(source: WeightSource, q_scale: float) -> Linear:
    """to_q, to_k and to_v as one matrix (3 * heads * dim_head, dim), with to_q scaled."""
    names = ("to_q", "to_k", "to_v")
    weights = [source.read(f"{name}.weight").to(source.device, source.dtype) for name in names]
    weight = torch.cat(weights)  # (3 * heads * dim_head, dim)
    bias = torch.cat([source.kept(f"{name}.bias") for name in names])  # (3 * heads * dim_head,)
    for parameter in (weight, bias):
        parameter[: len(weights[0])] *= q_scale
    return Linear(weight, bias, source.dtype, "many")


# --- rotary embedding ------------------------------------------------------------------------------------------------


def rotary_freqs_cis(position_ids: Tensor, inv_freq: Tensor) -> Tensor:
    """exp(i * position * inv_freq): (total,) and (dim_head / 2,) -> complex64 (total, dim_head / 2)."""
    angles = torch.outer(position_ids.float(), inv_freq)  # (total, dim_head / 2)
    return torch.polar(torch.ones_like(angles), angles)


def _apply_rotary_(x: Tensor, freqs_cis: Tensor) -> None:
    """Rotate neighbouring channels (2i, 2i + 1) of x, float32 (2, heads, total, dim_head), in place.

    Same as `x_transformers.x_transformers.apply_rotary_pos_emb`, which interleaves its pairs in this way too.
    """
    # (2, heads, total, dim_head) -> (2, heads, total, dim_head / 2, 2) -> complex64 (2, heads, total, dim_head / 2)
    pairs = torch.view_as_complex(x.view(*x.shape[:3], freqs_cis.shape[1], 2))
    pairs *= freqs_cis


# --- attention -------------------------------------------------------------------------------------------------------


def has_varlen_attention(device: torch.device, dtype: torch.dtype, dim_head: int) -> bool:
    """Whether torch has FlashAttention (arXiv 2307.08691) for packed sequences in this precision and head size."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or dim_head > 256 or dim_head % 8:
        return False
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _to_float32(qk: Tensor) -> Tensor:
    """(2, heads, total, dim_head) in float32, in the memory order that `_attend` reads fastest.

    oneDNN products want the tokens of a head one after the other; otherwise the order stays that of the projection,
    (total, 2, heads, dim_head).
    """
    if is_packed(qk.device, qk.dtype, "many"):
        return qk.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return qk.float()


def _attend(qk: Tensor, v: Tensor, metadata: AttentionMetadata) -> Tensor:
    """Attention of each sequence to itself; the scale is in the queries already.

    Args:
        qk: Queries and keys, float32 (2, heads, total, dim_head).
        v: (heads, total, dim_head).

    Returns:
        (total, heads, dim_head) in the precision of v.
    """
    if metadata.max_seqlen is not None:
        return _varlen_attention(qk, v, metadata.packing.cu_seqlens, metadata.max_seqlen)
    # oneDNN's products here are twice as fast as torch's own attention, which has its products from another library.
    if is_packed(v.device, v.dtype, "many"):
        return _attention_by_head(qk, v, metadata.packing.spans)
    return _attention_by_sequence(qk, v, metadata.packing.spans)


def _varlen_attention(qk: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """All sequences at once, in the half precision of v."""
    from torch.nn.attention.varlen import varlen_attn  # takes a second to import, and only GPUs need it

    # (heads, total, dim_head) -> (total, heads, dim_head)
    queries, keys, values = (each.transpose(0, 1) for each in (*qk.to(v.dtype), v))
    out = varlen_attn(queries, keys, values, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=1.0)
    assert isinstance(out, Tensor)  # noqa: S101 - a tuple only if log-sum-exp is asked for
    return out  # (total, heads, dim_head)


def _attention_by_head(qk: Tensor, v: Tensor, spans: Sequence[slice]) -> Tensor:
    heads, total, dim_head = v.shape
    out = v.new_empty(total, heads, dim_head)
    v = v.contiguous()
    for span in spans:
        for head in range(heads):
            out[span, head] = _one_head(qk[0, head, span], qk[1, head, span], v[head, span])
    return out


def _one_head(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q kᵀ) v of one head in one sequence: (seq, dim_head) of each -> (seq, dim_head)."""
    weights = product(queries, keys)  # (seq, seq), float32
    torch.softmax(weights, 1, out=weights)
    return product(weights.to(values.dtype), values.t())  # (seq, dim_head)


def _attention_by_sequence(qk: Tensor, v: Tensor, spans: Sequence[slice]) -> Tensor:
    heads, total, dim_head = v.shape
    out = v.new_empty(total, heads, dim_head)
    queries, keys = qk.to(v.dtype).unsqueeze(1)  # each (1, heads, total, dim_head)
    for span in spans:
        values = v[None, :, span]  # (1, heads, seq, dim_head)
        attended = F.scaled_dot_product_attention(queries[:, :, span], keys[:, :, span], values, scale=1.0)
        out[span] = attended[0].transpose(0, 1)  # (heads, seq, dim_head) -> (seq, heads, dim_head)
    return out
