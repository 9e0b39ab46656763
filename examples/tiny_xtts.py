"""Builds an XTTS-v2 model of random weights: tiny for tests and the demo, full size for benchmarks.

Its audio is noise. Everything else is real: the files, their names and keys, the code that loads and runs them.

    python examples/tiny_xtts.py models/tiny            23 M parameters, 90 MB, loads in 0.5 s
    python examples/tiny_xtts.py --full models/full     the sizes of XTTS-v2, 1.8 GB
"""

from __future__ import annotations

import argparse
import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "es", "fr", "de", "it", "pt", "pl", "tr", "ru", "nl", "cs", "ar", "zh-cn", "hu", "ko", "ja", "hi")
AUDIO_TOKENS = 1026
STOP_TOKEN = AUDIO_TOKENS - 1
HIDDEN = 2.5  # root mean square of the last layer's output, in a full-size model with these weights


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes that decide a model's cost and the length of its audio.

    Attributes:
        layers, channels, heads: Of the GPT.
        text_rows: Rows of the text embedding.
        longest: Most audio tokens of one chunk (46 ms each).
        stop_bias: Added to the logit of the stop token: with random weights alone, a sentence would never end.
        stop_growth: Added to it with every token, so that sentences end, at different lengths.
    """

    layers: int
    channels: int
    heads: int
    text_rows: int
    longest: int
    stop_bias: float
    stop_growth: float = 0.0


TINY = Size(layers=2, channels=64, heads=2, text_rows=160, longest=40, stop_bias=1.0)
FULL = Size(layers=30, channels=1024, heads=16, text_rows=6681, longest=602, stop_bias=0.0, stop_growth=0.05)


def build(folder: Path, size: Size = TINY, seed: int = 0) -> Path:
    """Write a model folder as published: model.pth, config.json, vocab.json, speakers_xtts.pth.

    Needs the `xtts` extra. The same arguments give the same weights.

    Returns:
        The checkpoint, `folder/model.pth`.
    """
    from engines.device import runtime

    runtime.quiet()
    runtime.prepare_torchaudio()
    import torch
    from TTS.tts.models.xtts import Xtts

    from engines.torch.weights import SkipInit

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(size.text_rows), ensure_ascii=False), encoding="utf-8")
    config = configuration(size)
    config.save_json(str(folder / "config.json"))
    with SkipInit():
        model = Xtts(config)
    generator = torch.Generator().manual_seed(seed)
    state = {name: _filled(name, tensor, generator) for name, tensor in model.state_dict().items()}
    state["gpt.mel_head.bias"][STOP_TOKEN] += size.stop_bias
    if size.stop_growth:
        _let_sentences_end(state, size.stop_growth, generator)
    torch.save({"config": config.to_dict(), "model": state}, folder / "model.pth")
    speakers = {
        name: {
            "gpt_cond_latent": torch.randn(1, 32, size.channels, generator=generator),
            "speaker_embedding": torch.nn.functional.normalize(torch.randn(1, 512, 1, generator=generator), dim=1),
        }
        for name in ("Ana Florence", "Viktor Eka")
    }
    torch.save(speakers, folder / "speakers_xtts.pth")
    return folder / "model.pth"


def configuration(size: Size) -> Any:
    """The library's `XttsConfig` for a size."""
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig

    arguments = XttsArgs(
        gpt_layers=size.layers,
        gpt_n_model_channels=size.channels,
        gpt_n_heads=size.heads,
        decoder_input_dim=size.channels,
        gpt_number_text_tokens=size.text_rows,
        gpt_max_audio_tokens=size.longest + 3,
        gpt_num_audio_tokens=AUDIO_TOKENS,
        gpt_start_audio_token=AUDIO_TOKENS - 2,
        gpt_stop_audio_token=STOP_TOKEN,
        gpt_start_text_token=3,
        gpt_stop_text_token=0,
        gpt_use_perceiver_resampler=True,
    )
    return XttsConfig(model_args=arguments, temperature=0.75, repetition_penalty=5.0)


def vocabulary(rows: int) -> dict[str, Any]:
    """A byte-pair vocabulary in the format of `tokenizers`: one token for each character, no merges, filled up with
    tokens that never occur.
    """
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", *(f"[{language}]" for language in LANGUAGES)]
    letters = string.ascii_lowercase + string.digits + ".,;:!?'-¿¡áàâãäåæçéèêëíìîïñóòôõöøœúùûüýßąćęłńśźżčďěňřšťůžğış"
    tokens = [*special, *dict.fromkeys(letters)]
    tokens += [f"unused {number}" for number in range(len(tokens), rows)]
    added = [
        {
            "id": number, "content": token, "special": True,
            "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        }
        for number, token in enumerate(special)
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)}, "merges": [],
        },
    }  # fmt: skip


def _filled(name: str, like: Any, generator: Any) -> Any:
    """Random values of a size that keeps signals alive through all layers."""
    import torch

    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    if name.endswith((".fb", ".window", "torch_spec.0.filter")):
        return like  # computed, not learned
    if name.endswith(("running_var", "original0", "mel_stats", "gamma")):
        return torch.ones(like.shape)
    if like.ndim < 2:
        is_scale = name.endswith("weight")  # of a normalisation
        return torch.ones(like.shape) if is_scale else torch.randn(like.shape, generator=generator) * 0.02
    fan_in = like.shape[0] if ".gpt.h." in name else like[0].numel()
    gain = {"gpt.mel_head.weight": 1.0, "gpt.mel_embedding.weight": 4.0}.get(name, 0.7)
    return torch.randn(like.shape, generator=generator) * (gain / max(1, fan_in) ** 0.5)


def _let_sentences_end(state: dict[str, Any], growth: float, generator: Any) -> None:
    """One direction of the hidden states says how many tokens there are already, and the stop token listens to it."""
    import torch

    places, head = state["gpt.mel_pos_embedding.emb.weight"], state["gpt.mel_head.weight"]
    direction = torch.nn.functional.normalize(torch.randn(places.shape[1], generator=generator), dim=0)
    told = 0.1  # of what a hidden state measures at the end of the layers, in each channel
    places += told * HIDDEN * torch.arange(len(places))[:, None] * direction
    head[STOP_TOKEN] += growth / told * direction


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="the sizes of the real model")
    arguments = parser.parse_args()
    print(build(arguments.folder, FULL if arguments.full else TINY))
