"""Packed (variable-length) sequences: a batch without padding, as FlashAttention's `varlen` functions take it.

All sequences of a batch are concatenated along one axis of `total` tokens; a token of F5-TTS or Vocos is one mel frame.
Linear layers and norms run over all tokens at once. Attention is restricted to each sequence by `cu_seqlens`.
Convolutions run over a copy with zeros between the sequences, the same zeros that each one alone would be padded with.
So a batch gives the same result as its sequences one by one, and spends nothing on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class Packing:
    """Lengths and offsets of the sequences in a packed batch.

    Args:
        lengths: Tokens of each sequence, each 1 or more.
        device: Where the index tensors are.

    Attributes:
        lengths: As given.
        spans: Slice of each sequence within the `total` tokens.
        total: Tokens of all sequences together.
        max_seqlen: Tokens of the longest sequence.
        position_ids: Position of each token within its sequence, from 0, int64 (total,).
        cu_seqlens: Cumulative lengths as in FlashAttention, from 0 to `total`, int32 (sequences + 1,).
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        ends = list(accumulate(lengths))
        self.lengths = list(lengths)
        self.spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        self.total, self.max_seqlen = ends[-1], max(lengths)
        self.position_ids = torch.cat([torch.arange(length) for length in lengths]).to(device)  # (total,)
        self.cu_seqlens = torch.tensor([0, *ends], dtype=torch.int32, device=device)  # (sequences + 1,)
        sequence_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))  # (total,)
        self._sequence_ids = sequence_ids.to(device)

    def conv_padding(self, padding: int) -> ConvPadding:
        """Indices for a convolution of kernel size `2 * padding + 1`."""
        return ConvPadding(self, self._sequence_ids, padding)


class ConvPadding:
    """The packed tokens with `padding` zeros before, between and after the sequences.

    Two neighbouring sequences share the zeros between them. An unpadded convolution then computes for each token what
    `padding="same"` computes for its sequence alone; what it computes at the zeros is dropped.

    Attributes:
        input_ids: Index of each token in the input of the convolution, int64 (total,).
        output_ids: Index of each token in its output, int64 (total,).
    """

    def __init__(self, packing: Packing, sequence_ids: Tensor, padding: int) -> None:
        token_ids = torch.arange(packing.total, device=sequence_ids.device)  # (total,)
        self.output_ids = token_ids + padding * sequence_ids  # (total,)
        self.input_ids = self.output_ids + padding  # (total,)
        self._padded_total = packing.total + padding * (len(packing.spans) + 1)

    def pad(self, x: Tensor) -> Tensor:
        """(total, channels) -> (total + zeros, channels)."""
        return x.new_zeros(self._padded_total, x.shape[1]).index_copy_(0, self.input_ids, x)

    def unpad(self, x: Tensor) -> Tensor:
        """Output of the convolution, (total + zeros - 2 padding, channels) -> (total, channels)."""
        return x.index_select(0, self.output_ids)
