"""Rendering chunks with XTTS: voices, tokens, batches as large as memory allows, vocoder."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engines.base import Audio, Chunk, ChunkSource, Rendered, SettingValue
from engines.device import runtime
from engines.errors import EngineError, RequestRefused
from engines.modelfiles import tensors
from engines.modelfiles.tensors import Entry
from engines.torch import weights
from engines.torch.sampling import SamplingParams
from engines.voices import recordings
from engines.xtts.net.gpt import GptOutput, Utterance
from engines.xtts.net.latents import LatentCache

if TYPE_CHECKING:
    from engines.xtts.net.model import XttsModel

MAX_ROWS = {"cpu": 32, "cuda": 128}  # batch size of the GPT
MEMORY_SHARE = 0.5  # of free memory, for the GPT's batch; the rest is for the vocoder and other processes
VOCODER_ROWS = {"cpu": 1, "cuda": 16}  # batch size of the vocoder; on a CPU more than one gains nothing
MAX_REFERENCE_S = 61.0  # options allow 60 s; one more, so that resampling at the cut does not reach into them
MAX_VOICES = 100  # in memory, 0.13 MB each; each job's recordings have paths of their own, so old ones are dropped

Settings = Mapping[str, SettingValue]
VoiceLatents = tuple[Tensor, Tensor]
"""gpt_cond_latent, float32 [1, 32, model_dim]; speaker_embedding, float32 [1, d_vector_dim, 1]."""


class XttsSpeech:
    """A loaded model with its voices: one batch that chunks enter and leave, each with the audio of one
    `Xtts.inference` call.

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

    def speak(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
        """Render chunks until none waits and all that were taken are done.

        A chunk with `num_beams` is rendered alone, as soon as those that were taken before it are done.

        Args:
            chunks: Settings that a chunk does not give are the checkpoint's.

        Yields:
            The number of a chunk and its audio as soon as it is done, in any order; or the error, if a chunk has no
            voice, or a voice or recording that can't be used. None as a sign of life.

        Raises:
            OutOfMemory: a single chunk does not fit into the memory of the device.
        """
        with runtime.too_small(f"not even one sentence fits into the memory of {self._device}"):
            yield from self._speak(_Intake(chunks, self._plan))

    def _speak(self, intake: _Intake) -> Iterator[Rendered | None]:
        while True:
            for outputs in self._generate(intake):
                yield None
                yield from intake.pop_refused()
                for (number, part), samples in self._vocode(intake, outputs):
                    if waveform := intake.joined(number, part, samples):
                        yield number, self._audio(waveform)
            if intake.alone is None:
                return
            number, plan = intake.alone
            intake.alone = None
            yield number, self._rendered_alone(plan)

    def _audio(self, waveforms: Sequence[Tensor]) -> Audio:
        return Audio(torch.cat(list(waveforms)).numpy(), self.rate_hz)  # parts x (samples,) -> (samples of all,)

    def _plan(self, chunk: Chunk) -> _Plan:
        """Look up or compute the voice of a chunk, and tokenize its text.

        Raises:
            EngineError: the chunk can't be rendered.
        """
        settings = {**self._model.defaults, **_DEFAULTS, **chunk.settings}
        return _Plan(chunk.seed, settings, self._voice(chunk, settings), self._tokenize(chunk.text, chunk.language))

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

    # --- batches

    def _generate(self, intake: _Intake) -> Iterator[list[GptOutput]]:
        """Run the GPT; when memory runs out, generate what was taken again with half the batch size.

        Chunks are taken again after that is done, with the batch size for the memory that is free then.
        """
        rows, memory, is_last_try = self._most_rows, self._memory(), False
        while True:
            try:
                for outputs in self._model.gpt.generate(intake.take, rows, memory, intake.urgent):
                    is_last_try = is_last_try and not outputs
                    intake.are_generated(outputs)
                    yield outputs
            except Exception as error:
                # A batch of one gets a second try, after the memory of the first has been released.
                if not runtime.is_out_of_memory(error) or (is_last_try and intake.generating <= 1):
                    raise
                is_last_try = intake.generating <= 1
            else:
                if not intake.is_repeating:
                    return
                intake.is_repeating = False
                rows, memory = self._most_rows, self._memory()
                continue
            rows = max(1, intake.generating // 2)
            intake.repeat()
            # Outside of `except`: the traceback would keep the tensors of the failed batch alive.
            runtime.release(self._device)

    @property
    def _most_rows(self) -> int:
        return MAX_ROWS.get(self._device_type, 32)

    def _memory(self) -> int:
        """Bytes for a batch of the GPT."""
        return int(runtime.free_bytes(self._device) * MEMORY_SHARE)

    def _vocode(self, intake: _Intake, outputs: Sequence[GptOutput]) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Run the vocoder; when memory runs out, with half the batch size."""
        left, batch_size = list(outputs), VOCODER_ROWS.get(self._device_type, 1)
        while left:
            batch = left[:batch_size]
            plans = [intake.plans[output.key[0]] for output in batch]
            try:
                waveforms = self._model.vocoder(
                    [output.latents for output in batch], [plan.voice[1] for plan in plans],
                    [float(plan.settings["speed"]) for plan in plans],
                )  # fmt: skip
            except Exception as error:
                if len(batch) == 1 or not runtime.is_out_of_memory(error):
                    raise
                batch_size = len(batch) // 2
                runtime.release(self._device)
                continue
            yield from zip((output.key for output in batch), waveforms, strict=True)
            del left[:batch_size]

    def _rendered_alone(self, plan: _Plan) -> Audio | EngineError:
        """Render a chunk with beam search, which the library does for one text at a time."""
        waveforms: list[Tensor] = []
        try:
            for text_tokens in plan.text_tokens:
                latents = self._model.beam_search(text_tokens, plan.voice[0], plan.settings, plan.seed)
                waveforms += self._model.vocoder([latents], [plan.voice[1]], [float(plan.settings["speed"])])
        except EngineError as error:
            return error
        return self._audio(waveforms)

    # --- voices

    def _voice(self, chunk: Chunk, settings: Settings) -> VoiceLatents:
        key: object = chunk.speaker
        if chunk.recordings:
            key = (chunk.recordings, *(settings[name] for name in _COND_SETTINGS))
        if key is None:
            raise RequestRefused(
                "xtts needs a voice, and the job gives none",
                "Give `speaker_wav`, a recording of the voice, or `speaker`, the name of a built-in one.",
            )
        if key not in self._voices:
            voice = self._cloned(chunk.recordings, settings) if chunk.recordings else self._built_in(str(chunk.speaker))
            # A dict keeps the order of insertion: the oldest voice is the first.
            if len(self._voices) >= MAX_VOICES:
                del self._voices[next(iter(self._voices))]
            self._voices[key] = voice
        return self._voices[key]

    def _cloned(self, paths: Sequence[Path], settings: Settings) -> VoiceLatents:
        """Compute a voice from recordings, or read it from the cache on disk: computing takes about a second."""
        if float(settings["gpt_cond_chunk_len"]) > float(settings["gpt_cond_len"]):
            raise RequestRefused("gpt_cond_chunk_len is longer than gpt_cond_len", "Make it shorter, or leave it out.")
        key = self._cache_key(paths, settings)
        cached = self._latents.get(key)
        if cached is not None and cached.keys() == {"conditioning", "embedding"}:
            return torch.from_numpy(cached["conditioning"]), torch.from_numpy(cached["embedding"])
        samples_and_rates = []
        for path in paths:
            samples, rate_hz = recordings.read(path, MAX_REFERENCE_S)
            samples_and_rates.append((torch.from_numpy(samples), rate_hz))
        gpt_cond_latent, speaker_embedding = self._model.get_conditioning_latents(samples_and_rates, settings)
        voice = gpt_cond_latent.cpu(), speaker_embedding.cpu()
        self._latents.put(key, {"conditioning": voice[0].numpy(), "embedding": voice[1].numpy()})
        return voice

    def _cache_key(self, paths: Sequence[Path], settings: Settings) -> str:
        """Digest of everything that a voice depends on: recordings, encoder weights, settings, kind of device."""
        if self._encoder_digest is None:
            self._encoder_digest = self._model.encoder_digest()
        digest = hashlib.sha256(self._encoder_digest.encode())
        for path in paths:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise RequestRefused(f"the recording {path.name} can't be read: {error.strerror}") from None
        digest.update(repr([(name, settings[name]) for name in _COND_SETTINGS] + [self._device_type]).encode())
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a chunk before it is generated.

    Attributes:
        seed: Of the chunk.
        settings: All of them.
        voice: Its latents.
        text_tokens: Of each part of the text, int64 [t]; usually there is one.
        waveforms: Of the parts that are done, float32 [samples], by number.
    """

    seed: int
    settings: Settings
    voice: VoiceLatents
    text_tokens: Sequence[Tensor]
    waveforms: dict[int, Tensor] = field(default_factory=dict)

    def utterances(self, number: int) -> Iterator[Utterance]:
        """What the GPT generates, a part at a time; `number` is the chunk's."""
        sampling = SamplingParams.from_settings(self.settings)
        for part, text_tokens in enumerate(self.text_tokens):
            yield Utterance((number, part), text_tokens, self.voice[0], sampling, (self.seed + part) % 2**63)


class _Intake:
    """Chunks that were taken from a source and are not done.

    Args:
        chunks: The source.
        plan: Makes the plan of a chunk, or raises an EngineError.

    Attributes:
        plans: Those of chunks that are being generated, by number.
        alone: A chunk with beam search. It waits until the batch is empty, and no others are taken meanwhile.
        is_repeating: Whether memory ran out, and what was taken is generated again before more is taken.
    """

    def __init__(self, chunks: ChunkSource, plan: Callable[[Chunk], _Plan]) -> None:
        self._chunks, self._plan = chunks, plan
        self._next = deque[tuple[int, Chunk]]()  # until their voices are there: memory may run out before
        self._waiting: deque[Utterance] = deque()
        self._generating: dict[tuple[int, int], Utterance] = {}
        self._refused: list[Rendered] = []
        self.plans: dict[int, _Plan] = {}
        self.alone: tuple[int, _Plan] | None = None
        self.is_repeating = False

    def take(self, most: int) -> Iterator[Utterance | None]:
        """Give utterances to the GPT, and None after each chunk that was taken, as a sign of life."""
        while most:
            if self._waiting:
                utterance = self._waiting.popleft()
                self._generating[utterance.key] = utterance
                most -= 1
                yield utterance
            elif self.alone is None and not self.is_repeating and self._take_chunk():
                yield None
            else:
                return

    def _take_chunk(self) -> bool:
        """Take a chunk and make its plan; False if there is none."""
        if not self._next:
            # One at a time: a voice may take a second, and a more urgent chunk may come meanwhile.
            self._next.extend(self._chunks.take(1))
        if not self._next:
            return False
        number, chunk = self._next[0]
        try:
            plan = self._plan(chunk)
        except EngineError as error:
            self._refused.append((number, error))
        except Exception as error:
            if runtime.is_out_of_memory(error):
                raise
            failed = EngineError(f"the voice or the tokens of a chunk can't be computed: {error}")
            failed.__cause__ = error
            self._refused.append((number, failed))
        else:
            if int(plan.settings["num_beams"]) > 1:
                self.alone = number, plan
            else:
                self.plans[number] = plan
                self._waiting.extend(plan.utterances(number))
        self._next.popleft()
        return True

    def urgent(self, most: int) -> list[Utterance]:
        """Give utterances to the GPT that are more urgent than all that it has."""
        if self.alone is not None or self.is_repeating or self._next or self._waiting:
            return []
        self._next.extend(self._chunks.urgent(most))
        while self._next:
            self._take_chunk()
        return list(filter(None, self.take(len(self._waiting)))) if self._waiting else []

    def pop_refused(self) -> list[Rendered]:
        """Chunks that can't be rendered, since the last call."""
        refused, self._refused = self._refused, []
        return refused

    @property
    def generating(self) -> int:
        """Number of utterances that the GPT has."""
        return len(self._generating)

    def are_generated(self, outputs: Sequence[GptOutput]) -> None:
        """The GPT is done with utterances."""
        for output in outputs:
            del self._generating[output.key]

    def repeat(self) -> None:
        """Give all utterances again that the GPT has."""
        self._waiting.extendleft(reversed(self._generating.values()))
        self._generating.clear()
        self.is_repeating = True

    def joined(self, number: int, part: int, samples: Tensor) -> list[Tensor]:
        """Add the audio of a part of a chunk; the audio of all its parts if it is the last, else nothing."""
        plan = self.plans[number]
        plan.waveforms[part] = samples
        if len(plan.waveforms) < len(plan.text_tokens):
            return []
        del self.plans[number]
        return [plan.waveforms[part] for part in range(len(plan.text_tokens))]


_DEFAULTS = {"speed": 1.0, "do_sample": True, "num_beams": 1}  # config.json has no values for these
# What the latents of recordings depend on.
_COND_SETTINGS = ("gpt_cond_len", "gpt_cond_chunk_len", "max_ref_len", "sound_norm_refs")
_COND_LATENT, _EMBEDDING = ".gpt_cond_latent", ".speaker_embedding"
