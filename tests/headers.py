"""Model files for tests: real headers, and zeros for weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engines.checkpoints import f5_layout, xtts_layout
from engines.checkpoints.f5_layout import Sizes
from engines.modelfiles.tensors import Entry
from tests import model_files

Shapes = Mapping[str, tuple[int, ...]]
TONE: Shapes = {"tone": (1,)}
"""Of a model that no engine of voicespool's knows; the test engine `tuned` speaks with it."""
DIT = Sizes("dit", 64, 2, 1, 2, 32, 1)
UNETT = Sizes("unett", 64, 2, 1, 4, 100, 0)
LIBRARY_SYMBOLS = 2545


def flow(sizes: Sizes | str = DIT, symbols: int = LIBRARY_SYMBOLS, prefix: str = "") -> Shapes:
    """The tensors of an F5-TTS or E2-TTS, in published sizes (`F5-TTS Base`) or others."""
    known = f5_layout.PUBLISHED[sizes] if isinstance(sizes, str) else sizes
    return {f"{prefix}{name}": shape for name, shape in f5_layout.expected(replace(known, vocabulary=symbols)).items()}


def library_folder() -> Path:
    """The folder of f5-tts, which is not imported."""
    package = find_spec("f5_tts")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0])


EMA: Shapes = {"initted": (), "step": ()}
"""What ema_pytorch keeps beside the average."""
F5 = flow()
"""A whole F5-TTS, two layers deep, with as many symbols as the library's own vocabulary."""


def xtts(words: int = 16, width: int = 64) -> Shapes:
    """The tensors of an XTTS-v2 with one layer."""
    known = {
        "gpt.text_embedding.weight": (words, width),
        "gpt.mel_embedding.weight": (1026, width),
        "gpt.gpt.h.0.ln_1.weight": (width,),
        "gpt.text_pos_embedding.emb.weight": (8, width),
        "gpt.mel_pos_embedding.emb.weight": (8, width),
    }
    return xtts_layout.expected({name: Entry("float32", shape, 0, 0) for name, shape in known.items()})


def xtts_vocabulary(words: int = 16) -> str:
    """A matching vocab.json."""
    return json.dumps({"model": {"vocab": {str(number): number for number in range(words)}}})


_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "F8_E4M3": 1, "I8": 1, "I64": 8, "BOOL": 1}
_KINDS_OF_EMA = {"initted": "BOOL", "step": "I64"}


def save(path: Path, shapes: Shapes = TONE, kind: str = "F32", **metadata: object) -> Path:
    """Write zeros of these shapes as safetensors, by one rename; keywords go to the metadata, as JSON unless text.

    On a file system with sparse files the zeros take no space.
    """
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = {key: it if isinstance(it, str) else json.dumps(it) for key, it in metadata.items()}
    end = 0
    for name, shape in shapes.items():
        own = _KINDS_OF_EMA.get(name, kind)
        start, end = end, end + _ITEM_BYTES[own] * math.prod(shape)
        header[name] = {"dtype": own, "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.scratch")
    scratch.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(scratch, 8 + len(head) + end)
    os.rename(scratch, path)
    return path


def save_torch(path: Path, state: Mapping[str, Any], kind: str = "Float") -> Path:
    """Write zeros as `torch.save` does: dictionaries of shapes, numbers and strings; all tensors share one record.

    Args:
        state: Tuples are the shapes of tensors.
        kind: Type of the tensors, as torch names its storages.
    """
    listing, count = _pickled(state, kind, 0)
    item = {"Float": 4, "Half": 2, "BFloat16": 2, "Double": 8}[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    records = {"data.pkl": b"\x80\x02" + listing + b".", "byteorder": b"little", "version": b"3\n"}
    return model_files.sparse_zip(path, records, "data/0", item * count)


def _pickled(part: Any, kind: str, start: int) -> tuple[bytes, int]:
    """Pickle instructions for an object whose first tensor begins at an element, and where the next would begin."""
    if isinstance(part, tuple):
        stride = tuple(math.prod(part[n + 1 :]) for n in range(len(part)))
        return model_files.tensor(kind, "0", start, part, stride), start + math.prod(part)
    if not isinstance(part, Mapping):
        return (model_files.text(part) if isinstance(part, str) else model_files.number(part)), start
    written = b"}("
    for name, value in part.items():
        own, start = _pickled(value, kind, start)
        written += model_files.text(name) + own
    return written + b"u", start
