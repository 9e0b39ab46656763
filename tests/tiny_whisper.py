"""A tiny Whisper that always gives the same transcript: real modules, a real vocabulary, and weights set by hand.

Every layer passes on what it gets, and every place of the text has the next letter of a given sentence as its
embedding, so that decoding spells it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.f5_models import prepare

LANGUAGES = ("en", "pt")


def build(folder: Path, says: str) -> Path:
    """Write a model into a new folder, as `save_pretrained` does; its transcript has at most 90 bytes."""
    prepare()
    import torch
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    whisper: Any = transformers
    special = [
        "<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), "<|transcribe|>",
        "<|translate|>", "<|notimestamps|>",
    ]  # fmt: skip
    vocab = {symbol: number for number, symbol in enumerate([*sorted(ByteLevel.alphabet()), *special])}
    end, start, _en, spoken, task, _translate, untimed = (vocab[name] for name in special)
    letters, splitter = [], ByteLevel(add_prefix_space=False, use_regex=False)
    for word, _span in splitter.pre_tokenize_str(says):
        letters += [vocab[letter] for letter in word]
    size = 4 * -(-len(vocab) // 4)
    config = whisper.WhisperConfig(
        vocab_size=size, d_model=size, num_mel_bins=80, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=8, decoder_ffn_dim=8, max_target_positions=100, pad_token_id=end,
        bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    model = whisper.WhisperForConditionalGeneration(config)
    with torch.no_grad():
        decoder = model.model.decoder
        for layer in decoder.layers:
            for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                last.weight.zero_()
                last.bias.zero_()
        decoder.embed_tokens.weight.copy_(torch.eye(size))
        tokens = [spoken, task, untimed, *letters, end]
        decoder.embed_positions.weight.zero_()
        for place, number in enumerate(tokens):
            decoder.embed_positions.weight[place, number] = 10.0
    model.generation_config = whisper.GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, bos_token_id=end, max_length=100,
        is_multilingual=True, lang_to_id={f"<|{code}|>": vocab[f"<|{code}|>"] for code in LANGUAGES},
        task_to_id={"transcribe": task, "translate": task + 1}, no_timestamps_token_id=untimed,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer = whisper.WhisperTokenizer(vocab=vocab, merges=[], additional_special_tokens=special[1:])
    whisper.WhisperProcessor(whisper.WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder
