"""Text as the symbols that F5-TTS and E2-TTS were trained with: characters, and pinyin for Chinese."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")


class Symbols:
    """A model's vocabulary.

    Args:
        numbers: Symbol -> number.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers = numbers

    def read(self, text: str) -> Tensor:
        """A text as numbers, int64 [t]; what the model does not know is 0, as in f5-tts."""
        return torch.tensor([self._numbers.get(symbol, 0) for symbol in _split(text)], dtype=torch.long)

    def unknown(self, text: str) -> str:
        """The characters of a text that the model has no symbol for, each once."""
        return "".join(dict.fromkeys(symbol for symbol in _split(text) if symbol not in self._numbers))


def _split(text: str) -> list[str]:
    """The library's own front-end: it needs jieba and pypinyin, and knows what the training did."""
    from f5_tts.model.utils import convert_char_to_pinyin

    symbols: list[str] = convert_char_to_pinyin([text])[0]
    return symbols


def closed(transcript: str) -> str:
    """A transcript that ends as a sentence does, and what follows can begin: f5-tts runs both texts together."""
    transcript = transcript.strip()
    if not transcript.endswith(_SENTENCE_ENDS):
        transcript += "."
    return transcript if ord(transcript[-1]) > 0x2E80 else f"{transcript} "
