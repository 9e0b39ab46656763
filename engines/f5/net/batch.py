"""A batch of sounds to be made: what is known of each, and what is computed of that once for all steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engines.f5.net.attention import Layout
from engines.torch.packing import Gapped


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of a sound before it is made.

    Attributes:
        mel: float32 [n, n_mels]: its beginning, the recording; at most `frames` of it.
        symbols: The text, that of the recording first: int64 [t], numbers of symbols in the vocabulary.
        frames: Length of the whole.
    """

    mel: Tensor
    symbols: Tensor
    frames: int


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A batch, with all that stays as it is while noise becomes sound.

    Attributes:
        layout: How the rows of the layers lie; where there is guidance, those without text and recording come after all
            others.
        inner: Which of those are frames, int64; None for all of them.
        placing: How the frames lie for the convolutions by which they know their places.
        fixed: The part of the input that is not noise, float32 [frames, dim].
        passes: 2 with guidance, else 1.
    """

    layout: Layout
    inner: Tensor | None
    placing: Gapped
    fixed: Tensor
    passes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """All on which the work depends besides what `tensors` hold, where attention is within all at once."""
        rows = self.layout.packing
        return rows.rows, len(rows.spans), self.layout.longest or 0, self.layout.heads, self.passes

    @property
    def tensors(self) -> list[Tensor]:
        """All that differs between batches of one shape."""
        inner = [] if self.inner is None else [self.inner]
        lie = self.layout.packing.offsets, self.layout.turns, self.placing.inner, self.placing.outer
        return [self.fixed, *lie, *inner]
