"""Text to token ids as F5-TTS and E2-TTS were trained with them: characters, and pinyin for Chinese."""

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

_FINAL_PUNCTUATION = (".", "!", "?", "…", "。", "！", "？")
_CLOSING = "\"'”’»›)]」』）"
_FIRST_CJK = 0x2E80  # code point


class Tokenizer:
    """Same as the tokenizer `pinyin` of `f5_tts.model.utils.get_tokenizer`.

    Args:
        vocab_char_map: Symbol -> token id.
    """

    def __init__(self, vocab_char_map: Mapping[str, int]) -> None:
        self._vocab_char_map, self._front_end = vocab_char_map, _front_end()

    def encode(self, text: str) -> Tensor:
        """Token ids of a text, int64 (text_len,); unknown symbols get 0, as in `list_str_to_idx`."""
        return torch.tensor([self._vocab_char_map.get(symbol, 0) for symbol in self._symbols(text)], dtype=torch.long)

    def unknown(self, text: str) -> list[str]:
        """Symbols of a text that the vocabulary lacks, each once."""
        return list(dict.fromkeys(symbol for symbol in self._symbols(text) if symbol not in self._vocab_char_map))

    def _symbols(self, text: str) -> list[str]:
        return self._front_end([text])[0]


@cache
def _front_end() -> Callable[[list[str]], list[list[str]]]:
    """`f5_tts.model.utils.convert_char_to_pinyin`: texts -> symbols of each.

    Loaded from its file, because importing the package also imports the trainer: 4,000 modules, 5 s.
    """
    package = cast(ModuleSpec, find_spec("f5_tts"))
    folder = next(iter(cast(Sequence[str], package.submodule_search_locations)))
    spec = cast(ModuleSpec, spec_from_file_location("f5_tts_front_end", Path(folder) / "model/utils.py"))
    module = module_from_spec(spec)
    cast(Loader, spec.loader).exec_module(module)
    return cast(Callable[[list[str]], list[list[str]]], module.convert_char_to_pinyin)


def prompt_text(transcript: str) -> str:
    """A transcript as the beginning of the text, to which the text to speak is appended.

    A full stop is added if final punctuation is missing, and a space unless the last sentence is in an East Asian
    script; compare `f5_tts.infer.utils_infer.preprocess_ref_audio_text`.
    """
    transcript = transcript.strip()
    if not transcript.rstrip(_CLOSING).endswith(_FINAL_PUNCTUATION):  # punctuation before a closing quote counts
        transcript += "."
    return transcript if ord(transcript.rstrip(_CLOSING)[-1]) > _FIRST_CJK else f"{transcript} "
