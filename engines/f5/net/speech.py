"""Chunks in, speech out: recordings heard together with their transcripts, lengths estimated, batches rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
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
from engines.f5.net import reference as fitting
from engines.f5.net import variant_probe
from engines.f5.net.flow import Course
from engines.f5.net.model import F5Model, Request
from engines.f5.net.reference import spoken_lengths
from engines.f5.net.symbols import Symbols, closed
from engines.neural_engine import Facts
from engines.torch.mel import ReferenceMel, hear
from engines.voices import recordings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEMORY_PART = 0.5  # of what is free, for a batch; the rest is for the vocoder and everybody else
MAX_S = 28.0  # recording and speech together: the trainings have seen 30 s
READ_S = 120.0  # of a recording; more than its transcript can be found in is refused all the same
AROUND_S = 0.15  # of a chunk, beside the time its text takes: sounds begin and die away, and no last word is cut
MAX_VOICES = 100  # kept at hand, of 0.5 MB; every job brings its recordings under names of its own
MAX_NAMED = 20  # characters that can't be said
SHORTEST_S = 0.7  # of a chunk: single words are said slowly


@dataclass(frozen=True, slots=True)
class F5Voice:
    """A recording with its transcript.

    Attributes:
        reference: What the model hears.
        text: What is said in it, closed.
        s_per_letter: How fast.
        warning: What was done to the recording; "" for nothing.
        transcript: What is said in it, as it was given.
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
class About:
    """What is known of a model beyond its tensors.

    Attributes:
        path: Of the checkpoint.
        variant: As `engines.checkpoints.f5_variant` has found it.
        sha256: Gives the checkpoint's digest; asked for only where the variant has to be measured.
        one_by_one: No batches: for cards with little memory.
    """

    path: Path
    variant: Variant
    sha256: Any
    one_by_one: bool = False


