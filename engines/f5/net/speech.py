"""Chunks to audio: references with their transcripts, estimated durations, requests, and rendered batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.base import Audio, Chunk, ChunkSource, Rendered
from engines.checkpoints import f5_variant
from engines.checkpoints.f5_variant import Flags, Variant
from engines.device import runtime
from engines.errors import CheckpointRefused, EngineError, RequestRefused
from engines.f5.net import reference, variant_probe
from engines.f5.net.flow import SolverSettings
from engines.f5.net.model import F5Model, Load, Request
from engines.f5.net.reference import spoken_lengths
from engines.f5.net.symbols import Tokenizer, prompt_text
from engines.neural_engine import Facts
from engines.torch.mel import ReferenceMel, reference_mel
from engines.voices import recordings

MEMORY_SHARE = 0.5  # of the free memory, for a batch; the rest is for the vocoder and other programs
MAX_S = 28.0  # reference and speech together; the models were trained with at most 30 s
MAX_READ_S = 120.0  # of a recording; the transcript of a longer one is hardly ever cut with certainty
EXTRA_S = 0.15  # added to the time of a text, for the onset of its first and the decay of its last sound
MIN_CHUNK_S = 0.7  # single words are spoken slowly
MAX_VOICES = 100  # in memory, 0.5 MB each; every job has its recordings under paths of its own
MAX_UNKNOWN = 20  # characters named in a warning
POOL_BATCHES, POOL_REQUESTS = 2, 8
"""No chunk is taken while this many full batches and this many requests wait. A job alone fills one batch and leaves
about one request; more wait only if their solver settings differ, or if they are parts of long texts.
"""
MAX_PASSED_OVER = 2  # batches; then a request is the first of the next, whatever was taken after it


@dataclass(frozen=True, slots=True)
class F5Voice:
    """A reference recording with its transcript.

    Attributes:
        reference: Its mel spectrogram.
        text: Its transcript as the beginning of the text.
        s_per_letter: Speech rate, in seconds.
        warning: How the recording was cut; "" if it was not.
        transcript: Its transcript after the cut.
    """

    reference: ReferenceMel
    text: str
    s_per_letter: float
    warning: str = ""
    transcript: str = ""

    @property
    def frames(self) -> int:
        return len(self.reference.mel)


@dataclass(slots=True)
class _Taken:
    """A chunk until all its requests are done.

    Attributes:
        number: Of the chunk.
        voice: Whose recording is the prompt.
        requests: Consecutive parts of the text.
        warnings: About this chunk.
        overlap: Samples of the cross-fade between the parts.
        parts: Samples of the requests that are done, by key.
    """

    number: int
    voice: F5Voice
    requests: Sequence[Request]
    warnings: tuple[str, ...]
    overlap: int
    parts: dict[int, Tensor] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return len(self.parts) == len(self.requests)

    def audio(self, rate_hz: int) -> Audio:
        """The parts joined."""
        samples = cross_faded([self.parts[request.key] for request in self.requests], self.overlap)
        return Audio(samples.numpy(), rate_hz, self.warnings, self.voice.transcript)


@dataclass(slots=True)
class _Waiting:
    """A request that waits for a batch.

    Attributes:
        load: What it takes of a batch.
        passed_over: In how many batches it had no place.
    """

    request: Request
    load: Load
    passed_over: int = 0


class _Pool:
    """Requests that wait for a batch.

    The source gives the most urgent chunk first, but does not say how urgent it is. So what was taken since the last
    batch goes before what was left over then, except for what was passed over `MAX_PASSED_OVER` times.
    """

    def __init__(self, model: F5Model) -> None:
        self._model = model
        self._left: list[_Waiting] = []  # oldest first
        self._new: list[_Waiting] = []  # taken since the last batch

    def add(self, requests: Sequence[Request]) -> None:
        self._new += [_Waiting(request, self._model.load_of(request)) for request in requests]

    def has_room(self, budget_bytes: int) -> bool:
        """Whether another chunk is worth taking: none was yet, or the next batch is not full.

        Args:
            budget_bytes: Memory for a batch.
        """
        waiting, room = self._in_order(), self._model.room(budget_bytes)
        if len(waiting) >= POOL_REQUESTS and _load(waiting).fills(room * POOL_BATCHES):
            return False
        own = [other for other in waiting if other.request.solver == waiting[0].request.solver]
        return not self._new or not _load(own).fills(room)

    def next_batch(self, budget_bytes: int) -> list[Request]:
        """Remove the requests of a batch; empty if none waits.

        Args:
            budget_bytes: Memory for it.
        """
        waiting = [each.request for each in self._in_order()]
        batch = self._model.first_batch(waiting, budget_bytes) if waiting else []
        keys = {request.key for request in batch}
        self._left = [each for each in (*self._left, *self._new) if each.request.key not in keys]
        self._new = []
        for each in self._left:
            each.passed_over += 1
        return batch

    def _in_order(self) -> list[_Waiting]:
        """Most urgent first."""
        overdue = [each for each in self._left if each.passed_over >= MAX_PASSED_OVER]
        others = [each for each in self._left if each.passed_over < MAX_PASSED_OVER]
        return [*overdue, *self._new, *others]


def _load(waiting: Iterable[_Waiting]) -> Load:
    """Of all together."""
    return sum((each.load for each in waiting), Load(0, 0))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model apart from its tensors.

    Attributes:
        path: Of the checkpoint.
        variant: As `engines.checkpoints.f5_variant` has found it.
        sha256: Returns the checkpoint's digest; called only if the variant has to be measured.
        one_by_one: No batches, for GPUs with little memory.
    """

    path: Path
    variant: Variant
    sha256: Callable[[], str]
    one_by_one: bool = False


