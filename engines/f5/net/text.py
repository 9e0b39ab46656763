"""Text as F5-TTS and E2-TTS see it: a symbol for each of the first frames, filled up to the length of the sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import Flags
from engines.torch.convnext import ConvNext
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

_PLACES = {"dit": 8192, "unett": 4096}  # frames whose place a symbol knows; those behind share the last one
_BASE = 10_000.0


class TextEmbedding:
    """The library's `TextEmbedding`, of `DiT` or `UNetT`, in float32.

    What fills a text up is a symbol too: in v0 it spreads into the text through the convolutions, which therefore see
    each text at the length of its own sound.

    Args:
        source: Its tensors.
    """

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self._table = source.kept("text_embed.weight")
        self._blocks = [ConvNext(source.within(f"text_blocks.{number}.")) for number in range(sizes.conv_layers)]
        self._most_places = _PLACES[sizes.family]

    def __call__(self, texts: Sequence[Tensor], packing: Packing, flags: Flags, *, is_dropped: bool = False) -> Tensor:
        """Embed texts.

        Args:
            texts: Of each sequence, the numbers of its symbols, int64 [t]; what is longer than the sound is cut.
            packing: The frames of each.
            is_dropped: Whether to say nothing at all, as guidance asks for.

        Returns:
            [rows, text_dim].
        """
        lengths = [span.stop - span.start for span in packing.spans]
        cut = [text[:length] + 1 for text, length in zip(texts, lengths, strict=True)]
        rows = [F.pad(text, (0, length - len(text))) for text, length in zip(cut, lengths, strict=True)]
        symbols = torch.cat(rows).to(self._table.device)
        filling = (symbols == 0).unsqueeze(1)
        x = self._table[torch.zeros_like(symbols) if is_dropped else symbols]
        if self._blocks:
            x = self._modelled(x, packing, filling if flags.text_mask_padding else None)
        return self._stretched(x, packing, [len(text) for text in cut]) if flags.average_upsampling else x

    def _modelled(self, x: Tensor, packing: Packing, filling: Tensor | None) -> Tensor:
        x = _blanked(x + self._places(packing.positions), filling)
        for block in self._blocks:
            x = _blanked(block(x, packing), filling)
        return x

    def _places(self, positions: Tensor) -> Tensor:
        """Cosines and sines of each place, [rows, text_dim]."""
        width = self._table.shape[1]
        speeds = 1 / _BASE ** (torch.arange(0, width, 2, device=positions.device)[: width // 2].float() / width)
        angles = torch.outer(positions.clamp(max=self._most_places - 1).float(), speeds)
        return torch.cat([angles.cos(), angles.sin()], 1)

    def _stretched(self, x: Tensor, packing: Packing, lengths: Sequence[int]) -> Tensor:
        """Each symbol for as many frames as any other; where that is uneven, the last ones a frame longer."""
        stretched = torch.zeros_like(x)
        for span, length in zip(packing.spans, lengths, strict=True):
            if length:
                frames = span.stop - span.start
                times = torch.full((length,), frames // length)
                times[length - frames % length :] += 1
                stretched[span] = x[span][:length].repeat_interleave(times.to(x.device), dim=0)
        return stretched


def _blanked(x: Tensor, filling: Tensor | None) -> Tensor:
    return x if filling is None else x.masked_fill(filling, 0.0)
