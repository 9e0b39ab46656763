"""A job as typed data: what `voicespool schema job` prints, the manifest calls `request`, and a worker
renders.

The models hold the shape (keys, kinds, ranges); what depends on the engine or on the configuration is in `checks`.
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
    """Frozen, and nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _one_or_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _language(tag: str) -> str:
    canonical = canonical_language(tag)
    if canonical is None:
        raise ValueError(tag)
    return canonical


def _moment(value: object) -> object:
    """A point in time with its zone in whole minutes (RFC 3339); without one, the zone of this machine."""
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
    """An empty value is a setting left out."""
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
    Allowed("options of the engine, such as {speed: 1.2}"),
]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2026-12-01T08:00:00-03:00"]}),
    Allowed("a date and time such as 2026-12-01T08:00:00-03:00; without a zone it is this machine's local time"),
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
    """The finished audio."""

    format: Literal["wav", "flac", "mp3", "opus"] = Field(
        default="wav", description="Kind of audio file. Only wav in this version."
    )
    sample_rate: Annotated[int | None, Field(ge=8000, le=96000), Allowed("a whole number from 8000 to 96000 (Hz)")] = (
        Field(
            default=None,
            description="Samples per second. Default, and in this version the only choice: the engine's own.",
        )
    )
    loudness_lufs: Annotated[float | None, Field(ge=-70, le=0), Allowed("a number from -70 to 0 (LUFS)")] = Field(
        default=None, description="Loudness to bring the audio to, in LUFS. Not available in this version."
    )
    subtitles: SubtitleFormats = Field(default=(), description="Subtitle files to make. Not available in this version.")


class Segment(SpecPart):
    """A passage with its own voice, language or settings; what it leaves out is the job's."""

    text: Text = Field(description="What to speak. `[pause 800ms]` inside is a pause.")
    language: Language | None = Field(default=None, description="Language of this passage.")
    speaker: Name | None = Field(default=None, description="A voice that the model or engine has built in.")
    speaker_wav: Recordings = Field(default=(), description="Recording or recordings of the voice to speak with.")
    speaker_text: Text | None = Field(default=None, description="What is said in the first recording.")
    settings: Settings = Field(default_factory=dict, description="The engine's own options, for this passage.")
    pause_after_ms: Annotated[int, Field(ge=0, le=60_000), Allowed("a whole number from 0 to 60000 (milliseconds)")] = (
        Field(default=0, description="Silence after this passage, in milliseconds.")
    )


class JobSpec(SpecPart):
    """A job file: what to speak, and how. Exactly one of text, text_file and segments is required."""

    text: Text | None = Field(default=None, description="What to speak. `[pause 800ms]` inside is a pause.")
    text_file: Annotated[FileName | None, Allowed("the name of a text file")] = Field(
        default=None, description="A file that holds the text. Not available in this version."
    )
    segments: Annotated[
        tuple[Annotated[Segment, Allowed("a passage such as {text: Hello}")], ...],
        Strict(False),
        Field(json_schema_extra={"minItems": 1}),
        Allowed("a list of passages, each with its `text`"),
    ] = Field(
        default=(),
        description="Passages with voices, languages and settings of their own, spoken one after the other.",
    )
    language: Language | None = Field(
        default=None, description="Language of the text: a BCP-47 tag. Default: the spool's."
    )
    engine: Name | None = Field(
        default=None, description="What speaks. `voicespool engines` lists them. Default: the spool's."
    )
    checkpoint: Annotated[FileName | None, Allowed("the name of a model")] = Field(
        default=None,
        description="A fine-tuned model: a name under models/, or a path in it. Default: the engine's base model.",
    )
    speaker_wav: Recordings = Field(
        default=(),
        description="Recording or recordings of the voice: next to the job file first, then in voices/. "
        "The ending may be left out.",
    )
    speaker_text: Text | None = Field(default=None, description="What is said in the first recording.")
    speaker: Name | None = Field(default=None, description="Instead: a voice that the model or engine has built in.")
    seed: Seed | None = Field(
        default=None, description="For engines with chance in them. Default: follows from the text."
    )
    settings: Settings = Field(
        default_factory=dict, description="The engine's own options; `voicespool engines` lists them."
    )
    output: Annotated[Output, Allowed("keys such as {format: wav}")] = Field(
        default=Output(), description="The finished audio: its format and rate."
    )
    priority: Priority = Field(default=5, description="0 (last) to 9 (first).")
    not_before: Moment | None = Field(default=None, description="Do not start before. Without a zone: local time.")
    timeout_s: Seconds | None = Field(
        default=None, description="Longest time to render, in seconds. Default: the spool's limits.render_s."
    )
    on_checkpoint_error: Literal["fail", "base"] = Field(
        default="fail",
        description="When the checkpoint does not load: fail, or render with the base model and say so.",
    )
    metadata: Annotated[dict[str, Any], Allowed("keys with values of your own")] = Field(
        default_factory=dict, description="Yours; comes back in the manifest."
    )
    name: Annotated[FileName | None, Allowed("a name such as evening/news")] = Field(
        default=None, description="Name of the result; `/` makes subfolders. Default: that of the job file."
    )

    def packed(self) -> dict[str, Any]:
        """As plain data that JSON can hold, for `model_validate`: what was left out stays left out."""
        return self.model_dump(mode="json", exclude_unset=True)

    def passages(self) -> tuple[Segment, ...]:
        """The segments with everything filled in that the job says for all; `text` makes one segment."""
        return tuple(map(self._filled, self.segments or (Segment(text=self.text or " "),)))

    def _filled(self, segment: Segment) -> Segment:
        """A segment that names a voice of its own takes nothing of the job's voice."""
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

    def untold(self, transcripts: Container[str]) -> tuple[str, ...]:
        """Recordings that passages speak with, and of which neither the job nor `transcripts` tells what is said."""
        voices = (passage for passage in self.passages() if passage.speaker_wav and passage.speaker_text is None)
        names = (passage.speaker_wav[0] for passage in voices)
        return tuple(dict.fromkeys(name for name in names if name not in transcripts))

    def recordings(self) -> tuple[str, ...]:
        """Every recording that it names, once each, in order."""
        return tuple(self.named_at())

    def named_at(self) -> dict[str, tuple[str | int, ...]]:
        """Every recording that it names -> the place of the list in which it does so first, as in `tree.Path`."""
        places: dict[str, tuple[str | int, ...]] = dict.fromkeys(self.speaker_wav, ("speaker_wav",))
        for index, segment in enumerate(self.segments):
            for name in segment.speaker_wav:
                places.setdefault(name, ("segments", index, "speaker_wav"))
        return places