class F5Speech:
    """A loaded model with its voices.

    Args:
        defaults: Settings that a job does not give.
        facts: The engine's own; what turns out while speaking goes there.
    """

    def __init__(
        self, model: F5Model, symbols: Symbols, about: About, defaults: Mapping[str, Any], facts: Facts
    ) -> None:
        self._model, self._symbols, self._about = model, symbols, about
        self._defaults, self._facts = defaults, facts
        self._flags: Flags | None = about.variant.flags
        self._voices: dict[object, F5Voice] = {}
        self._device = str(model.backbone.device)
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
        """A text too long for one go becomes several requests, put together again."""
        if self._flags is None and chunks:
            yield from self._settle(self._voice(chunks[0]))
        owners: list[int] = []
        requests: list[Request] = []
        for index, chunk in enumerate(chunks):
            for request in self._requests(chunk, len(requests)):
                requests.append(request)
                owners.append(index)
            yield None
        self._note_unknown(chunks)
        wanted = Counter(owners)
        parts: dict[int, dict[int, Tensor]] = {index: {} for index in wanted}
        for done in self._render(requests):
            if done is None:
                yield None
                continue
            key, sound = done
            own = parts[owners[key]]
            own[key] = sound
            if len(own) == wanted[owners[key]]:
                del parts[owners[key]]
                overlap_s = float(self._settings(chunks[owners[key]])["cross_fade_s"])
                sounds = [own[part] for part in sorted(own)]
                yield owners[key], joined(sounds, round(overlap_s * self.rate_hz)).numpy()

    def _render(self, requests: Sequence[Request]) -> Iterator[tuple[int, Tensor] | None]:
        """Those of like length in one batch."""
        if not requests:
            return
        assert self._flags is not None  # noqa: S101 - _settle() has set them
        budget = 0 if self._about.one_by_one else int(runtime.free_bytes(self._device) * MEMORY_PART)
        courses = sorted(requests, key=lambda one: (repr(one.course), one.given.frames))
        yield from self._model.render(courses, self._flags, budget)

    def _settings(self, chunk: Chunk) -> dict[str, Any]:
        return {**self._defaults, **chunk.settings}

    # Texts.

    def _requests(self, chunk: Chunk, key: int) -> Iterator[Request]:
        settings = self._settings(chunk)
        voice = self._voice(chunk)
        course = Course(
            int(settings["nfe_step"]), float(settings["cfg_strength"]), float(settings["sway_sampling_coef"])
        )
        speed, fixed_s = float(settings["speed"]), settings["fix_duration_s"]
        for part, text in enumerate([chunk.text] if fixed_s else self._pieces(chunk.text, voice, speed)):
            seconds = fixed_s or self._seconds(text, voice, speed)
            frames = voice.frames + round(float(seconds) * self.rate_hz / self._model.hop)
            symbols = self._symbols.read(voice.text + text)
            yield Request(key + part, voice.reference, symbols, frames, course, (chunk.seed + part) % 2**63)

    def _pieces(self, text: str, voice: F5Voice, speed: float) -> list[str]:
        """The text in parts that, together with the recording, are no longer than what models were trained with."""
        room_s = MAX_S - voice.frames * self._model.hop / self.rate_hz
        space = text.rfind(" ", 0, len(text) // 2)
        if self._seconds(text, voice, speed) <= room_s or space <= 0:
            return [text]
        return [*self._pieces(text[:space], voice, speed), *self._pieces(text[space + 1 :], voice, speed)]

    def _seconds(self, text: str, voice: F5Voice, speed: float) -> float:
        """How long a text takes in a voice."""
        return max(SHORTEST_S, AROUND_S + sum(spoken_lengths(text)) * voice.s_per_letter / speed)

    def _note_unknown(self, chunks: Sequence[Chunk]) -> None:
        """Such characters are left out, and the words sound wrong."""
        unknown = list(dict.fromkeys(symbol for chunk in chunks for symbol in self._symbols.unknown(chunk.text)))
        if unknown:
            named = ", ".join(map(repr, unknown[:MAX_NAMED]))
            self._facts.warn_of_job(f"the model was not trained with {named}: it can't say them")

    # Voices.

    def _voice(self, chunk: Chunk) -> F5Voice:
        if not chunk.recordings:
            raise RequestRefused(
                "f5 needs a voice, and the job gives none", "Give `speaker_wav`, a recording of the voice."
            )
        if not chunk.speaker_text or not chunk.speaker_text.strip():
            raise RequestRefused(
                "f5 has to know what is said in the recording, and the job does not tell",
                "Give `speaker_text`, or put the words into a text file beside the recording: ana.txt beside ana.wav.",
            )
        key = chunk.recordings[0], chunk.speaker_text
        if key not in self._voices:
            if len(self._voices) >= MAX_VOICES:
                del self._voices[next(iter(self._voices))]
            self._voices[key] = self._heard(*key)
        self._facts.use_transcript(chunk.recordings[0], self._voices[key].transcript)
        if warning := self._voices[key].warning:
            self._facts.warn_of_job(warning)
        return self._voices[key]

    def _heard(self, path: Path, text: str) -> F5Voice:
        samples, rate_hz = recordings.read(path, READ_S)
        found = fitting.fitted(samples.mean(0), rate_hz, text)
        letters = sum(spoken_lengths(found.text))
        if not letters:
            raise RequestRefused("the transcript of the recording has no words", "Write down what is said in it.")
        reference = hear(torch.from_numpy(found.samples).unsqueeze(0), rate_hz, self._about.variant.vocoder)
        length_s = found.samples.size / rate_hz
        cut = found.cut_from_s and f"from {found.cut_from_s:.1f} to {length_s:.1f} s"
        warning = f"the recording was cut {cut}, and its transcript with it" if cut else ""
        return F5Voice(reference, closed(found.text), length_s / letters, warning, found.text)

    def _settle(self, voice: F5Voice) -> Generator[None, None, None]:
        """v0 or v1, where nothing tells: measured with the job's own recording, once for each checkpoint."""
        sha256 = str(self._about.sha256())
        measured = variant_probe.remembered(sha256)
        if measured is None:
            symbols = self._symbols.read(voice.text)
            measured = yield from variant_probe.measure(self._model.backbone, voice.reference.mel, symbols)
            variant_probe.remember(sha256, measured)
        if measured.flags is None:
            file, why = self._about.path, self._about.variant.evidence
            raise CheckpointRefused(
                f"whether {file.name} is v0 or v1 of F5-TTS can't be told: {why}, and {measured.words()}"
                f"{measured.doubt()}",
                f"To settle it, {f5_variant.settling(file)}. Or take another recording, with an exact transcript.",
            )
        losses = {"v0": measured.v0, "v1": measured.v1, "guess": measured.guess}
        name = f5_variant.NAMES[measured.flags]
        self._facts["variant"] = {"name": name, "evidence": measured.words(), **losses}
        self._flags = measured.flags


def joined(sounds: Sequence[Tensor], overlap: int) -> Tensor:
    """Sounds [n] one after the other, each faded into the next over so many samples or all there are, as the library
    has it (`utils_infer.infer_batch_process`).
    """
    whole = sounds[0]
    for sound in sounds[1:]:
        size = min(overlap, len(whole), len(sound))
        rise = torch.linspace(0, 1, size)
        start = len(whole) - size
        whole = torch.cat([whole[:start], whole[start:] * (1 - rise) + sound[:size] * rise, sound[size:]])
    return whole
