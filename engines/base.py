"""The one protocol behind which every engine stands.

An engine is one file in this folder and one line in `registry.py`. Importing the file must be cheap: heavy
libraries are imported inside `load`. The daemon imports engine files to ask what they can do; only the worker
process ever loads one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

type_of_setting = float | int | str | bool


@dataclass(frozen=True, slots=True)
class Option:
    """One of an engine's own settings.

    Attributes:
        name: Key under `settings` in a job file.
        kind: `float`, `int`, `str` or `bool`.
        default: What the engine uses when the job says nothing.
        minimum, maximum: Inclusive bounds for numbers; None means unbounded.
        help: One line for people.
    """

    name: str
    kind: type
    default: type_of_setting | None
    help: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and can do, known without loading it.

    Attributes:
        name: As in a job file's `engine`.
        title, licence: For people.
        library, version: The package that does the work and its version; version is None when not installed.
        missing: None when the engine can run here; else how to install what is missing, in words.
        sample_rate_hz: Of the audio it makes.
        languages: BCP-47 tags it speaks, canonical form, sorted.
        options: Its settings.
        clones_voices: Whether it uses `speaker_wav`.
        needs_voice: Whether it can't speak without one: every passage needs `speaker_wav` or `speaker`.
        needs_transcript: Whether it has to know what is said in the first recording of each passage: `speaker_text`, or
            a text beside the recording. Such an engine has no built-in voices.
        takes_checkpoints: Whether `load` takes a fine-tuned model; one for another engine is refused before.
        speakers: Names of built-in voices a job may give as `speaker`; empty when they depend on the model.
        speaker_sexes: Name of a built-in voice -> `female` or `male`, as far as that is known.
        default_speakers: Language (of `languages`) -> name of the voice that speaks where a job names none.
        model: What it speaks with when a job names no checkpoint, in words.
        device: What it runs on here: `cpu`, or as the configuration says it.
        max_chars: The longest text it likes in one chunk, in characters; longer texts are split before.
        max_chars_in: The same for languages (of `languages`) in which it is another.
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
    max_chars: int = 400
    max_chars_in: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit that is rendered, kept and resumed.

    Attributes:
        text: What to speak; never empty, NFC, one line.
        language: One of the engine's own `languages`.
        seed: 0 … 2**53 - 1; the chunk's audio depends on this and the other fields alone, never on its neighbours.
        speaker: A built-in voice, or None.
        recordings: Reference recordings, absolute paths.
        speaker_text: What is said in the first recording, or None.
        settings: The engine's own options, already checked against `EngineInfo.options`.
    """

    text: str
    language: str
    seed: int
    speaker: str | None = None
    recordings: tuple[Path, ...] = ()
    speaker_text: str | None = None
    settings: Mapping[str, type_of_setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audio:
    """Mono audio of one chunk.

    Attributes:
        samples: float32, shape [n], range -1 … 1.
        rate_hz: Samples per second.
    """

    samples: NDArray[np.float32]
    rate_hz: int


@dataclass(frozen=True, slots=True)
class Device:
    """Where, how and with what to run, as the configuration says it.

    Attributes:
        name, precision, profile, fallback_cpu: Of its `device` section.
        models: Its folder of models, where base models and vocoders are; None for those in the caches alone.
    """

    name: str = "auto"
    precision: str = "auto"
    profile: str = "auto"
    fallback_cpu: bool = False
    models: Path | None = None


class Engine(Protocol):
    """What the worker asks of an engine. One instance lives as long as its model is wanted."""

    @classmethod
    def info(cls) -> EngineInfo:
        """Say what the engine can do. Cheap: no model, no heavy import."""

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        """Map a BCP-47 tag in canonical form to the nearest of `languages`, or None when it speaks none near it."""

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Make ready to render; None means the base model.

        Returns:
            Facts for the manifest: `device` and `precision`; of the model `architecture`, `sha256`, `step` and
            `validation_loss`, as far as they are known; anything else the engine wants to say. Three keys have a
            meaning of their own: `warnings`, a list of sentences, joins the manifest's warnings each time that this
            model is used; `settings` holds what this model uses where a job says nothing, instead of the options'
            defaults; `transcripts`, path of a recording -> text, what of its transcript the job was spoken with.

        Raises:
            EngineMissing, RequestRefused, OutOfMemory, EngineError.
        """

    def render(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Audio] | None]:
        """Render chunks, in any order the engine likes, and yield each with its index as soon as it is done.

        None in between is a sign of life, for engines whose first chunk of many takes long.
        """

    def close(self) -> None:
        """Give everything back."""


class EngineClass(Protocol):
    """A class that makes engines: what the registry hands out."""

    def info(self) -> EngineInfo: ...

    def match_language(self, tag: str) -> str | None: ...

    def __call__(self) -> Engine: ...
