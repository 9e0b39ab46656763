"""The models of `manifest.json`, which describes a result. `voicespool schema manifest` prints their schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from files.printable import printable_json

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Seconds = Annotated[float, Field(ge=0)]
Status = Literal["done", "failed", "cancelled"]


class ManifestPart(BaseModel):
    """Frozen. Engines and later versions may add keys, so readers must ignore unknown keys."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


class Source(ManifestPart):
    """The job file."""

    file: str
    """Path in the inbox. Control characters and bytes that are not UTF-8 are escaped as `\\xNN`."""
    sha256: Sha256
    """Of the file's bytes; empty if they were not read."""
    claimed_at: str
    """ISO 8601, UTC."""
    document: int = 0
    """Number of the document in the file, from 1; 0 if the file is one job."""


class AudioFile(ManifestPart):
    """One audio file of the result."""

    file: str
    sha256: Sha256
    format: str
    sample_rate: int
    """In Hz."""
    channels: int
    duration_s: Seconds
    peak_dbfs: float | None
    """Peak level in dBFS; null for digital silence."""
    loudness_lufs: float | None = None
    """Integrated loudness in LUFS; null if it was not measured."""


class SpokenSegment(ManifestPart):
    """A segment of the job in the audio."""

    text: str | None = None
    """From the job's `segments`; missing if the job has one `text`, which is in `request`."""
    start_s: Seconds
    end_s: Seconds
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """The job's seed, else that of the first chunk; missing for a pause alone."""
    takes: int = 1
    """Number of renderings until it passed the checks."""
    language: str | None = None
    """BCP-47 tag from the job or the configuration."""
    speaker: str | None = None
    """The voice if it is not a recording: as named by the job, else the engine's default speaker (`default` if that has
    no name)."""
    recordings: list[str] = Field(default_factory=list)
    """Names of the reference recordings; `voice.files` has their checksums."""


class SpokenChunk(ManifestPart):
    """A part that was rendered in one piece: a sentence, or a part of a long one."""

    text: str
    """As given to the engine."""
    start_s: Seconds
    end_s: Seconds


class Checks(ManifestPart):
    """The result of the checks of the audio."""

    verdict: Literal["ok", "doubtful"]
    reasons: tuple[str, ...] = ()


class Timing(ManifestPart):
    """Durations, in seconds."""

    queued_s: Seconds
    """From the claim to the first attempt."""
    load_s: Seconds = 0.0
    batch_s: Seconds = 0.0
    """From its first chunk to its last, while other jobs were rendered too."""
    jobs_in_batch: int = 1
    """The largest number of jobs that were rendered along with it, itself included."""
    synthesis_s: Seconds = 0.0
    """Its share of the engine's time."""
    total_s: Seconds
    """From the claim to the result."""
    real_time_factor: Seconds | None = None
    """`synthesis_s` divided by the length of the audio; null without audio."""


class Failure(ManifestPart):
    """Why the job failed."""

    code: str
    message: str
    hint: str
    retryable: bool
    problems: tuple[dict[str, Any], ...] = ()
    """Each problem of an invalid job file, with `line`, `key` and `message`."""


class Manifest(ManifestPart):
    """manifest.json of a result folder.

    Keys with an empty value are left out, except required keys, `audio`, `warnings`, `attempts`, and all keys in
    `engine` and `metadata`.
    """

    model_config = ConfigDict(title="voicespool result manifest", populate_by_name=True)

    schema_: Literal[1] = Field(1, alias="schema")
    job_id: str
    name: str
    """The job's `name`, else the path of the job file in the inbox without extension."""
    status: Status
    source: Source
    finished_at: str
    """When the result was written, ISO 8601, UTC."""
    request: dict[str, Any] | None = None
    """The job with all defaults filled in; missing if the job file is invalid."""
    engine: dict[str, Any] | None = None
    """name, library, version, checkpoint (`name` in models/ or null for the base model, `architecture`, `sha256`,
    `step`, `validation_loss`, as far as known; null if the engine has no model files), fallback (`wanted` and `reason`
    if the base model was used instead of a checkpoint; else null), device, precision, settings as used, seed."""
    voice: dict[str, Any] | None = None
    """`files`: the reference recordings (`file`, `sha256`; `transcript` if the engine needs one; `transcribed_by` if
    Whisper wrote it). `speaker`: the first voice that is not a recording. `segments` has the voice of each segment."""
    audio: tuple[AudioFile, ...] = ()
    segments: tuple[SpokenSegment, ...] = ()
    """One per segment of the job; one for a job with `text`."""
    chunks: tuple[SpokenChunk, ...] = ()
    """In the order of the audio, if there are at most 500."""
    chunks_file: str | None = None
    """Name of the file in this folder that contains `chunks`, if there are more than 500."""
    checks: Checks | None = None
    timing: Timing
    attempts: int = 0
    """Number of attempts, without those that ended with the daemon."""
    warnings: tuple[str, ...] = ()
    error: Failure | None = None
    host: str
    version: str

    @classmethod
    def read(cls, data: bytes) -> Manifest | None:
        """A manifest of this version or a later one; None if it is something else."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return None

    def to_json(self) -> bytes:
        """Indented JSON with a final newline. Text stays readable; characters that control a terminal are escaped."""
        kept = without_empty(self.model_dump(mode="json", by_alias=True))
        return printable_json(to_json(kept, indent=2, inf_nan_mode="null").decode()).encode() + b"\n"


_ALWAYS = frozenset({"audio", "warnings", "peak_dbfs"})
"""Keys that stay if they are empty: lists that programs iterate over, and null for digital silence."""
_UNCHANGED = frozenset({"metadata", "engine"})
"""Data of the job and the engine."""


def without_empty(part: Any) -> Any:
    """The same JSON without empty values, except in `metadata` and `engine`."""
    if isinstance(part, dict):
        kept = ((key, value if key in _UNCHANGED else without_empty(value)) for key, value in part.items())
        return {key: value for key, value in kept if key in _ALWAYS or value not in (None, [], {})}
    return [without_empty(item) for item in part] if isinstance(part, list | tuple) else part


def schema() -> dict[str, Any]:
    """JSON Schema of manifest.json."""
    return Manifest.model_json_schema(by_alias=True)
