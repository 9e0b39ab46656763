"""The KV cache of XTTS's GPT: keys and values of each layer, one row per chunk that is being decoded.

Each row starts at position 0 with the conditioning latents, then the text, then the audio codes. There is no left
padding: rows have different lengths, and the attention mask hides what is past a row's end.

Shapes: batch is the rows in a call, seq the new positions of each (queries), cached the positions attended to (keys),
model_dim = heads * head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

VOICES = 16  # whose keys and values are kept, 4 MB each in 16 bits: chunks of several jobs come mixed

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v), each tensor [..., model_dim] -> output before `c_proj`, [..., model_dim]."""


class Transformer(Protocol):
    """The layers whose keys and values are cached: `engines.xtts.net.gpt.Gpt`.

    Attributes:
        heads, model_dim, layers: Sizes.
        device, dtype: Of the cache.
    """

    heads: int
    model_dim: int
    device: torch.device
    dtype: torch.dtype

    @property
    def layers(self) -> int: ...

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """Run all layers, [..., model_dim] -> [..., model_dim]."""


class KVCache:
    """A static cache as `transformers.StaticCache`, but with a length for each row: (rows, heads, max_seq_len,
    head_dim) for the keys and for the values of each layer.

    Args:
        gpt: The layers that read and write it.
        rows: The largest number of chunks at a time; may be 0 until `resize` is called.
        max_seq_len: The largest number of positions of a chunk.
    """

    def __init__(self, gpt: Transformer, rows: int, max_seq_len: int) -> None:
        self.gpt, self.rows, self.max_seq_len = gpt, rows, max_seq_len
        shape = (rows, gpt.heads, max_seq_len, gpt.model_dim // gpt.heads)
        self._layers = [(_zeros(shape, gpt), _zeros(shape, gpt)) for _ in range(gpt.layers)]
        # By identity of the conditioning latents, which are kept too, so that no others can have it.
        self._cond: dict[int, tuple[Tensor, list[tuple[Tensor, Tensor]]]] = {}

    def resize(self, rows: int, max_seq_len: int, active: int, seq_len: int) -> None:
        """Change the size, layer by layer: there are never two whole caches in memory.

        Args:
            rows, max_seq_len: As of the class.
            active: Number of the first rows that are kept; the others become zeros.
            seq_len: Positions of them that are kept.
        """
        shape = (rows, self.gpt.heads, max_seq_len, self.gpt.model_dim // self.gpt.heads)

        def resized(old: Tensor) -> Tensor:
            new = _zeros(shape, self.gpt)
            new[:active, :, :seq_len] = old[:active, :, :seq_len]
            return new

        for layer, (keys, values) in enumerate(self._layers):
            self._layers[layer] = resized(keys), resized(values)
        self.rows, self.max_seq_len = rows, max_seq_len

    def copy_row(self, source: int, target: int, seq_len: int) -> None:
        """Copy the first seq_len positions of a row to another row."""
        for keys, values in self._layers:
            keys[target, :, :seq_len] = keys[source, :, :seq_len]
            values[target, :, :seq_len] = values[source, :, :seq_len]

    def prefill_cond(self, gpt_cond_latent: Tensor, rows: Tensor) -> None:
        """Write the keys and values of conditioning latents to the first positions of rows.

        They are computed once per voice: attention is causal, so they do not depend on the text. Those of the latest
        voices are kept, by identity.

        Args:
            gpt_cond_latent: [1, n, model_dim].
            rows: int64 [batch].
        """
        if id(gpt_cond_latent) not in self._cond:
            # A dict keeps the order of insertion: the oldest voice is the first.
            if len(self._cond) >= VOICES:
                del self._cond[next(iter(self._cond))]
            self._cond[id(gpt_cond_latent)] = gpt_cond_latent, self._computed(gpt_cond_latent)
        _, computed = self._cond[id(gpt_cond_latent)]
        for (keys, values), (cond_keys, cond_values) in zip(self._layers, computed, strict=True):
            # (1, heads, n, head_dim) is broadcast to (batch, heads, n, head_dim)
            keys[rows, :, : gpt_cond_latent.shape[1]] = cond_keys
            values[rows, :, : gpt_cond_latent.shape[1]] = cond_values

    def _computed(self, gpt_cond_latent: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer for conditioning latents, each [1, heads, n, head_dim]."""
        computed: list[tuple[Tensor, Tensor]] = []

        def attention(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (self._split_heads(x) for x in (q, k, v))  # each (1, heads, n, head_dim)
            computed.append((k.clone(), v.clone()))  # they are views of a tensor that has q, too
            return self._merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True))

        self.gpt.forward(gpt_cond_latent.to(self.gpt.device, torch.float32), attention)
        return computed

    def prefill_text(self, x: Tensor, rows: Tensor, cond_len: int) -> Tensor:
        """Run the prompts of rows after their conditioning latents.

        Prompts are padded on the right. A causal mask hides the padding from the prompt's own queries, and decoding
        overwrites its keys and values before the mask reaches them, so no padding mask is needed.

        Args:
            x: Embeddings of the prompts, [batch, seq, model_dim].
            rows: int64 [batch].
            cond_len: Positions already filled.

        Returns:
            Hidden states, [batch, seq, model_dim].
        """
        end = cond_len + x.shape[1]
        # (seq, cached): query i is at position cond_len + i
        is_future = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).triu(cond_len + 1)
        mask = self._additive(is_future)

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._layers[layer]
            keys[rows, :, cond_len:end] = self._split_heads(k)
            values[rows, :, cond_len:end] = self._split_heads(v)
            # (batch, heads, seq, head_dim) attends to (batch, heads, cached, head_dim)
            return self._merge_heads(_attend(self._split_heads(q), keys[rows, :, :end], values[rows, :, :end], mask))

        return self.gpt.forward(x, attention)

    def decode(self, x: Tensor, seq_lens: Tensor, attended: int, first: int = 0) -> Tensor:
        """Run one decoding step of successive rows.

        Args:
            x: Embeddings of the latest token of each row, [batch, model_dim].
            seq_lens: Positions in the cache of each row, int64 [batch]; the token is written at this position.
            attended: Positions to attend to, the same for all rows; more than any row has.
            first: Number of the first row.

        Returns:
            Hidden states, [batch, model_dim].
        """
        batch, end = len(x), first + len(x)
        rows = torch.arange(first, end, device=x.device)
        # Rows that are done may run on for a few steps before they are taken out; they stay inside the cache.
        position = seq_lens.clamp(max=self.max_seq_len - 1)
        # (batch, cached) -> (batch, 1, 1, cached)
        mask = self._additive(torch.arange(attended, device=x.device) > position.unsqueeze(1))[:, None, None, :]

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._layers[layer]
            keys[rows, :, position] = k.view(batch, self.gpt.heads, -1)  # (batch, heads, head_dim)
            values[rows, :, position] = v.view(batch, self.gpt.heads, -1)
            q = q.view(batch, self.gpt.heads, 1, -1)  # (batch, heads, seq=1, head_dim)
            y = _attend(q, keys[first:end, :, :attended], values[first:end, :, :attended], mask)
            return y.reshape(batch, -1)  # (batch, heads, 1, head_dim) -> (batch, model_dim)

        return self.gpt.forward(x, attention)

    def _additive(self, is_hidden: Tensor) -> Tensor:
        """An additive attention mask: -inf where hidden, else 0."""
        mask = torch.zeros(is_hidden.shape, dtype=self.gpt.dtype, device=is_hidden.device)
        return mask.masked_fill_(is_hidden, -torch.inf)

    def _split_heads(self, x: Tensor) -> Tensor:
        # (batch, seq, model_dim) -> (batch, seq, heads, head_dim) -> (batch, heads, seq, head_dim)
        return x.view(*x.shape[:-1], self.gpt.heads, -1).transpose(1, 2)

    def _merge_heads(self, x: Tensor) -> Tensor:
        # (batch, heads, seq, head_dim) -> (batch, seq, heads, head_dim) -> (batch, seq, model_dim)
        return x.transpose(1, 2).flatten(2)


def _zeros(shape: tuple[int, ...], gpt: Transformer) -> Tensor:
    """Allocate a part of the cache. Zeros, because masked positions are multiplied by 0, and 0 * NaN is NaN.

    On a CPU, numpy's zeros are pages that the kernel maps when they are first written: memory is used only for
    positions that a row reaches. `torch.zeros` would write all of them.
    """
    if gpt.device.type != "cpu" or 0 in shape:  # no elements, no strides to view
        return torch.zeros(shape, dtype=gpt.dtype, device=gpt.device)
    raw = np.zeros(math.prod(shape) * gpt.dtype.itemsize, np.uint8)
    return torch.from_numpy(raw).view(gpt.dtype).view(shape)  # (bytes,) -> (elements,) -> (rows, heads, seq, head_dim)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention (arXiv 1706.03762), [batch, heads, seq, head_dim].

    On a CPU it is written out: there the result of `F.scaled_dot_product_attention` in bfloat16 for a row depends on
    how long the other rows are. With k on the left of the product it is also faster, for one query per row: by a third
    in float32, 8 times in bfloat16.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scale: float = q.shape[-1] ** -0.5
    # k @ qT is (batch, heads, cached, seq); transposed, the scores are (batch, heads, seq, cached)
    scores = (k @ q.transpose(2, 3)).transpose(2, 3).float().mul_(scale).add_(mask)
    return scores.softmax(-1).to(v.dtype) @ v
