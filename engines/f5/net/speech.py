"""Chunks to audio: references with their transcripts, estimated durations, requests, and rendered batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engines.base import Chunk
from engines.checkpoints import f5_variant
from engines.checkpoints.f5_variant import Flags, Variant
from engines.device import runtime
from engines.errors import CheckpointRefused, RequestRefused
from engines.f5.net import reference, variant_probe
from engines.f5.net.flow import SolverSettings
from engines.f5.net.model import F5Model, Request
from engines.f5.net.reference import spoken_lengths
from engines.f5.net.symbols import Tokenizer, prompt_text
from engines.neural_engine import Facts
from engines.torch.mel import ReferenceMel, reference_mel
from engines.voices import recordings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEMORY_SHARE = 0.5  # of the free memory, for a batch; the rest is for the vocoder and other programs
MAX_S = 28.0  # reference and speech together; the models were trained with at most 30 s
MAX_READ_S = 120.0  # of a recording; the transcript of a longer one is hardly ever cut with certainty
EXTRA_S = 0.15  # added to the time of a text, for the onset of its first and the decay of its last sound
MIN_CHUNK_S = 0.7  # single words are spoken slowly
MAX_VOICES = 100  # in memory, 0.5 MB each; every job has its recordings under paths of its own
MAX_UNKNOWN = 20  # characters named in a warning


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
        facts: Of the engine, for the manifest; warnings and a measured variant are added.
    """

    def __init__(
        self, model: F5Model, tokenizer: Tokenizer, info: ModelInfo, defaults: Mapping[str, Any], facts: Facts
    ) -> None:
        self._model, self._tokenizer, self._info = model, tokenizer, info
        self._defaults, self._facts = defaults, facts
        self._flags: Flags | None = info.variant.flags
        self._voices: dict[object, F5Voice] = {}
        self._device = str(model.backbone.device)
        self.rate_hz = model.rate_hz

    def speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        """Render chunks.

        Yields:
            Index and samples, float32 (n,), of a chunk when it is done; None as a sign of life.

        Raises:
            RequestRefused: A chunk lacks a recording or its transcript, or they can't be used.
            CheckpointRefused: The variant can't be determined.
            OutOfMemory: Memory is too small for a single sentence.
        """
        with runtime.too_small(f"not even one sentence fits into the memory of {self._device}"):
            yield from self._speak(chunks)

    def _speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        """A text that is too long for one request is split into several, and their audio is joined."""
        if self._flags is None and chunks:
            yield from self._measure_variant(self._voice(chunks[0]))
        owners: list[int] = []  # index of the chunk of each request
        requests: list[Request] = []
        for index, chunk in enumerate(chunks):
            for request in self._requests(chunk, len(requests)):
                requests.append(request)
                owners.append(index)
            yield None
        self._warn_of_unknown(chunks)
        part_counts = Counter(owners)
        parts: dict[int, dict[int, Tensor]] = {index: {} for index in part_counts}
        for rendered in self._render(requests):
            if rendered is None:
                yield None
                continue
            key, samples = rendered
            own = parts[owners[key]]
            own[key] = samples
            if len(own) == part_counts[owners[key]]:
                del parts[owners[key]]
                cross_fade_s = float(self._settings(chunks[owners[key]])["cross_fade_s"])
                in_order = [own[part] for part in sorted(own)]
                yield owners[key], cross_faded(in_order, round(cross_fade_s * self.rate_hz)).numpy()

    def _render(self, requests: Sequence[Request]) -> Iterator[tuple[int, Tensor] | None]:
        """In batches of requests of similar duration."""
        if not requests:
            return
        assert self._flags is not None  # noqa: S101 - set by _measure_variant()
        budget = 0 if self._info.one_by_one else int(runtime.free_bytes(self._device) * MEMORY_SHARE)
        ordered = sorted(requests, key=lambda request: (repr(request.solver), request.conditions.duration))
        yield from self._model.render(ordered, self._flags, budget)

    def _settings(self, chunk: Chunk) -> dict[str, Any]:
        return {**self._defaults, **chunk.settings}

    # Texts.

    def _requests(self, chunk: Chunk, key: int) -> Iterator[Request]:
        """Requests of a chunk, with consecutive keys and seeds."""
        settings = self._settings(chunk)
        voice = self._voice(chunk)
        solver = SolverSettings(
            int(settings["nfe_step"]), float(settings["cfg_strength"]), float(settings["sway_sampling_coef"])
        )
        speed, fixed_s = float(settings["speed"]), settings["fix_duration_s"]
        for part, text in enumerate([chunk.text] if fixed_s else self._split(chunk.text, voice, speed)):
            seconds = fixed_s or self._speech_s(text, voice, speed)
            duration = voice.frames + round(float(seconds) * self.rate_hz / self._model.hop)
            token_ids = self._tokenizer.encode(voice.text + text)
            yield Request(key + part, voice.reference, token_ids, duration, solver, (chunk.seed + part) % 2**63)

    def _split(self, text: str, voice: F5Voice, speed: float) -> list[str]:
        """Halve a text at a space until each part fits into `MAX_S` with the reference."""
        room_s = MAX_S - voice.frames * self._model.hop / self.rate_hz
        space = text.rfind(" ", 0, len(text) // 2)
        if self._speech_s(text, voice, speed) <= room_s or space <= 0:
            return [text]
        return [*self._split(text[:space], voice, speed), *self._split(text[space + 1 :], voice, speed)]

    def _speech_s(self, text: str, voice: F5Voice, speed: float) -> float:
        """Estimated duration of a text in a voice."""
        return max(MIN_CHUNK_S, EXTRA_S + sum(spoken_lengths(text)) * voice.s_per_letter / speed)

    def _warn_of_unknown(self, chunks: Sequence[Chunk]) -> None:
        """Unknown characters get the token of a space, and their words sound wrong."""
        unknown = list(dict.fromkeys(symbol for chunk in chunks for symbol in self._tokenizer.unknown(chunk.text)))
        if unknown:
            named = ", ".join(map(repr, unknown[:MAX_UNKNOWN]))
            self._facts.warn_of_job(f"the model was not trained with {named}; these are not spoken")

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
        self._facts.use_transcript(chunk.recordings[0], self._voices[key].transcript)
        if warning := self._voices[key].warning:
            self._facts.warn_of_job(warning)
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
        """Decide between v0 and v1 with the job's own recording, once for each checkpoint.

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
