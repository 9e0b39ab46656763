"""Text embedding of F5-TTS and E2-TTS: one token per frame, filler tokens up to the length of the audio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import Flags
from engines.torch.convnext import ConvNeXtBlock
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

_MAX_POS = {"dit": 8192, "unett": 4096}  # frames with a position of their own; those after them share the last one
_THETA = 10_000.0
_FILLER = 0  # token id; the vocabulary's ids are shifted by one


class TextEmbedding:
    """Same as `TextEmbedding` of `f5_tts.model.backbones.dit` or `unett`, on packed sequences, in float32; compared in
    `tests/unit/engines/f5/net/test_model.py`.

    Args:
        source: Its tensors, `text_embed` and `text_blocks`.
    """

    def __init__(self, source: WeightSource, sizes: Sizes) -> None:
        self._text_embed = source.kept("text_embed.weight")  # (vocabulary + 1, text_dim)
        self._text_blocks = [ConvNeXtBlock(source.within(f"text_blocks.{n}.")) for n in range(sizes.conv_layers)]
        self._max_pos = _MAX_POS[sizes.family]

    def __call__(self, texts: Sequence[Tensor], packing: Packing, flags: Flags, *, drop_text: bool = False) -> Tensor:
        """Embed the texts of a batch.

        Args:
            texts: Token ids of each sequence, int64 (text_len,); cut where they are longer than the audio.
            packing: Of the frames of each sequence.
            flags: Whether fillers are masked, and whether text is stretched to the length of the audio.
            drop_text: Fillers only: the unconditional pass of classifier-free guidance.

        Returns:
            float32 (total, text_dim).
        """
        cut = [text[:length] + 1 for text, length in zip(texts, packing.lengths, strict=True)]
        padded = [F.pad(text, (0, length - len(text))) for text, length in zip(cut, packing.lengths, strict=True)]
        token_ids = torch.cat(padded).to(self._text_embed.device)  # (total,)
        is_filler = (token_ids == _FILLER).unsqueeze(1)  # (total, 1)
        # The mask is that of the text even if it is dropped, as in the library.
        x = self._text_embed[torch.zeros_like(token_ids) if drop_text else token_ids]  # (total, text_dim)
        if self._text_blocks:
            x = self._encode(x, packing, is_filler if flags.text_mask_padding else None)
        return _average_upsampled(x, packing, [len(text) for text in cut]) if flags.average_upsampling else x

    def _encode(self, x: Tensor, packing: Packing, is_filler: Tensor | None) -> Tensor:
        """Absolute positions and ConvNeXt V2 blocks: (total, text_dim) -> (total, text_dim).

        Without a mask (v0) the embedding of the fillers spreads into the text through the convolutions. This is why a
        text must be convolved at the length of its own audio, and not at that of the longest in the batch.
        """
        x = _masked(x + self._sinusoidal(packing.position_ids), is_filler)
        for block in self._text_blocks:
            x = _masked(block(x, packing), is_filler)
        return x

    def _sinusoidal(self, position_ids: Tensor) -> Tensor:
        """Same as `f5_tts.model.modules.precompute_freqs_cis`: cosines, then sines, (total,) -> (total, text_dim)."""
        dim = self._text_embed.shape[1]
        exponents = torch.arange(0, dim, 2, device=position_ids.device)[: dim // 2].float() / dim  # (text_dim / 2,)
        freqs = torch.outer(position_ids.clamp(max=self._max_pos - 1).float(), 1 / _THETA**exponents)
        return torch.cat([freqs.cos(), freqs.sin()], 1)  # twice (total, text_dim / 2) -> (total, text_dim)


def _average_upsampled(x: Tensor, packing: Packing, text_lengths: Sequence[int]) -> Tensor:
    """Same as `TextEmbedding.average_upsample_text_by_mask`: each token is repeated to fill the frames evenly.

    If the frames are no multiple of the tokens, the last tokens get one frame more.
    """
    upsampled = torch.zeros_like(x)  # (total, text_dim)
    for span, frames, text_len in zip(packing.spans, packing.lengths, text_lengths, strict=True):
        if text_len:
            repeats = torch.full((text_len,), frames // text_len)
            repeats[text_len - frames % text_len :] += 1
            # (text_len, text_dim) -> (frames, text_dim)
            upsampled[span] = x[span][:text_len].repeat_interleave(repeats.to(x.device), dim=0)
    return upsampled


def _masked(x: Tensor, is_filler: Tensor | None) -> Tensor:
    return x if is_filler is None else x.masked_fill(is_filler, 0.0)
