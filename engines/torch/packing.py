"""Sequences of different length laid end to end, so that a batch of them has no padding at all.

What works on each row alone (matrices, norms) runs over all rows at once. Attention looks at one sequence at a time.
Convolutions get rows of zeros between the sequences, what they would see beyond the end of each one alone. So a batch
gives what its sequences give one by one, and costs no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class Packing:
    """How sequences lie in a table of rows.

    Args:
        lengths: Of each sequence, 1 or more rows.

    Attributes:
        lengths: As given.
        spans: The rows of each sequence.
        rows: Of all together.
        longest: Rows of the longest sequence.
        positions: Of each row in its sequence, int64 [rows].
        offsets: The first row of each sequence, and one behind the last, int32 [sequences + 1].
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        ends = list(accumulate(lengths))
        self.lengths = list(lengths)
        self.spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        self.rows, self.longest = ends[-1], max(lengths)
        self.positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        self.offsets = torch.tensor([0, *ends], dtype=torch.int32, device=device)
        self._numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)

    def gapped(self, gap: int) -> Gapped:
        """The layout for a convolution that looks `gap` rows to each side."""
        return Gapped(self, self._numbers, gap)


class Gapped:
    """The same rows, with `gap` rows of zeros before, between and after the sequences.

    Attributes:
        inner: Where a convolution leaves the result for each row, int64 [rows].
        outer: Where it looks for each row, int64 [rows].
    """

    def __init__(self, packing: Packing, numbers: Tensor, gap: int) -> None:
        own = torch.arange(packing.rows, device=numbers.device)
        self.inner = own + gap * numbers
        self.outer = self.inner + gap
        self._rows = packing.rows + gap * (len(packing.spans) + 1)

    def open(self, x: Tensor) -> Tensor:
        """[rows, channels] -> [rows + gaps, channels]."""
        return x.new_zeros(self._rows, x.shape[1]).index_copy_(0, self.outer, x)

    def close(self, x: Tensor) -> Tensor:
        """What an unpadded convolution made of it, [rows + gaps - 2 gap, channels] -> [rows, channels]."""
        return x.index_select(0, self.inner)
