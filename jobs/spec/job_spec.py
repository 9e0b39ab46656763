"""The models of a job: the source of `voicespool schema job`, and of `request` in a manifest.

The models check keys, types and ranges; `checks` checks what depends on the engine or the configuration.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema

from jobs.spec.language import canonical_language
from jobs.spec.problems import Allowed

YEAR_S = 366 * 86400


class SpecPart(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _one_or_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _language(tag: str) -> str:
    canonical = canonical_language(tag)
    if canonical is None:
        raise ValueError(tag)
    return canonical


def _moment(value: object) -> object:
    """Parse a date and time with a UTC offset in whole minutes (RFC 3339); without one, local time."""
    moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
    if isinstance(moment, datetime) and (moment.utcoffset() or timedelta()) % timedelta(minutes=1):
        raise ValueError(value)
    if isinstance(moment, datetime) and moment.tzinfo is None:
        try:
            return moment.astimezone()
        except (OverflowError, OSError) as error:
            raise ValueError(value) from error
    return moment


def _settings(value: object) -> object:
    """Remove settings with a null value, as if they were left out."""
    if not isinstance(value, dict) or None not in value.values():
        return value
    return {key: setting for key, setting in value.items() if setting is not None}


_LIST_OF_NAMES = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 32}

Text = Annotated[str, Field(min_length=1), Allowed("text")]
Name = Annotated[str, Field(min_length=1, max_length=200), Allowed("a name, as text")]
FileName = Annotated[str, Field(min_length=1, max_length=1000)]
Language = Annotated[
    str,
    AfterValidator(_language),
    Allowed("a language tag (BCP-47), such as en, pt-BR or zh-Hant"),
    Field(examples=["en", "pt-BR", "es-419"]),
]
Recordings = Annotated[
    tuple[Annotated[FileName, Allowed("the name of a recording")], ...],
    Strict(False),
    Field(max_length=32),
    BeforeValidator(_one_or_list),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _LIST_OF_NAMES]}),
    Allowed("the name of a recording, or a list of up to 32"),
]
Settings = Annotated[
    dict[str, Any],
    BeforeValidator(_settings),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["number", "string", "boolean", "null"]}}),
    Allowed("settings of the engine, such as {speed: 1.2}"),
]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2026-12-01T08:00:00-03:00"]}),
    Allowed("a date and time such as 2026-12-01T08:00:00-03:00 (without a time zone: local time)"),
]
Seed = Annotated[int, Field(ge=0, lt=2**53), Strict(), Allowed("a whole number from 0 to 2**53-1")]
Priority = Annotated[int, Field(ge=0, le=9), Strict(), Allowed("a whole number from 0 (last) to 9 (first)")]
Seconds = Annotated[
    float,
    Field(gt=0, le=YEAR_S, allow_inf_nan=False),
    Strict(),
    Allowed("a number of seconds above 0, at most a year"),
]
SubtitleFormats = Annotated[
    tuple[Literal["srt", "vtt"], ...],
    Strict(False),
    Field(max_length=2),
    BeforeValidator(_one_or_list),
    WithJsonSchema({"anyOf": [{"enum": ["srt", "vtt"]}, {"type": "array", "items": {"enum": ["srt", "vtt"]}}]}),
    Allowed("srt, vtt, or a list of them"),
]


class Output(SpecPart):
    """The audio file of a result."""

    format: Literal["wav", "flac", "mp3", "opus"] = Field(
        default="wav", description="Audio file format. Only wav in this version."
    )
    sample_rate: Annotated[int | None, Field(ge=8000, le=96000), Allowed("a whole number from 8000 to 96000 (Hz)")] = (
        Field(
            default=None,
            description="Sample rate in Hz. In this version, only the engine's own rate (the default).",
        )
    )
    loudness_lufs: Annotated[float | None, Field(ge=-70, le=0), Allowed("a number from -70 to 0 (LUFS)")] = Field(
        default=None, description="Target loudness in LUFS. Not available in this version."
    )
    subtitles: SubtitleFormats = Field(default=(), description="Subtitle formats. Not available in this version.")


class Segment(SpecPart):
    """A part of a job with its own text, voice, language or settings. It inherits the other keys from the job, but a
    segment with its own voice inherits no voice keys."""

    text: Text = Field(description="Text to speak. `[pause 800ms]` inserts a pause.")
    language: Language | None = Field(default=None, description="Language of this segment: a BCP-47 tag.")
    speaker: Name | None = Field(default=None, description="A voice built into the model or engine.")
    speaker_wav: Recordings = Field(default=(), description="Reference recording of the voice, or several.")
    speaker_text: Text | None = Field(default=None, description="Transcript of the first recording.")
    settings: Settings = Field(default_factory=dict, description="Settings of the engine for this segment.")
    pause_after_ms: Annotated[int, Field(ge=0, le=60_000), Allowed("a whole number from 0 to 60000 (milliseconds)")] = (
        Field(default=0, description="Silence after this segment, in milliseconds. 0: a natural pause.")
    )


class JobSpec(SpecPart):
    """A job: what to speak, and how. Exactly one of text, text_file and segments is required."""

    text: Text | None = Field(default=None, description="Text to speak. `[pause 800ms]` inserts a pause.")
    text_file: Annotated[FileName | None, Allowed("the name of a text file")] = Field(
        default=None, description="File that contains the text. Not available in this version."
    )
    segments: Annotated[
        tuple[Annotated[Segment, Allowed("a segment such as {text: Hello}")], ...],
        Strict(False),
        Field(json_schema_extra={"minItems": 1}),
        Allowed("a list of segments, each with its `text`"),
    ] = Field(
        default=(),
        description="Parts with their own voice, language or settings, spoken in order.",
    )
    language: Language | None = Field(
        default=None, description="Language of the text: a BCP-47 tag. Default: from config.yaml."
    )
    engine: Name | None = Field(
        default=None,
        description="Engine that renders the job; `voicespool engines` lists them. Default: the engine of the "
        "checkpoint, else from config.yaml.",
    )
    checkpoint: Annotated[FileName | None, Allowed("the name of a model")] = Field(
        default=None,
        description="Fine-tuned model: a name or a path in models/. Default: from config.yaml, else the base model.",
    )
    speaker_wav: Recordings = Field(
        default=(),
        description="Reference recording of the voice, or several: next to the job file, else in voices/. "
        "The extension may be left out.",
    )
    speaker_text: Text | None = Field(default=None, description="Transcript of the first recording.")
    speaker: Name | None = Field(
        default=None, description="A voice built into the model or engine, instead of speaker_wav."
    )
    seed: Seed | None = Field(
        default=None, description="Decides the random choices of an engine. Default: derived from the text."
    )
    settings: Settings = Field(
        default_factory=dict, description="Settings of the engine; `voicespool engines` lists them."
    )
    output: Annotated[Output, Allowed("keys such as {format: wav}")] = Field(
        default=Output(), description="Format of the finished audio."
    )
    priority: Priority = Field(default=5, description="Order in the queue: 0 (last) to 9 (first).")
    not_before: Moment | None = Field(
        default=None, description="Earliest start: a date and time. Without a time zone: local time."
    )
    timeout_s: Seconds | None = Field(
        default=None, description="Maximum rendering time, in seconds. Default: limits.render_s in config.yaml."
    )
    on_checkpoint_error: Literal["fail", "base"] = Field(
        default="fail",
        description="If the checkpoint does not load: fail, or render with the base model and add a warning.",
    )
    metadata: Annotated[dict[str, Any], Allowed("keys with values of your own")] = Field(
        default_factory=dict, description="Your own data; copied to the manifest."
    )
    name: Annotated[FileName | None, Allowed("a name such as evening/news")] = Field(
        default=None, description="Name of the result; `/` makes subfolders. Default: the name of the job file."
    )

    def packed(self) -> dict[str, Any]:
        """As plain data for JSON and `model_validate`, without keys that the job does not set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def full_segments(self) -> tuple[Segment, ...]:
        """The segments with the inherited keys of the job filled in; `text` gives one segment."""
        return tuple(map(self._filled, self.segments or (Segment(text=self.text or " "),)))

    def _filled(self, segment: Segment) -> Segment:
        """Fill in a segment. One with its own voice inherits no voice keys."""
        update: dict[str, Any] = {
            "language": segment.language or self.language,
            "settings": {**self.settings, **segment.settings},
        }
        if segment.speaker is None and not segment.speaker_wav:
            update |= {
                "speaker": self.speaker,
                "speaker_wav": self.speaker_wav,
                "speaker_text": segment.speaker_text or self.speaker_text,
            }
        return segment.model_copy(update=update)

    def without_transcript(self, transcripts: Container[str]) -> tuple[str, ...]:
        """The first recording of each segment, if neither the job nor `transcripts` has its transcript."""
        cloned = (segment for segment in self.full_segments() if segment.speaker_wav and segment.speaker_text is None)
        names = (segment.speaker_wav[0] for segment in cloned)
        return tuple(dict.fromkeys(name for name in names if name not in transcripts))

    def recordings(self) -> tuple[str, ...]:
        """Every recording that the job names, without duplicates, in order."""
        return tuple(self.named_at())

    def named_at(self) -> dict[str, tuple[str | int, ...]]:
        """Every recording that the job names -> the path of the key that names it first, as in `tree.Path`."""
        places: dict[str, tuple[str | int, ...]] = dict.fromkeys(self.speaker_wav, ("speaker_wav",))
        for index, segment in enumerate(self.segments):
            for name in segment.speaker_wav:
                places.setdefault(name, ("segments", index, "speaker_wav"))
        return places
