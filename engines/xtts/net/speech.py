"""Chunks in, speech out: voices looked up, texts read, batches made as large as memory allows, and the vocoder fed."""

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
from engines.torch.sampling import Sampling
from engines.voices import recordings
from engines.xtts.net.gpt import Spoken, Utterance
from engines.xtts.net.latents import LatentCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.xtts.net.model import XttsModel

MAX_ROWS = {"cpu": 32, "cuda": 128}
MEMORY_PART = 0.5  # of what is free, for the rows of a batch; the rest is for the vocoder and everybody else
VOCODER_ROWS = {"cpu": 1, "cuda": 16}  # a processor gains nothing from more than one
MAX_REFERENCE_S = 61.0  # no option lets the model listen to more than 60; what is cut leaves no trace there
MAX_VOICES = 100  # kept at hand, of 0.13 MB; every job brings its recordings under names of its own

VoiceLatents = tuple[Tensor, Tensor]
"""Conditioning latents [1, 32, channels], speaker embedding [1, d, 1]."""


class XttsSpeech:
    """A loaded model with its voices.

    Args:
        device: What it is on.
        speakers: speakers_xtts.pth, or None.
    """

    def __init__(self, model: XttsModel, device: str, speakers: Path | None) -> None:
        self._model, self._device, self._speakers = model, device, speakers
        self._kind = torch.device(device).type
        self._voices: dict[object, VoiceLatents] = {}
        self._latents = LatentCache()
        self._ears: str | None = None
        self.rate_hz = model.rate_hz

    def speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        """Speak chunks.

        Yields:
            Index and samples of a chunk as soon as it is done; None as a sign of life.

        Raises:
            RequestRefused, OutOfMemory.
        """
        with runtime.too_small(f"not even one sentence fits into the memory of {self._device}"):
            yield from self._speak(chunks)

    def _speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        plans = [_Plan(chunk, {**self._model.defaults, **_DEFAULTS, **chunk.settings}) for chunk in chunks]
        for plan in plans:
            plan.voice = self._voice(plan)
            yield None
        searched = [index for index, plan in enumerate(plans) if int(plan.settings["num_beams"]) > 1]
        sampled = [index for index in range(len(plans)) if index not in set(searched)]
        yield from self._in_batches(plans, sampled)
        for index in searched:
            yield index, self._search(plans[index])

    # Batches.

    def _in_batches(self, plans: Sequence[_Plan], which: Sequence[int]) -> Iterator[tuple[int, Any] | None]:
        """A text of more tokens than the model reads becomes several utterances, put together again."""
        utterances = [utterance for index in which for utterance in self._utterances(plans[index], index)]
        parts: dict[int, dict[int, Tensor]] = {index: {} for index in which}
        counts = {index: sum(1 for utterance in utterances if utterance.key[0] == index) for index in which}
        for group in self._decoded(utterances):
            yield None
            for (index, part), sound in self._sound(plans, group):
                parts[index][part] = sound
                if len(parts[index]) == counts[index]:
                    done = parts.pop(index)
                    yield index, torch.cat([done[part] for part in sorted(done)]).numpy()

    def _utterances(self, plan: _Plan, index: int) -> list[Utterance]:
        assert plan.voice is not None  # noqa: S101 - speak() sets it
        sampling = Sampling.of(plan.settings)
        return [
            Utterance((index, part), tokens, plan.voice[0], sampling, (plan.chunk.seed + part) % 2**63)
            for part, tokens in enumerate(self._read(plan.chunk.text, plan.chunk.language))
        ]

    def _read(self, text: str, language: str) -> list[Tensor]:
        """Tokens of a text, in pieces where it is too long for the model: numbers written out can make it so."""
        tokens = self._model.tokens(text, language)
        if len(tokens) < self._model.most_tokens:
            return [tokens]
        middle = len(text) // 2
        space = text.rfind(" ", 0, middle)
        cut = space if space > 0 else middle
        return [*self._read(text[:cut], language), *self._read(text[cut:], language)]

    def _decoded(self, utterances: Sequence[Utterance]) -> Iterator[list[Spoken]]:
        """Decode; when memory runs out, what is not done yet is done with half the rows."""
        left = {utterance.key: utterance for utterance in utterances}
        rows = self._rows(utterances)
        last_try = False
        while left:
            try:
                for group in self._model.gpt.decode(list(left.values()), rows):
                    for spoken in group:
                        del left[spoken.key]
                    yield group
            except Exception as error:
                if not runtime.is_out_of_memory(error) or (rows == 1 and last_try):
                    raise
                last_try = rows == 1
            else:
                return
            rows = max(1, rows // 2)
            runtime.release(self._device)

    def _rows(self, utterances: Sequence[Utterance]) -> int:
        """How many rows fit: each may grow to the longest that the model can speak."""
        if not utterances:
            return 1
        gpt = self._model.gpt
        row = max(gpt.row_bytes(one) + gpt.reading_bytes(one) for one in utterances)
        fitting = int(runtime.free_bytes(self._device) * MEMORY_PART) // row
        return max(1, min(fitting, MAX_ROWS.get(self._kind, 32)))

    def _sound(self, plans: Sequence[_Plan], group: Sequence[Spoken]) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """The vocoder; when memory runs out, with half as many at a time."""
        left, size = list(group), VOCODER_ROWS.get(self._kind, 1)
        while left:
            some = left[:size]
            mine = [plans[spoken.key[0]] for spoken in some]
            try:
                sounds = self._model.vocoder(
                    [spoken.latents for spoken in some],
                    [plan.voice[1] for plan in mine if plan.voice is not None],
                    [float(plan.settings["speed"]) for plan in mine],
                )
            except Exception as error:
                if len(some) == 1 or not runtime.is_out_of_memory(error):
                    raise
                size = len(some) // 2
                runtime.release(self._device)
                continue
            yield from zip((spoken.key for spoken in some), sounds, strict=True)
            del left[:size]

    def _search(self, plan: _Plan) -> NDArray[np.float32]:
        """With beams: the library's own search, one text at a time."""
        assert plan.voice is not None  # noqa: S101 - speak() sets it
        sounds = []
        for tokens in self._read(plan.chunk.text, plan.chunk.language):
            latents = self._model.search(tokens, plan.voice[0], plan.settings, plan.chunk.seed)
            sounds += self._model.vocoder([latents], [plan.voice[1]], [float(plan.settings["speed"])])
        return torch.cat(sounds).numpy()

    # Voices.

    def _voice(self, plan: _Plan) -> VoiceLatents:
        chunk = plan.chunk
        key: object = chunk.speaker
        if chunk.recordings:
            key = (chunk.recordings, *(plan.settings[name] for name in _LISTENING))
        if key is None:
            raise RequestRefused(
                "xtts needs a voice, and the job gives none",
                "Give `speaker_wav`, a recording of the voice, or `speaker`, the name of a built-in one.",
            )
        if key not in self._voices:
            if len(self._voices) >= MAX_VOICES:
                del self._voices[next(iter(self._voices))]
            self._voices[key] = self._heard(plan) if chunk.recordings else self._built_in(str(chunk.speaker))
        return self._voices[key]

    def _heard(self, plan: _Plan) -> VoiceLatents:
        """A voice from recordings; computing it takes a second, so it is kept on disk."""
        if plan.settings["gpt_cond_chunk_len"] > plan.settings["gpt_cond_len"]:
            raise RequestRefused("gpt_cond_chunk_len is longer than gpt_cond_len", "Make it shorter, or leave it out.")
        key = self._key(plan)
        kept = self._latents.get(key)
        if kept is not None and kept.keys() == {"conditioning", "embedding"}:
            return torch.from_numpy(kept["conditioning"]), torch.from_numpy(kept["embedding"])
        heard = []
        for path in plan.chunk.recordings:
            samples, rate_hz = recordings.read(path, MAX_REFERENCE_S)
            heard.append((torch.from_numpy(samples), rate_hz))
        conditioning, embedding = self._model.latents(heard, plan.settings)
        voice = conditioning.cpu(), embedding.cpu()
        self._latents.put(key, {"conditioning": voice[0].numpy(), "embedding": voice[1].numpy()})
        return voice

    def _key(self, plan: _Plan) -> str:
        """Names what a voice follows from: the recordings, the weights that listen, the settings that matter."""
        if self._ears is None:
            self._ears = self._model.ears()
        digest = hashlib.sha256(self._ears.encode())
        for path in plan.chunk.recordings:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(repr([(name, plan.settings[name]) for name in _LISTENING] + [self._kind]).encode())
        return digest.hexdigest()

    def _built_in(self, speaker: str) -> VoiceLatents:
        entries = self._speaker_entries()
        known = [name.removesuffix(_LATENT) for name in entries if name.endswith(_LATENT)]
        if speaker not in known:
            near = get_close_matches(speaker, known, 3)
            there = f"; near it: {', '.join(near)}" if near else "" if known else "; the model has no built-in voices"
            raise RequestRefused(
                f"there is no voice {speaker!r}{there}",
                "`voicespool voices list` shows the built-in voices; or give `speaker_wav`, a recording.",
            )
        assert self._speakers is not None  # noqa: S101 - there are names
        shapes = (1, 32, self._model.gpt.channels), (1, self._model.speaker_width, 1)
        names = speaker + _LATENT, speaker + _EMBEDDING
        wanted = {name: entries[name] for name in names if name in entries}
        if tuple(entry.shape for entry in wanted.values()) != shapes:
            raise RequestRefused(f"{self._speakers.name} holds no voice {speaker!r} for this model", _ITS_SPEAKERS)
        latents, embedding = (tensor.float().clone() for _name, tensor in weights.checked(self._speakers, wanted))
        return latents, embedding

    def _speaker_entries(self) -> Mapping[str, Entry]:
        """The tensors of speakers_xtts.pth; none where a model has no such file."""
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
    """A chunk on its way."""

    def __init__(self, chunk: Chunk, settings: Mapping[str, Any]) -> None:
        self.chunk, self.settings = chunk, settings
        self.voice: VoiceLatents | None = None


_DEFAULTS = {"speed": 1.0, "do_sample": True, "num_beams": 1}
_LISTENING = ("gpt_cond_len", "gpt_cond_chunk_len", "max_ref_len", "sound_norm_refs")
_LATENT, _EMBEDDING = ".gpt_cond_latent", ".speaker_embedding"
