"""A batch of F5-TTS or E2-TTS: the conditions of each sequence, and what is computed of them once for all steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engines.f5.net.attention import AttentionMetadata
from engines.torch.packing import ConvPadding


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the network is given of one sequence; named as the arguments of `f5_tts.model.cfm.CFM.sample`.

    Attributes:
        cond: Mel spectrogram of the reference recording, float32 (n, n_mels), n up to `duration`: the sequence begins
            with it and the network fills in the rest.
        text: Token ids of the reference transcript and the text to speak, int64 (text_len,).
        duration: Frames of the whole sequence, reference included.
    """

    cond: Tensor
    text: Tensor
    duration: int


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A packed batch with all that does not change from one ODE step to the next.

    With classifier-free guidance the batch has every sequence twice: first all conditional ones, then all unconditional
    ones.

    Attributes:
        metadata: Of the transformer's tokens; those of a UNetT include a time token before each sequence.
        frame_ids: Indices of the frames among the transformer's tokens, int64 (frames,); None if all are frames.
        conv_padding: Of the frames, for `ConvPositionEmbedding`.
        projected_cond: Share of `cond` and `text` in the input projection, float32 (frames, dim).
        passes: 2 with classifier-free guidance, else 1.
    """

    metadata: AttentionMetadata
    frame_ids: Tensor | None
    conv_padding: ConvPadding
    projected_cond: Tensor
    passes: int

    @property
    def graph_key(self) -> tuple[int, ...]:
        """All that a recorded CUDA graph depends on, apart from the contents of `graph_inputs`."""
        packing = self.metadata.packing
        return packing.total, len(packing.spans), self.metadata.max_seqlen or 0, self.metadata.pe_attn_head, self.passes

    @property
    def graph_inputs(self) -> list[Tensor]:
        """The tensors that differ between batches of the same key."""
        packing, padding = self.metadata.packing, self.conv_padding
        indices = [packing.cu_seqlens, self.metadata.freqs_cis, padding.output_ids, padding.input_ids]
        return [self.projected_cond, *indices, *([] if self.frame_ids is None else [self.frame_ids])]
