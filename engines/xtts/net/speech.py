"""Rendering chunks with XTTS: voices, tokens, batches as large as memory allows, vocoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engines.base import Chunk
from engines.device import runtime
from engines.errors import RequestRefused
from engines.modelfiles import tensors
from engines.modelfiles.tensors import Entry
from engines.torch import weights
from engines.torch.sampling import SamplingParams
from engines.voices import recordings
from engines.xtts.net.gpt import GptOutput, Utterance
from engines.xtts.net.latents import LatentCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.xtts.net.model import XttsModel

MAX_ROWS = {"cpu": 32, "cuda": 128}  # batch size of the GPT
MEMORY_SHARE = 0.5  # of free memory, for the GPT's batch; the rest is for the vocoder and other processes
VOCODER_ROWS = {"cpu": 1, "cuda": 16}  # batch size of the vocoder; on a CPU more than one gains nothing
MAX_REFERENCE_S = 61.0  # options allow 60 s; one more, so that resampling at the cut does not reach into them
MAX_VOICES = 100  # in memory, 0.13 MB each; each job's recordings have paths of their own, so old ones are dropped

VoiceLatents = tuple[Tensor, Tensor]
"""gpt_cond_latent, float32 [1, 32, model_dim]; speaker_embedding, float32 [1, d_vector_dim, 1]."""


class XttsSpeech:
    """A loaded model with its voices: batches of chunks, with the audio of one `Xtts.inference` call per chunk.

    Checked against it in tests/unit/engines/xtts/net/test_speech.py.

    Args:
        model: The model.
        device: Where it is loaded: `cpu`, `cuda:N` or `mps`.
        speakers: speakers_xtts.pth with the built-in voices, or None.

    Attributes:
        rate_hz: Sample rate of the audio.
    """

    def __init__(self, model: XttsModel, device: str, speakers: Path | None) -> None:
        self._model, self._device, self._speakers = model, device, speakers
        self._device_type = torch.device(device).type
        self._voices: dict[object, VoiceLatents] = {}
        self._latents = LatentCache()
        self._encoder_digest: str | None = None
        self.rate_hz = model.rate_hz

    def speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        """Render chunks.

        Args:
            chunks: Settings that a chunk does not give are the checkpoint's.

        Yields:
            Index of a chunk and its samples, float32 [n], -1 … 1, as soon as it is done, in any order; None as a sign
            of life.

        Raises:
            RequestRefused: a chunk has no voice, or a voice or recording that can't be used.
            OutOfMemory: a single chunk does not fit into the memory of the device.
        """
        with runtime.too_small(f"not even one sentence fits into the memory of {self._device}"):
            yield from self._speak(chunks)

    def _speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        plans = [_Plan(chunk, {**self._model.defaults, **_DEFAULTS, **chunk.settings}) for chunk in chunks]
        for plan in plans:
            plan.voice = self._voice(plan)
            yield None
        beam_searched = [index for index, plan in enumerate(plans) if int(plan.settings["num_beams"]) > 1]
        batched = [index for index in range(len(plans)) if index not in set(beam_searched)]
        yield from self._render_batches(plans, batched)
        for index in beam_searched:
            yield index, self._render_with_beams(plans[index])

    # --- batches

    def _render_batches(self, plans: Sequence[_Plan], indices: Sequence[int]) -> Iterator[tuple[int, Any] | None]:
        """Render chunks; one with too many tokens is several utterances, whose audio is joined."""
        utterances = [utterance for index in indices for utterance in self._utterances(plans[index], index)]
        parts: dict[int, dict[int, Tensor]] = {index: {} for index in indices}
        counts = {index: sum(1 for utterance in utterances if utterance.key[0] == index) for index in indices}
        for outputs in self._generate(utterances):
            yield None
            for (index, part), samples in self._vocode(plans, outputs):
                parts[index][part] = samples
                if len(parts[index]) == counts[index]:
                    done = parts.pop(index)
                    # parts x (samples,) -> (samples of all,)
                    yield index, torch.cat([done[part] for part in sorted(done)]).numpy()

    def _utterances(self, plan: _Plan, index: int) -> list[Utterance]:
        assert plan.voice is not None  # noqa: S101 - speak() sets it
        sampling = SamplingParams.from_settings(plan.settings)
        return [
            Utterance((index, part), text_tokens, plan.voice[0], sampling, (plan.chunk.seed + part) % 2**63)
            for part, text_tokens in enumerate(self._tokenize(plan.chunk.text, plan.chunk.language))
        ]

    def _tokenize(self, text: str, language: str) -> list[Tensor]:
        """Tokenize a text, in parts if it has too many tokens for the model's position embeddings.

        Chunks are short enough by characters, but numbers that are written out can make them longer.
        """
        text_tokens = self._model.tokenize(text, language)
        if len(text_tokens) < self._model.max_text_tokens:
            return [text_tokens]
        middle = len(text) // 2
        space = text.rfind(" ", 0, middle)
        cut = space if space > 0 else middle
        return [*self._tokenize(text[:cut], language), *self._tokenize(text[cut:], language)]

    def _generate(self, utterances: Sequence[Utterance]) -> Iterator[list[GptOutput]]:
        """Run the GPT; when memory runs out, generate the unfinished utterances with half the batch size."""
        left = {utterance.key: utterance for utterance in utterances}
        rows = self._fitting_rows(utterances)
        is_last_try = False
        while left:
            try:
                for outputs in self._model.gpt.generate(list(left.values()), rows):
                    for output in outputs:
                        del left[output.key]
                    yield outputs
            except Exception as error:
                # A batch of one gets a second try, after the memory of the first has been released.
                if not runtime.is_out_of_memory(error) or (rows == 1 and is_last_try):
                    raise
                is_last_try = rows == 1
            else:
                return
            rows = max(1, rows // 2)
            # Outside of `except`: the traceback would keep the tensors of the failed batch alive.
            runtime.release(self._device)

    def _fitting_rows(self, utterances: Sequence[Utterance]) -> int:
        """The batch size that fits into free memory if each row has the largest number of codes."""
        if not utterances:
            return 1
        gpt = self._model.gpt
        row_bytes = max(gpt.row_bytes(utterance) + gpt.prefill_bytes(utterance) for utterance in utterances)
        fitting = int(runtime.free_bytes(self._device) * MEMORY_SHARE) // row_bytes
        return max(1, min(fitting, MAX_ROWS.get(self._device_type, 32)))

    def _vocode(self, plans: Sequence[_Plan], outputs: Sequence[GptOutput]) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Run the vocoder; when memory runs out, with half the batch size."""
        left, batch_size = list(outputs), VOCODER_ROWS.get(self._device_type, 1)
        while left:
            batch = left[:batch_size]
            plans_of_batch = [plans[output.key[0]] for output in batch]
            try:
                waveforms = self._model.vocoder(
                    [output.latents for output in batch],
                    [plan.voice[1] for plan in plans_of_batch if plan.voice is not None],
                    [float(plan.settings["speed"]) for plan in plans_of_batch],
                )
            except Exception as error:
                if len(batch) == 1 or not runtime.is_out_of_memory(error):
                    raise
                batch_size = len(batch) // 2
                runtime.release(self._device)
                continue
            yield from zip((output.key for output in batch), waveforms, strict=True)
            del left[:batch_size]

    def _render_with_beams(self, plan: _Plan) -> NDArray[np.float32]:
        """Render one chunk with beam search, which the library does for one text at a time."""
        assert plan.voice is not None  # noqa: S101 - speak() sets it
        waveforms = []
        for text_tokens in self._tokenize(plan.chunk.text, plan.chunk.language):
            latents = self._model.beam_search(text_tokens, plan.voice[0], plan.settings, plan.chunk.seed)
            waveforms += self._model.vocoder([latents], [plan.voice[1]], [float(plan.settings["speed"])])
        return torch.cat(waveforms).numpy()  # parts x (samples,) -> (samples of all,)

    # --- voices

    def _voice(self, plan: _Plan) -> VoiceLatents:
        chunk = plan.chunk
        key: object = chunk.speaker
        if chunk.recordings:
            key = (chunk.recordings, *(plan.settings[name] for name in _COND_SETTINGS))
        if key is None:
            raise RequestRefused(
                "xtts needs a voice, and the job gives none",
                "Give `speaker_wav`, a recording of the voice, or `speaker`, the name of a built-in one.",
            )
        if key not in self._voices:
            # A dict keeps the order of insertion: the oldest voice is the first.
            if len(self._voices) >= MAX_VOICES:
                del self._voices[next(iter(self._voices))]
            self._voices[key] = self._cloned(plan) if chunk.recordings else self._built_in(str(chunk.speaker))
        return self._voices[key]

    def _cloned(self, plan: _Plan) -> VoiceLatents:
        """Compute a voice from recordings, or read it from the cache on disk: computing takes about a second."""
        if plan.settings["gpt_cond_chunk_len"] > plan.settings["gpt_cond_len"]:
            raise RequestRefused("gpt_cond_chunk_len is longer than gpt_cond_len", "Make it shorter, or leave it out.")
        key = self._cache_key(plan)
        cached = self._latents.get(key)
        if cached is not None and cached.keys() == {"conditioning", "embedding"}:
            return torch.from_numpy(cached["conditioning"]), torch.from_numpy(cached["embedding"])
        samples_and_rates = []
        for path in plan.chunk.recordings:
            samples, rate_hz = recordings.read(path, MAX_REFERENCE_S)
            samples_and_rates.append((torch.from_numpy(samples), rate_hz))
        gpt_cond_latent, speaker_embedding = self._model.get_conditioning_latents(samples_and_rates, plan.settings)
        voice = gpt_cond_latent.cpu(), speaker_embedding.cpu()
        self._latents.put(key, {"conditioning": voice[0].numpy(), "embedding": voice[1].numpy()})
        return voice

    def _cache_key(self, plan: _Plan) -> str:
        """Digest of everything that a voice depends on: recordings, encoder weights, settings, kind of device."""
        if self._encoder_digest is None:
            self._encoder_digest = self._model.encoder_digest()
        digest = hashlib.sha256(self._encoder_digest.encode())
        for path in plan.chunk.recordings:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(repr([(name, plan.settings[name]) for name in _COND_SETTINGS] + [self._device_type]).encode())
        return digest.hexdigest()

    def _built_in(self, speaker: str) -> VoiceLatents:
        """Read a voice of speakers_xtts.pth, whose tensors are named `SPEAKER.gpt_cond_latent` and so on."""
        entries = self._speaker_entries()
        known = [name.removesuffix(_COND_LATENT) for name in entries if name.endswith(_COND_LATENT)]
        if speaker not in known:
            near = get_close_matches(speaker, known, 3)
            there = f"; near it: {', '.join(near)}" if near else "" if known else "; the model has no built-in voices"
            raise RequestRefused(
                f"there is no voice {speaker!r}{there}",
                "`voicespool voices list` shows the built-in voices; or give `speaker_wav`, a recording.",
            )
        assert self._speakers is not None  # noqa: S101 - there are names
        shapes = (1, 32, self._model.gpt.model_dim), (1, self._model.d_vector_dim, 1)
        names = speaker + _COND_LATENT, speaker + _EMBEDDING
        found = {name: entries[name] for name in names if name in entries}
        if tuple(entry.shape for entry in found.values()) != shapes:
            raise RequestRefused(f"{self._speakers.name} holds no voice {speaker!r} for this model", _ITS_SPEAKERS)
        # clone: mapped tensors would keep the file open as long as the voice is in memory
        gpt_cond_latent, speaker_embedding = (
            tensor.float().clone() for _name, tensor in weights.checked(self._speakers, found)
        )
        return gpt_cond_latent, speaker_embedding

    def _speaker_entries(self) -> Mapping[str, Entry]:
        """The tensors of speakers_xtts.pth, by name; none if the model has no such file."""
        if self._speakers is None:
            return {}
        try:
            return tensors.read(self._speakers).entries
        except tensors.UnreadableModelFile as error:
            raise RequestRefused(f"{self._speakers.name} can't be used: {error.reason}", error.cure) from None
        except OSError as error:
            raise RequestRefused(f"{self._speakers.name} can't be read: {error.strerror}", _ITS_SPEAKERS) from None


_ITS_SPEAKERS = "Copy speakers_xtts.pth of the model again, or give `speaker_wav`, a recording."


class _Plan:
    """A chunk with all settings, and with its voice once that is known."""

    def __init__(self, chunk: Chunk, settings: Mapping[str, Any]) -> None:
        self.chunk, self.settings = chunk, settings
        self.voice: VoiceLatents | None = None


_DEFAULTS = {"speed": 1.0, "do_sample": True, "num_beams": 1}  # config.json has no values for these
# What the latents of recordings depend on.
_COND_SETTINGS = ("gpt_cond_len", "gpt_cond_chunk_len", "max_ref_len", "sound_norm_refs")
_COND_LATENT, _EMBEDDING = ".gpt_cond_latent", ".speaker_embedding"
