"""Text as the symbols that F5-TTS and E2-TTS were trained with: characters, and pinyin for Chinese."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
_CLOSING = "\"'”’»›)]」』）"


class Symbols:
    """A model's vocabulary.

    Args:
        numbers: Symbol -> number.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers, self._front_end = numbers, _front_end()

    def read(self, text: str) -> Tensor:
        """A text as numbers, int64 [t]; what the model does not know is 0, as in f5-tts."""
        return torch.tensor([self._numbers.get(symbol, 0) for symbol in self._split(text)], dtype=torch.long)

    def unknown(self, text: str) -> list[str]:
        """Characters and syllables of a text that the model has no symbol for, each once."""
        return list(dict.fromkeys(symbol for symbol in self._split(text) if symbol not in self._numbers))

    def _split(self, text: str) -> list[str]:
        return self._front_end([text])[0]


@cache
def _front_end() -> Callable[[list[str]], list[list[str]]]:
    """The library's own, which does what the training did.

    It is taken from its file: importing the package around it brings a trainer and its 4,000 modules, in 5 s.
    """
    package = cast(ModuleSpec, find_spec("f5_tts"))
    folder = next(iter(cast(Sequence[str], package.submodule_search_locations)))
    spec = cast(ModuleSpec, spec_from_file_location("f5_tts_front_end", Path(folder) / "model/utils.py"))
    module = module_from_spec(spec)
    cast(Loader, spec.loader).exec_module(module)
    return cast(Callable[[list[str]], list[list[str]]], module.convert_char_to_pinyin)


def closed(transcript: str) -> str:
    """A transcript that ends as a sentence does, and what follows can begin: f5-tts runs both texts together."""
    transcript = transcript.strip()
    if not transcript.rstrip(_CLOSING).endswith(_SENTENCE_ENDS):  # no second full stop behind a closing quote
        transcript += "."
    return transcript if ord(transcript.rstrip(_CLOSING)[-1]) > 0x2E80 else f"{transcript} "
