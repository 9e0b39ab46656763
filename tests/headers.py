"""Model files for tests: headers like real ones, and zeros."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from engines import xtts_layout
from engines.tensors import Entry

Shapes = Mapping[str, tuple[int, ...]]
TONE: Shapes = {"tone": (1,)}
"""Of a model that no engine of voicespool's knows; the test engine `tuned` speaks with it."""
F5: Shapes = {
    "transformer.text_embed.text_embed.weight": (2, 1),
    "transformer.input_embed.proj.weight": (1024, 1),
    "transformer.transformer_blocks.0.attn_norm.linear.weight": (1, 1),
}
"""Enough of F5-TTS to be recognised."""


def xtts(words: int = 16, width: int = 64) -> Shapes:
    """All of XTTS-v2, one layer deep."""
    known = {
        "gpt.text_embedding.weight": (words, width),
        "gpt.mel_embedding.weight": (1026, width),
        "gpt.gpt.h.0.ln_1.weight": (width,),
        "gpt.text_pos_embedding.emb.weight": (8, width),
        "gpt.mel_pos_embedding.emb.weight": (8, width),
    }
    return xtts_layout.expected({name: Entry("float32", shape, 0, 0) for name, shape in known.items()})


def save(path: Path, shapes: Shapes = TONE, **said: object) -> Path:
    """Write zeros of these shapes as safetensors, by one rename; keywords go to the metadata, as JSON unless text.

    The zeros take no room on a disk that can leave them out.
    """
    header: dict[str, object] = {}
    if said:
        header["__metadata__"] = {key: it if isinstance(it, str) else json.dumps(it) for key, it in said.items()}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.scratch")
    scratch.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(scratch, 8 + len(head) + end)
    os.rename(scratch, path)
    return path
