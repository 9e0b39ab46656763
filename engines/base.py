"""The protocol of engines, and the data that they exchange with the worker.

An engine is a class, named in a line of `registry.py` or by a plugin. The daemon imports its module for `info` and
`match_language`; only the worker loads it. So the module must import quickly: heavy libraries are imported in `load`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.errors import EngineError

SettingValue = float | int | str | bool


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of an engine.

    Attributes:
        name: Key under `settings` in a job file.
        kind: `float`, `int`, `str` or `bool`.
        default: Used if the job does not set it; None if it depends on the model or voice.
        minimum, maximum: Inclusive bounds for numbers; None for no bound.
        help: One line for users.
    """

    name: str
    kind: type
    default: SettingValue | None
    help: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Properties of an engine, known without loading it.

    Attributes:
        name: As in a job file's `engine`.
        title, licence: For users.
        library, version: Python package of the engine, and its version; None if it is not installed.
        missing: None if the engine can run; else how to install what is missing, in words.
        sample_rate_hz: Of its audio.
        languages: BCP-47 tags that it supports, canonical form, sorted.
        options: Its settings.
        clones_voices: Whether it uses `speaker_wav`.
        needs_voice: Whether each segment needs `speaker_wav` or `speaker`.
        needs_transcript: Whether each segment needs a transcript of its first recording: `speaker_text`, or a text file
            next to the recording. Such an engine has no built-in voices.
        takes_checkpoints: Whether `load` takes a fine-tuned model. One for another engine is refused earlier.
        speakers: Names of built-in voices, for `speaker` in a job; empty if they depend on the model.
        speaker_sexes: Name of a built-in voice -> `female` or `male`; voices of unknown sex are left out.
        default_speakers: Language (of `languages`) -> name of the voice for jobs that name none.
        model: Model for jobs that name no checkpoint, in words.
        device: Where it runs: `cpu`, or `as configured`.
        mixes_jobs: Whether `render` may be given the chunks of several jobs.
        max_chars: Maximum length of a chunk in characters; longer sentences are split.
        max_chars_in: Language (of `languages`) -> its own `max_chars`, where it differs.
    """

    name: str
    title: str
    licence: str
    library: str
    version: str | None
    missing: str | None
    sample_rate_hz: int
    languages: tuple[str, ...]
    options: tuple[Option, ...] = ()
    clones_voices: bool = False
    needs_voice: bool = False
    needs_transcript: bool = False
    takes_checkpoints: bool = False
    speakers: tuple[str, ...] = ()
    speaker_sexes: Mapping[str, str] = field(default_factory=dict)
    default_speakers: Mapping[str, str] = field(default_factory=dict)
    model: str = "built in"
    device: str = "cpu"
    mixes_jobs: bool = True
    max_chars: int = 400
    max_chars_in: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What an engine renders in one piece. Its audio depends on these fields only, not on the chunks around it.

    Attributes:
        text: One line, NFC, not empty.
        language: One of the engine's `languages`.
        seed: 0 … 2**53 - 1.
        speaker: A built-in voice, or None.
        recordings: Reference recordings, absolute paths.
        speaker_text: Transcript of the first recording, or None.
        settings: Checked against `EngineInfo.options`.
    """

    text: str
    language: str
    seed: int
    speaker: str | None = None
    recordings: tuple[Path, ...] = ()
    speaker_text: str | None = None
    settings: Mapping[str, SettingValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audio:
    """Mono audio of one chunk.

    Attributes:
        samples: float32, shape [n], range -1 … 1.
        rate_hz: Samples per second.
        warnings: Sentences for the manifests of the jobs that have this chunk.
        transcript: The part of the transcript of its first recording that was used as prompt; None if none was.
    """

    samples: NDArray[np.float32]
    rate_hz: int
    warnings: tuple[str, ...] = ()
    transcript: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """The device and models that are configured.

    Attributes:
        name, precision, profile, fallback_cpu: From the section `device` of config.yaml.
        models: The models folder, with base models and vocoders; None to use only the caches of the libraries.
    """

    name: str = "auto"
    precision: str = "auto"
    profile: str = "auto"
    fallback_cpu: bool = False
    models: Path | None = None


Rendered = tuple[int, "Audio | EngineError"]
"""The number of a chunk, and its audio, or why it can't be rendered."""


class ChunkSource(Protocol):
    """Chunks that wait to be rendered, of one job or of many."""

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        """Remove up to `most` chunks, most urgent first; empty if none waits now.

        Take only what can be started at once: what still waits may be overtaken by a more urgent job, or be cancelled.

        Returns:
            Chunks with the numbers by which the engine returns their audio.
        """

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        """The same for chunks that are more urgent than all that the engine has; empty if it has none.

        For engines that can let other chunks wait meanwhile; they need not ask.
        """


def each(chunks: ChunkSource) -> Iterator[tuple[int, Chunk]]:
    """Take chunks one after the other, for engines that render one at a time."""
    while taken := chunks.take(1):
        yield taken[0]


class ChunkList:
    """A `ChunkSource` of chunks that are known beforehand, numbered from 0."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._waiting = deque(enumerate(chunks))

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        return ()


class Engine(Protocol):
    """An engine as the worker uses it. One instance for each loaded model.

    `load`, `render` and `close` are called from one thread. `info` and `match_language` may be called from another one
    meanwhile, for the next jobs.
    """

    @classmethod
    def info(cls) -> EngineInfo:
        """Properties of the engine. Quick: loads no model and no heavy library."""

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        """Map a BCP-47 tag in canonical form to the nearest of `languages`; None if none is near."""

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Load a model.

        Args:
            checkpoint: None for the base model.
            device: As configured.

        Returns:
            Facts for the manifest: `device`, `precision`; `architecture`, `sha256`, `step` and `validation_loss` of the
            model, if known; and any others. They are complete at the first audio, or the end, of each `render`. Two
            keys have a meaning of their own. `warnings`, a list of sentences: added to the manifest's warnings of each
            job with this model. `settings`: the model's defaults for settings, used instead of those in
            `EngineInfo.options`.

        Raises:
            EngineMissing, RequestRefused, OutOfMemory, EngineError.
        """

    def render(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
        """Render chunks until none waits and all that were taken are done.

        Yields:
            The number of a chunk, and its audio as soon as it is done, in any order; or the error, if it is this chunk
            alone that can't be rendered. None as a sign of life, if a chunk takes long.

        Raises:
            EngineError: Or any other error, if it is not known which chunk is the cause.
        """

    def close(self) -> None:
        """Release the model and its memory."""


class EngineClass(Protocol):
    """The class of an engine, as `engines.registry` returns it."""

    def info(self) -> EngineInfo: ...

    def match_language(self, tag: str) -> str | None: ...

    def __call__(self) -> Engine: ...