class F5Speech:
    """A loaded model with its voices.

    Args:
        model: The loaded model.
        tokenizer: With the model's vocabulary.
        info: About the model.
        defaults: Settings that a job does not give.
        facts: Of the engine, for the manifest; a measured variant is added.
    """

    def __init__(
        self, model: F5Model, tokenizer: Tokenizer, info: ModelInfo, defaults: Mapping[str, Any], facts: Facts
    ) -> None:
        self._model, self._tokenizer, self._info = model, tokenizer, info
        self._defaults, self._facts = defaults, facts
        self._flags: Flags | None = info.variant.flags
        self._voices: dict[object, F5Voice] = {}
        self._keys = count()
        self._device = str(model.backbone.device)
        self._rate_hz = model.rate_hz

    def speak(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
        """Render chunks. The source is asked before each batch, for as many as it has room for, and for one at least.

        Yields:
            As `Engine.render`. A chunk is refused if it lacks a recording or its transcript, or they can't be used.

        Raises:
            CheckpointRefused: The variant can't be determined.
            OutOfMemory: Memory is too small for a single sentence.
        """
        with runtime.too_small(f"not even one sentence fits into the memory of {self._device}"):
            yield from self._speak(chunks)

    def _speak(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
        pool = _Pool(self._model)
        unfinished: dict[int, _Taken] = {}  # by the keys of their requests that are not done
        while True:
            budget = 0 if self._info.one_by_one else int(runtime.free_bytes(self._device) * MEMORY_SHARE)
            while pool.has_room(budget) and (taken := chunks.take(1)):
                prepared = yield from self._prepare(*taken[0])
                if prepared is not None:
                    pool.add(prepared.requests)
                    unfinished.update((request.key, prepared) for request in prepared.requests)
            batch = pool.next_batch(budget)
            if not batch:
                return
            assert self._flags is not None  # noqa: S101 - set by _measure_variant()
            for rendered in self._model.render(batch, self._flags, budget):
                if rendered is None:
                    yield None
                    continue
                key, samples = rendered
                chunk = unfinished.pop(key)
                chunk.parts[key] = samples
                if chunk.is_done:
                    yield chunk.number, chunk.audio(self._rate_hz)

    def _prepare(self, number: int, chunk: Chunk) -> Generator[Rendered | None, None, _Taken | None]:
        """Make the voice and the requests of a chunk.

        Yields:
            None as a sign of life, or the chunk's number with the reason why it is refused.

        Returns:
            None if it is refused.

        """
        try:
            voice = self._voice(chunk)
            if self._flags is None:
                yield from self._measure_variant(voice)
            requests = list(self._requests(chunk, voice))
        except EngineError as error:
            yield number, error
            return None
        except Exception as error:
            if runtime.is_out_of_memory(error):
                raise
            failed = EngineError(f"the voice or the text of a chunk can't be prepared: {error}")
            failed.__cause__ = error
            yield number, failed
            return None
        warnings = tuple(filter(None, (voice.warning, self._unknown(chunk.text))))
        overlap = round(float(self._settings(chunk)["cross_fade_s"]) * self._rate_hz)
        yield None
        return _Taken(number, voice, requests, warnings, overlap)

    def _settings(self, chunk: Chunk) -> dict[str, Any]:
        return {**self._defaults, **chunk.settings}

    # Texts.

    def _requests(self, chunk: Chunk, voice: F5Voice) -> Iterator[Request]:
        """Requests of a chunk, with consecutive seeds: several if its text is too long for one."""
        settings = self._settings(chunk)
        solver = SolverSettings(
            int(settings["nfe_step"]), float(settings["cfg_strength"]), float(settings["sway_sampling_coef"])
        )
        speed, fixed_s = float(settings["speed"]), settings["fix_duration_s"]
        for part, text in enumerate([chunk.text] if fixed_s else self._split(chunk.text, voice, speed)):
            seconds = fixed_s or self._speech_s(text, voice, speed)
            duration = voice.frames + round(float(seconds) * self._rate_hz / self._model.hop)
            token_ids = self._tokenizer.encode(voice.text + text)
            seed = (chunk.seed + part) % 2**63
            yield Request(next(self._keys), voice.reference, token_ids, duration, solver, seed)

    def _split(self, text: str, voice: F5Voice, speed: float) -> list[str]:
        """Halve a text at a space until each part fits into `MAX_S` with the reference."""
        room_s = MAX_S - voice.frames * self._model.hop / self._rate_hz
        space = text.rfind(" ", 0, len(text) // 2)
        if self._speech_s(text, voice, speed) <= room_s or space <= 0:
            return [text]
        return [*self._split(text[:space], voice, speed), *self._split(text[space + 1 :], voice, speed)]

    def _speech_s(self, text: str, voice: F5Voice, speed: float) -> float:
        """Estimated duration of a text in a voice."""
        return max(MIN_CHUNK_S, EXTRA_S + sum(spoken_lengths(text)) * voice.s_per_letter / speed)

    def _unknown(self, text: str) -> str:
        """A warning of characters that the model does not know, "" if it knows all.

        They get the token of a space, and their words sound wrong.
        """
        unknown = sorted(self._tokenizer.unknown(text))
        if not unknown:
            return ""
        return f"the model was not trained with {', '.join(map(repr, unknown[:MAX_UNKNOWN]))}; these are not spoken"

    # Voices.

    def _voice(self, chunk: Chunk) -> F5Voice:
        if not chunk.recordings:
            raise RequestRefused(
                "f5 needs a reference recording, and the job gives none", "Set `speaker_wav` to a recording."
            )
        if not chunk.speaker_text or not chunk.speaker_text.strip():
            raise RequestRefused(
                "f5 needs a transcript of the recording, and the job gives none",
                "Set `speaker_text`, or put the transcript next to the recording as a text file: ana.txt for ana.wav.",
            )
        key = chunk.recordings[0], chunk.speaker_text
        if key not in self._voices:
            if len(self._voices) >= MAX_VOICES:
                del self._voices[next(iter(self._voices))]  # the oldest
            self._voices[key] = self._load_voice(*key)
        return self._voices[key]

    def _load_voice(self, path: Path, transcript: str) -> F5Voice:
        samples, rate_hz = recordings.read(path, MAX_READ_S)
        fitted = reference.fit(samples.mean(0), rate_hz, transcript)
        letters = sum(spoken_lengths(fitted.text))
        if not letters:
            raise RequestRefused(
                "the transcript of the recording has no words", "Set it to exactly what is spoken in the recording."
            )
        audio = torch.from_numpy(fitted.samples).unsqueeze(0)  # (n,) -> (1, n)
        mel = reference_mel(audio, rate_hz, self._info.variant.vocoder)
        length_s = fitted.samples.size / rate_hz
        warning = ""
        if fitted.cut_from_s:
            warning = f"the recording and its transcript were cut from {fitted.cut_from_s:.1f} to {length_s:.1f} s"
        return F5Voice(mel, prompt_text(fitted.text), length_s / letters, warning, fitted.text)

    def _measure_variant(self, voice: F5Voice) -> Generator[None, None, None]:
        """Decide between v0 and v1 with the recording of the first chunk, once for each checkpoint.

        Raises:
            CheckpointRefused: The measurement does not decide.
        """
        sha256 = self._info.sha256()
        measured = variant_probe.cached(sha256)
        if measured is None:
            token_ids = self._tokenizer.encode(voice.text)
            measured = yield from variant_probe.measure(self._model.backbone, voice.reference.mel, token_ids)
            variant_probe.keep(sha256, measured)
        if measured.flags is None:
            file, evidence = self._info.path, self._info.variant.evidence
            raise CheckpointRefused(
                f"can't determine whether {file.name} is v0 or v1 of F5-TTS: {evidence}, and {measured.words()}"
                f"{measured.doubt()}",
                f"If you know which it is, {f5_variant.settling(file)}. Otherwise try another recording, with an exact "
                "transcript.",
            )
        losses = {"v0": measured.v0, "v1": measured.v1, "guess": measured.guess}
        name = f5_variant.NAMES[measured.flags]
        self._facts["variant"] = {"name": name, "evidence": measured.words(), **losses}
        self._flags = measured.flags


def cross_faded(parts: Sequence[Tensor], overlap: int) -> Tensor:
    """Join parts with a linear cross-fade, as `f5_tts.infer.utils_infer.infer_batch_process` does.

    Args:
        parts: 1 or more, each (samples,).
        overlap: Samples of each cross-fade; fewer where a part is shorter.

    Returns:
        (samples,).
    """
    joined = parts[0]
    for part in parts[1:]:
        size = min(overlap, len(joined), len(part))
        fade_in = torch.linspace(0, 1, size)
        start = len(joined) - size
        faded = joined[start:] * (1 - fade_in) + part[:size] * fade_in  # (size,)
        joined = torch.cat([joined[:start], faded, part[size:]])
    return joined
