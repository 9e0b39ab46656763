"""Loading an XTTS-v2 checkpoint (Casanova et al. 2024, arXiv 2406.04904).

The modules of coqui-tts are built without initialisation and get their weights from the file. The tokenizer and the
encoders of recordings are used as they are; the GPT's layers and the vocoder are replaced by ours.
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
from TTS.tts.models.xtts import Xtts as LibraryXtts

from engines.errors import RequestRefused
from engines.modelfiles.tensors import Entry
from engines.torch import weights
from engines.xtts.net.gpt import Block, Gpt
from engines.xtts.net.hifigan import HifiGan

_REFERENCE_RATE_HZ = 22050  # what `Xtts.get_conditioning_latents` resamples recordings to

# The settings of inference in config.json.
_INFERENCE = (
    "temperature", "length_penalty", "repetition_penalty", "top_k", "top_p",
    "gpt_cond_len", "gpt_cond_chunk_len", "max_ref_len", "sound_norm_refs",
)  # fmt: skip

_DIGIT = re.compile(r"\d(?=\d)")  # one that another digit follows


@dataclass(frozen=True, slots=True)
class XttsFiles:
    """The files of a model.

    Attributes:
        checkpoint: The weights.
        tensors: Its tensors, by their names in the state dict of coqui-tts's `Xtts`.
        config: config.json, or None for the values of the published XTTS-v2.
        vocab: vocab.json, the BPE vocabulary.
        adapter: A LoRA adapter to merge, with its tensors; or None.
    """

    checkpoint: Path
    tensors: Mapping[str, Entry]
    config: Path | None
    vocab: Path
    adapter: tuple[Path, Mapping[str, Entry]] | None = None


class XttsModel:
    """A loaded checkpoint: `TTS.tts.models.xtts.Xtts` with a GPT and a vocoder for batches.

    Checked against it in tests/unit/engines/xtts/net/test_model.py.

    Args:
        files: Of the model.
        device: `cpu`, `cuda:N` or `mps`.
        dtype: Precision of the GPT's matrices and of most of the vocoder.

    Attributes:
        gpt: Generates audio codes and latents.
        vocoder: Latents to waveforms.
        library: The `Xtts` of coqui-tts without the layers of its GPT and without its vocoder, in float32.
        defaults: The inference settings of config.json, by its names.
        rate_hz: Sample rate of the vocoder.

    Raises:
        RequestRefused: a file can't be read, holds no such model, or does not fit the others.
    """

    def __init__(self, files: XttsFiles, device: str, dtype: torch.dtype) -> None:
        self._files = files
        self._config = _config(files)
        self._adapter = weights.LoraAdapter(*files.adapter, files.tensors) if files.adapter is not None else None
        self._library_gpt: Any = None
        # No layers: ours are read one by one below, so there are never two copies of them in memory.
        self.library = _empty(self._config, files.vocab, layers=0)
        weights.assign(self.library, files.checkpoint, files.tensors, _float32)
        self.library.to(device).eval()
        self.gpt = Gpt(self.library.gpt, list(self._blocks(device, dtype)))
        self.vocoder = HifiGan(self.library.hifigan_decoder, dtype)
        del self.library.hifigan_decoder.waveform_decoder
        self.defaults = {name: getattr(self._config, name) for name in _INFERENCE}
        self.rate_hz = self.vocoder.rate_hz

    def _blocks(self, device: str, dtype: torch.dtype) -> Iterator[Block]:
        """Read the layers of the GPT, one after the other."""
        for number in range(self._config.model_args.gpt_layers):
            prefix = f"gpt.gpt.h.{number}."
            entries = {name: entry for name, entry in self._files.tensors.items() if name.startswith(prefix)}
            tensors = weights.checked(self._files.checkpoint, entries)
            state = {name.removeprefix(prefix): self._with_adapter(name, tensor) for name, tensor in tensors}
            yield Block.from_state_dict(state, device, dtype)

    def _with_adapter(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self._adapter is None else self._adapter.merge(name, tensor)

    def tokenize(self, text: str, language: str) -> Tensor:
        """Tokenize with text normalisation, as `Xtts.inference` does.

        If the tokenizer of coqui-tts can't write out a number in this language, the digits are read one by one, or
        left as they are.

        Args:
            text: Any text.
            language: One of XTTS's tags, for example `pt`; `zh` for Chinese.

        Returns:
            int64 [t], without start and stop tokens.
        """
        text, tokenizer = text.strip().lower(), self.library.tokenizer
        for attempt in (text, _DIGIT.sub(r"\g<0> ", text)):
            with contextlib.suppress(Exception):  # num2words raises many kinds
                return torch.tensor(tokenizer.encode(attempt, lang=language), dtype=torch.long)
        # What `VoiceBpeTokenizer.encode` does, without its normalisation.
        plain = f"[{'zh-cn' if language == 'zh' else language}]{text}".replace(" ", "[SPACE]")
        return torch.tensor(tokenizer.tokenizer.encode(plain).ids, dtype=torch.long)

    @property
    def d_vector_dim(self) -> int:
        """Size of a speaker embedding, [1, d_vector_dim, 1]."""
        return int(self.library.args.d_vector_dim)

    @property
    def max_text_tokens(self) -> int:
        """Exclusive bound on the number of text tokens."""
        return int(self.library.args.gpt_max_text_tokens)

    def encoder_digest(self) -> str:
        """Digest of the weights that compute latents from recordings: conditioning encoder, perceiver resampler,
        speaker encoder. Models with the same digest compute the same latents.
        """
        encoders = (self.library.gpt.conditioning_encoder, self.library.gpt.conditioning_perceiver,
                    self.library.hifigan_decoder.speaker_encoder)  # fmt: skip
        digest = hashlib.blake2b(self.library.mel_stats.cpu().numpy().tobytes())
        for module in encoders:
            for tensor in module.state_dict().values():
                digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()

    @torch.inference_mode()
    def beam_search(
        self, text_tokens: Tensor, gpt_cond_latent: Tensor, settings: Mapping[str, Any], seed: int
    ) -> Tensor:
        """Generate one sequence with the beam search of transformers, as `Xtts.inference` does, in float32.

        Args:
            text_tokens: int64 [t], from `tokenize`.
            gpt_cond_latent: float32 [1, 32, model_dim].
            settings: `num_beams` and the sampling settings, by transformers's names.
            seed: Of torch's random generator, which is restored afterwards.

        Returns:
            GPT latents, float32 [n, model_dim].
        """
        if self._library_gpt is None:
            self._library_gpt = self._load_library_gpt()
        gpt, device = self._library_gpt, self.library.device
        text, gpt_cond_latent = text_tokens.unsqueeze(0).to(device), gpt_cond_latent.to(device)  # (t,) -> (1, t)
        names = ("temperature", "top_k", "top_p", "repetition_penalty", "length_penalty", "num_beams", "do_sample")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            codes = gpt.generate(gpt_cond_latent, text, **{name: settings[name] for name in names})  # (1, n)
        # A second pass over the whole sequence: `generate` does not return the hidden states.
        text_len = torch.tensor([text.shape[1]], device=device)
        wav_len = torch.tensor([codes.shape[1] * gpt.code_stride_len], device=device)
        latents: Tensor = gpt(text, text_len, codes, wav_len, cond_latents=gpt_cond_latent, return_latent=True)
        return latents[0]  # (1, n, model_dim) -> (n, model_dim)

    def _load_library_gpt(self) -> Any:
        """Load coqui-tts's own GPT with its layers, a second time: only beam search needs it, and few jobs do."""
        gpt = _empty(self._config, self._files.vocab, self._config.model_args.gpt_layers).gpt
        entries = {name.removeprefix("gpt."): entry for name, entry in self._files.tensors.items()}
        weights.assign(gpt, self._files.checkpoint, entries, _float32)
        for name, weight in gpt.named_parameters():
            weight.data = self._with_adapter(f"gpt.{name}", weight.data)
        gpt.to(self.library.device).eval().init_gpt_for_inference()
        return gpt

    @torch.inference_mode()
    def get_conditioning_latents(
        self, recordings: list[tuple[Tensor, int]], settings: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Compute a voice from recordings, with the same result as `Xtts.get_conditioning_latents`.

        The library's method takes files, and needs FFmpeg to read them; this one takes samples.

        Args:
            recordings: Each float32 [audio channels, samples], with its sample rate in Hz.
            settings: gpt_cond_len, gpt_cond_chunk_len, max_ref_len (seconds) and sound_norm_refs.

        Returns:
            gpt_cond_latent, float32 [1, 32, model_dim]; speaker_embedding, float32 [1, d_vector_dim, 1].
        """
        import torchaudio

        rate_hz = _REFERENCE_RATE_HZ
        audios, embeddings = [], []
        for samples, own_hz in recordings:
            audio = samples.mean(0, keepdim=True) if len(samples) > 1 else samples  # (1, samples)
            audio = torchaudio.functional.resample(audio, own_hz, rate_hz) if own_hz != rate_hz else audio
            audio = audio.clip(-1, 1)[:, : rate_hz * int(settings["max_ref_len"])].to(self.library.device)
            if settings["sound_norm_refs"]:
                audio = audio / audio.abs().max() * 0.75
            embeddings.append(self.library.get_speaker_embedding(audio, rate_hz))
            audios.append(audio)
        # The conditioning latents are those of all recordings end to end, the speaker embedding is their mean.
        gpt_cond_latent = self.library.get_gpt_cond_latents(
            torch.cat(audios, -1),  # (1, samples of all)
            rate_hz, int(settings["gpt_cond_len"]), int(settings["gpt_cond_chunk_len"]),
        )  # fmt: skip
        # recordings x (1, d_vector_dim, 1) -> (recordings, 1, d_vector_dim, 1) -> (1, d_vector_dim, 1)
        return gpt_cond_latent.float(), torch.stack(embeddings).mean(0).float()


def _float32(_name: str) -> torch.dtype:
    """Precision of everything outside the layers: embeddings, norms and encoders take little memory and time."""
    return torch.float32


def _empty(config: XttsConfig, vocab: Path, layers: int) -> Any:
    """Build an `Xtts` without values, with the tokenizer and the given number of GPT layers."""
    config = copy.deepcopy(config)
    config.model_args.gpt_layers = layers
    with weights.SkipInit():
        model = LibraryXtts(config)
    try:
        model.tokenizer = VoiceBpeTokenizer(vocab_file=vocab)
        vocab_size = model.tokenizer.get_number_tokens()
        start_and_stop = [model.tokenizer.tokenizer.token_to_id(token) for token in ("[START]", "[STOP]")]
    except Exception as error:  # noqa: BLE001 - the tokenizer's library raises plain Exception
        raise RequestRefused(f"{vocab.name} is no vocabulary ({error})", _ITS_VOCAB) from None
    expected = config.model_args.gpt_number_text_tokens
    if vocab_size != expected:
        raise RequestRefused(f"{vocab} has {vocab_size} tokens and the checkpoint was made for {expected}", _ITS_VOCAB)
    if None in start_and_stop:
        raise RequestRefused(f"{vocab} has no [START] or [STOP]", _ITS_VOCAB)
    # As `Xtts.init_models` does. The library's own defaults are not those of the published vocab.json.
    model.gpt.start_text_token, model.gpt.stop_text_token = start_and_stop
    return model


_ITS_VOCAB = "Use the vocab.json that the model was trained with."


def _config(files: XttsFiles) -> XttsConfig:
    """Make coqui-tts's configuration: sizes from the tensors' shapes, the rest from config.json.

    A config.json copied from another model therefore does no harm.
    """
    json_config = _read(files.config) if files.config is not None else _PUBLISHED
    shapes = {name: entry.shape for name, entry in files.tensors.items()}
    num_audio_tokens, model_dim = shapes["gpt.mel_embedding.weight"]
    sizes = {
        "gpt_n_heads": _n_heads(_known(XttsArgs, json_config.get("model_args")), model_dim),
        "gpt_number_text_tokens": shapes["gpt.text_embedding.weight"][0],
        "gpt_n_model_channels": model_dim,
        "gpt_layers": sum(name.startswith("gpt.gpt.h.") and name.endswith(".ln_1.weight") for name in shapes),
        "gpt_num_audio_tokens": num_audio_tokens,
        "gpt_start_audio_token": num_audio_tokens - 2,
        "gpt_stop_audio_token": num_audio_tokens - 1,
        # The position embeddings of `GPT` have 3 rows more for audio codes, and 2 more for text.
        "gpt_max_audio_tokens": shapes["gpt.mel_pos_embedding.emb.weight"][0] - 3,
        "gpt_max_text_tokens": shapes["gpt.text_pos_embedding.emb.weight"][0] - 2,
        "decoder_input_dim": shapes["hifigan_decoder.waveform_decoder.conv_pre.weight"][1],
        "gpt_use_perceiver_resampler": True,
        "gpt_batch_size": 1,
        "tokenizer_file": "",
    }
    config = XttsConfig(model_args=XttsArgs(**sizes))
    for name, value in _known(XttsConfig, json_config).items():
        if name in (*_INFERENCE, "languages"):
            setattr(config, name, value)
    return config


def _n_heads(model_args: Mapping[str, Any], model_dim: int) -> int:
    """Number of attention heads, the one size of the GPT that no tensor's shape shows.

    Args:
        model_args: Of config.json.
        model_dim: Of the GPT.

    Raises:
        RequestRefused: it does not divide model_dim; or model_args has values that no XTTS-v2 has.
    """
    for name, value in _FIXED.items():
        if model_args.get(name, value) != value:
            raise RequestRefused(
                f"config.json says {name}: {model_args[name]!r:.40}; in XTTS-v2 it is {value}", _ITS_CONFIG
            )
    n_heads = model_args.get("gpt_n_heads", XttsArgs().gpt_n_heads)
    if n_heads not in range(1, model_dim + 1) or model_dim % n_heads:
        raise RequestRefused(
            f"config.json says gpt_n_heads: {n_heads!r:.40}, and the model has {model_dim} channels", _ITS_CONFIG
        )
    return int(n_heads)


_ITS_CONFIG = "Put the config.json that it was trained with beside the checkpoint."
# The same in every XTTS-v2: audio with other values would have another pitch or tempo, or fill the memory.
_FIXED = {"input_sample_rate": 22050, "output_sample_rate": 24000, "output_hop_length": 256,
          "gpt_code_stride_len": 1024, "d_vector_dim": 512}  # fmt: skip

_PUBLISHED: Mapping[str, Any] = {
    "temperature": 0.75, "length_penalty": 1.0, "repetition_penalty": 5.0, "top_k": 50, "top_p": 0.85,
    "gpt_cond_len": 30, "gpt_cond_chunk_len": 4, "max_ref_len": 30, "sound_norm_refs": False,
}  # fmt: skip
"""The values in config.json of the published XTTS-v2; the defaults of `XttsConfig` differ."""


def _read(config: Path) -> Mapping[str, Any]:
    try:
        content = weights.json_in(config)
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise RequestRefused(f"{config} can't be read ({error})", "Copy it again from the training run.") from None
    return content


def _known(config_class: Any, values: object) -> dict[str, Any]:
    """Keep the values that a configuration class of coqui-tts has a field for, with a value of the field's type.

    Trainers write keys that inference does not know.
    """
    fields = {field.name: getattr(config_class(), field.name) for field in dataclasses.fields(config_class)}
    values = values if isinstance(values, dict) else {}
    return {name: value for name, value in values.items() if name in fields and _is_like(value, fields[name])}


def _is_like(value: object, default: object) -> bool:
    # bool is a subclass of int in Python: it is looked at first.
    if default is None or isinstance(default, bool):
        return default is None or isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default))
