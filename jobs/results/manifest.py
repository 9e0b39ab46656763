"""`manifest.json`: what was made, from what, how, and how well. `voicespool schema manifest` prints its schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from files.printable import printable_json

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Seconds = Annotated[float, Field(ge=0)]
Status = Literal["done", "failed", "cancelled"]


class ManifestPart(BaseModel):
    """Frozen; engines may say more than is listed, and readers must allow for that."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


class Source(ManifestPart):
    """The job file."""

    file: str
    """Path in the inbox; bytes that are not UTF-8 and control characters as `\\xNN`."""
    sha256: Sha256
    """Of its bytes; empty when they were not read."""
    claimed_at: str
    """ISO 8601, UTC."""
    document: int = 0
    """Which of the file's documents, from 1; 0 when the file is one job."""


class AudioFile(ManifestPart):
    """One audio file of the result."""

    file: str
    sha256: Sha256
    format: str
    sample_rate: int
    """Hz."""
    channels: int
    duration_s: Seconds
    peak_dbfs: float | None
    """Highest sample relative to full scale; null for digital silence."""
    loudness_lufs: float | None = None
    """Integrated loudness; null where it was not measured."""


class SpokenSegment(ManifestPart):
    """What a segment of the job became."""

    text: str | None = None
    """As the job's `segments` have it; not there where the job is one text, which `request` has."""
    start_s: Seconds
    end_s: Seconds
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """The job's, else that of the first chunk; not there for a pause alone."""
    takes: int = 1
    """How often it was rendered before it passed the checks."""
    language: str | None = None
    """BCP-47, as the job or the configuration has it."""
    speaker: str | None = None
    """The voice where it is no recording: as the job names it, else the engine's name for its own; `default` where it
    has none."""
    recordings: list[str] = Field(default_factory=list)
    """Names of the recordings that it was spoken with; `voice.files` has their checksums."""


class SpokenChunk(ManifestPart):
    """What was rendered at once: a sentence, or a part of a long one."""

    text: str
    """As the engine got it."""
    start_s: Seconds
    end_s: Seconds


class Checks(ManifestPart):
    """What the spool thinks of the audio."""

    verdict: Literal["ok", "doubtful"]
    reasons: tuple[str, ...] = ()


class Timing(ManifestPart):
    """Where the time went, in seconds."""

    queued_s: Seconds
    load_s: Seconds = 0.0
    synthesis_s: Seconds = 0.0
    total_s: Seconds
    real_time_factor: Seconds | None = None
    """Synthesis time divided by duration; null without audio."""


class Failure(ManifestPart):
    """Why there is no audio."""

    code: str
    message: str
    hint: str
    retryable: bool
    problems: tuple[dict[str, Any], ...] = ()
    """For a wrong job file: each problem with `line`, `key` and `message`."""


class Manifest(ManifestPart):
    """manifest.json of a result folder.

    What is empty is left out: a key that is not there has nothing to say. Always there are the keys that are required
    here, `audio`, `warnings` and `attempts`; and inside of `engine` and `metadata` nothing is left out.
    """

    model_config = ConfigDict(title="voicespool result manifest", populate_by_name=True)

    schema_: Literal[1] = Field(1, alias="schema")
    job_id: str
    name: str
    """The job file's path in the inbox without extension, or the job's own `name`."""
    status: Status
    source: Source
    finished_at: str
    """When the result was made, ISO 8601, UTC."""
    request: dict[str, Any] | None = None
    """The job as understood, defaults filled in; not there when the file could not be understood."""
    engine: dict[str, Any] | None = None
    """name, library, version, checkpoint (`name` in models/, null for the base model, `architecture`, `sha256`,
    `step`, `validation_loss`, as far as the engine knows them; null where it has no model files), fallback
    (`wanted` and `reason`, where the base model takes the place of a checkpoint; else null), device, precision,
    settings as used, seed."""
    voice: dict[str, Any] | None = None
    """`files`: the recordings (`file`, `sha256`; `transcript`, what the engine was told is said in it, where it needs
    to know; `transcribed_by`, where Whisper wrote it). `speaker`: the first voice that is no recording. `segments` has
    the voice of each."""
    audio: tuple[AudioFile, ...] = ()
    segments: tuple[SpokenSegment, ...] = ()
    """One for each of the job's `segments`, or one for its `text`."""
    chunks: tuple[SpokenChunk, ...] = ()
    """In the order of the audio, up to 500."""
    chunks_file: str | None = None
    """Name of the file in this folder that holds `chunks` instead, where there are more."""
    checks: Checks | None = None
    timing: Timing
    attempts: int = 0
    """How often rendering was started and its end was seen."""
    warnings: tuple[str, ...] = ()
    error: Failure | None = None
    host: str
    version: str

    def to_json(self) -> bytes:
        """Indented JSON with a final newline; text stays readable, what a terminal could trip over is escaped."""
        kept = without_gaps(self.model_dump(mode="json", by_alias=True))
        return printable_json(to_json(kept, indent=2, inf_nan_mode="null").decode()).encode() + b"\n"


_MEANT = frozenset({"audio", "warnings", "peak_dbfs"})
"""Keys that stay when they are empty: lists that programs go through, and digital silence."""
_THEIRS = frozenset({"metadata", "engine"})
"""What is in them belongs to the job and to the engine."""


def without_gaps(part: Any) -> Any:
    """The same JSON without what is empty in it, but for what is the job's or the engine's own."""
    if isinstance(part, dict):
        kept = ((key, value if key in _THEIRS else without_gaps(value)) for key, value in part.items())
        return {key: value for key, value in kept if key in _MEANT or value not in (None, [], {})}
    return [without_gaps(one) for one in part] if isinstance(part, list | tuple) else part


def schema() -> dict[str, Any]:
    """JSON Schema of manifest.json."""
    return Manifest.model_json_schema(by_alias=True)
