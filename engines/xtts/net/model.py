"""An XTTS-v2 checkpoint as a model ready to speak: the library's modules, built without random values and filled from
the file, with our decoder and vocoder over them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
from TTS.tts.models.xtts import Xtts as Library

from engines.errors import RequestRefused
from engines.modelfiles.tensors import Entry
from engines.torch import weights
from engines.xtts.net.gpt import Block, Gpt
from engines.xtts.net.hifigan import Vocoder

_INFERENCE = (
    "temperature", "length_penalty", "repetition_penalty", "top_k", "top_p",
    "gpt_cond_len", "gpt_cond_chunk_len", "max_ref_len", "sound_norm_refs",
)  # fmt: skip


_DIGIT = re.compile(r"\d(?=\d)")


@dataclass(frozen=True, slots=True)
class XttsFiles:
    """What a model is made of.

    Attributes:
        checkpoint: The weights.
        tensors: Its entries by the model's names.
        config: config.json, or None for XTTS-v2's own values.
        vocab: vocab.json.
        adapter: A LoRA adapter to merge, with its entries.
    """

    checkpoint: Path
    tensors: Mapping[str, Entry]
    config: Path | None
    vocab: Path
    adapter: tuple[Path, Mapping[str, Entry]] | None = None


class XttsModel:
    """A loaded checkpoint.

    Attributes:
        gpt, vocoder: Ours.
        library: The library's model, for the tokenizer, the latents of recordings and the search with beams.
        defaults: What its config.json says of inference, by the library's names.
        rate_hz: Of the audio.
    """

    def __init__(self, files: XttsFiles, device: str, dtype: torch.dtype) -> None:
        """Load.

        Raises:
            RequestRefused: the files do not belong together, or hold what is no model.
        """
        self._files = files
        self._config = _config(files)
        self._adapter = weights.Adapter(*files.adapter, files.tensors) if files.adapter is not None else None
        self._searcher: Any = None
        self.library = _empty(self._config, files.vocab, layers=0)
        weights.assign(self.library, files.checkpoint, files.tensors, _float32)
        self.library.to(device).eval()
        self.gpt = Gpt(self.library.gpt, list(self._blocks(device, dtype)))
        self.vocoder = Vocoder(self.library.hifigan_decoder, dtype)
        del self.library.hifigan_decoder.waveform_decoder
        self.defaults = {name: getattr(self._config, name) for name in _INFERENCE}
        self.rate_hz = self.vocoder.rate_hz

    def _blocks(self, device: str, dtype: torch.dtype) -> Iterator[Block]:
        """The layers of the GPT."""
        for number in range(self._config.model_args.gpt_layers):
            layer = f"gpt.gpt.h.{number}."
            entries = {name: entry for name, entry in self._files.tensors.items() if name.startswith(layer)}
            read = weights.checked(self._files.checkpoint, entries)
            yield Block.of({name.removeprefix(layer): self._adapted(name, one) for name, one in read}, device, dtype)

    def _adapted(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self._adapter is None else self._adapter.merged(name, tensor)

    def tokens(self, text: str, language: str) -> Tensor:
        """Text as the library reads it: int64 [t].

        A number that the library can't write out in a language is read digit by digit, or as the digits themselves.
        """
        text, tokenizer = text.strip().lower(), self.library.tokenizer
        for reading in (text, _DIGIT.sub(r"\g<0> ", text)):
            with contextlib.suppress(Exception):  # of many kinds, in num2words
                return torch.tensor(tokenizer.encode(reading, lang=language), dtype=torch.long)
        plain = f"[{'zh-cn' if language == 'zh' else language}]{text}".replace(" ", "[SPACE]")
        return torch.tensor(tokenizer.tokenizer.encode(plain).ids, dtype=torch.long)

    @property
    def speaker_width(self) -> int:
        """Of a speaker embedding, [1, width, 1]."""
        return int(self.library.args.d_vector_dim)

    @property
    def most_tokens(self) -> int:
        """A text must have fewer."""
        return int(self.library.args.gpt_max_text_tokens)

    def ears(self) -> str:
        """A digest of the weights that listen to recordings: what a voice's latents follow from."""
        listening = (self.library.gpt.conditioning_encoder, self.library.gpt.conditioning_perceiver,
                     self.library.hifigan_decoder.speaker_encoder)  # fmt: skip
        digest = hashlib.blake2b(self.library.mel_stats.cpu().numpy().tobytes())
        for module in listening:
            for tensor in module.state_dict().values():
                digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()

    @torch.inference_mode()
    def search(self, tokens: Tensor, voice: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
        """The library's beam search in float32, and its second pass for the latents: float32 [n, channels]."""
        if self._searcher is None:
            self._searcher = self._whole_gpt()
        gpt, device = self._searcher, self.library.device
        text, voice = tokens.unsqueeze(0).to(device), voice.to(device)
        names = ("temperature", "top_k", "top_p", "repetition_penalty", "length_penalty", "num_beams", "do_sample")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            codes = gpt.generate(voice, text, **{name: settings[name] for name in names})
        text_size = torch.tensor([text.shape[1]], device=device)
        size = torch.tensor([codes.shape[1] * gpt.code_stride_len], device=device)
        latents: Tensor = gpt(text, text_size, codes, size, cond_latents=voice, return_latent=True)
        return latents[0]

    def _whole_gpt(self) -> Any:
        """The library's own GPT with its layers, which are read again: only the search with beams needs them."""
        whole = _empty(self._config, self._files.vocab, self._config.model_args.gpt_layers).gpt
        entries = {name.removeprefix("gpt."): entry for name, entry in self._files.tensors.items()}
        weights.assign(whole, self._files.checkpoint, entries, _float32)
        for name, weight in whole.named_parameters():
            weight.data = self._adapted(f"gpt.{name}", weight.data)
        whole.to(self.library.device).eval().init_gpt_for_inference()
        return whole

    @torch.inference_mode()
    def latents(self, recordings: list[tuple[Tensor, int]], settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What the model hears in recordings: conditioning latents [1, 32, channels], speaker embedding [1, d, 1].

        The library's `get_conditioning_latents`, which reads files by itself and needs FFmpeg for that; here they are
        samples already.

        Args:
            recordings: Each float32 [channels, n], with its rate in Hz.
            settings: gpt_cond_len, gpt_cond_chunk_len, max_ref_len (seconds) and sound_norm_refs.
        """
        import torchaudio

        rate_hz = 22050
        heard, embeddings = [], []
        for samples, own_hz in recordings:
            audio = samples.mean(0, keepdim=True) if len(samples) > 1 else samples
            audio = torchaudio.functional.resample(audio, own_hz, rate_hz) if own_hz != rate_hz else audio
            audio = audio.clip(-1, 1)[:, : rate_hz * int(settings["max_ref_len"])].to(self.library.device)
            if settings["sound_norm_refs"]:
                audio = audio / audio.abs().max() * 0.75
            embeddings.append(self.library.get_speaker_embedding(audio, rate_hz))
            heard.append(audio)
        conditioning = self.library.get_gpt_cond_latents(
            torch.cat(heard, -1), rate_hz, int(settings["gpt_cond_len"]), int(settings["gpt_cond_chunk_len"])
        )
        return conditioning.float(), torch.stack(embeddings).mean(0).float()


def _float32(_name: str) -> torch.dtype:
    """What is not in the layers: norms, embeddings and what listens to recordings cost next to nothing."""
    return torch.float32


def _empty(config: XttsConfig, vocab: Path, layers: int) -> Any:
    config = copy.deepcopy(config)
    config.model_args.gpt_layers = layers
    with weights.Unfilled():
        model = Library(config)
    try:
        model.tokenizer = VoiceBpeTokenizer(vocab_file=vocab)
        known = model.tokenizer.get_number_tokens()
        marks = [model.tokenizer.tokenizer.token_to_id(mark) for mark in ("[START]", "[STOP]")]
    except Exception as error:  # noqa: BLE001 - the tokenizer's library raises plain Exception
        raise RequestRefused(f"{vocab.name} is no vocabulary ({error})", _ITS_VOCAB) from None
    rows = config.model_args.gpt_number_text_tokens
    if known != rows:
        raise RequestRefused(f"{vocab} has {known} tokens and the checkpoint was made for {rows}", _ITS_VOCAB)
    if None in marks:
        raise RequestRefused(f"{vocab} has no [START] or [STOP]", _ITS_VOCAB)
    model.gpt.start_text_token, model.gpt.stop_text_token = marks
    return model


_ITS_VOCAB = "Use the vocab.json that the model was trained with."


def _config(files: XttsFiles) -> XttsConfig:
    """The library's configuration: from config.json what it says, from the tensors' shapes what they say."""
    said = _read(files.config) if files.config is not None else _PUBLISHED
    shapes = {name: entry.shape for name, entry in files.tensors.items()}
    rows, channels = shapes["gpt.mel_embedding.weight"]
    given = {
        "gpt_n_heads": _heads(_known(XttsArgs, said.get("model_args")), channels),
        "gpt_number_text_tokens": shapes["gpt.text_embedding.weight"][0],
        "gpt_n_model_channels": channels,
        "gpt_layers": sum(name.startswith("gpt.gpt.h.") and name.endswith(".ln_1.weight") for name in shapes),
        "gpt_num_audio_tokens": rows,
        "gpt_start_audio_token": rows - 2,
        "gpt_stop_audio_token": rows - 1,
        "gpt_max_audio_tokens": shapes["gpt.mel_pos_embedding.emb.weight"][0] - 3,
        "gpt_max_text_tokens": shapes["gpt.text_pos_embedding.emb.weight"][0] - 2,
        "decoder_input_dim": shapes["hifigan_decoder.waveform_decoder.conv_pre.weight"][1],
        "gpt_use_perceiver_resampler": True,
        "gpt_batch_size": 1,
        "tokenizer_file": "",
    }
    config = XttsConfig(model_args=XttsArgs(**given))
    for name, value in _known(XttsConfig, said).items():
        if name in (*_INFERENCE, "languages"):
            setattr(config, name, value)
    return config


def _heads(said: Mapping[str, Any], channels: int) -> int:
    """Heads of attention, the one size of the GPT that no tensor tells.

    Args:
        said: `model_args` of config.json.

    Raises:
        RequestRefused: they do not divide the channels; or it speaks of another kind of model.
    """
    for name, value in _FIXED.items():
        if said.get(name, value) != value:
            raise RequestRefused(f"config.json says {name}: {said[name]!r:.40}; in XTTS-v2 it is {value}", _ITS_CONFIG)
    heads = said.get("gpt_n_heads", XttsArgs().gpt_n_heads)
    if heads not in range(1, channels + 1) or channels % heads:
        raise RequestRefused(
            f"config.json says gpt_n_heads: {heads!r:.40}, and the model has {channels} channels", _ITS_CONFIG
        )
    return int(heads)


_ITS_CONFIG = "Put the config.json that it was trained with beside the checkpoint."
_FIXED = {"input_sample_rate": 22050, "output_sample_rate": 24000, "output_hop_length": 256,
          "gpt_code_stride_len": 1024, "d_vector_dim": 512}  # fmt: skip

_PUBLISHED: Mapping[str, Any] = {
    "temperature": 0.75, "length_penalty": 1.0, "repetition_penalty": 5.0, "top_k": 50, "top_p": 0.85,
    "gpt_cond_len": 30, "gpt_cond_chunk_len": 4, "max_ref_len": 30, "sound_norm_refs": False,
}  # fmt: skip
"""What config.json of XTTS-v2 says; the library's own defaults are others."""


def _read(config: Path) -> Mapping[str, Any]:
    try:
        said = weights.json_in(config)
        if not isinstance(said, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise RequestRefused(f"{config} can't be read ({error})", "Copy it again from the training run.") from None
    return said


def _known(kind: Any, said: object) -> dict[str, Any]:
    """What a configuration says that the library knows by this name, of the kind that it expects there.

    Trainers write more into it than inference knows.
    """
    fields = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}
    given = said if isinstance(said, dict) else {}
    return {name: value for name, value in given.items() if name in fields and _fits(value, fields[name])}


def _fits(value: object, default: object) -> bool:
    if default is None or isinstance(default, bool):
        return default is None or isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default))
