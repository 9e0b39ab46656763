"""`manifest.json`: what was made, from what, how, and how well. `voicespool schema manifest` prints its schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.errors import printable_json

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Seconds = Annotated[float, Field(ge=0)]
Status = Literal["done", "failed", "cancelled"]


class Part(BaseModel):
    """Frozen; engines may say more than is listed, and readers must allow for that."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


class Source(Part):
    """The job file."""

    file: str
    """Path in the inbox; bytes that are not UTF-8 and control characters as `\\xNN`."""
    sha256: Sha256
    """Of its bytes; empty when they were not read."""
    claimed_at: str
    """ISO 8601, UTC."""
    document: int = 0
    """Which of the file's documents, from 1; 0 when the file is one job."""


class AudioFile(Part):
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


class SpokenSegment(Part):
    """What a segment of the job became."""

    text: str
    start_s: Seconds
    end_s: Seconds
    seed: int
    takes: int = 1
    """How often it was rendered before it passed the checks."""


class Checks(Part):
    """What the spool thinks of the audio."""

    verdict: Literal["ok", "doubtful"]
    reasons: tuple[str, ...] = ()


class Timing(Part):
    """Where the time went, in seconds."""

    queued_s: Seconds
    load_s: Seconds = 0.0
    synthesis_s: Seconds = 0.0
    total_s: Seconds
    real_time_factor: Seconds | None = None
    """Synthesis time divided by duration; null without audio."""


class Failure(Part):
    """Why there is no audio."""

    code: str
    message: str
    hint: str
    retryable: bool
    problems: tuple[dict[str, Any], ...] = ()
    """For a wrong job file: each problem with `line`, `key` and `message`."""


class Manifest(Part):
    """manifest.json of a result folder."""

    model_config = ConfigDict(title="voicespool result manifest", populate_by_name=True)

    schema_: Literal[1] = Field(1, alias="schema")
    job_id: str
    name: str
    """The job file's path in the inbox without extension, or the job's own `name`."""
    status: Status
    source: Source
    request: dict[str, Any] | None
    """The job as understood, defaults filled in; null when the file could not be understood."""
    engine: dict[str, Any] | None = None
    """name, library, version, checkpoint (`name` in models/, null for the base model, `architecture`, `sha256`,
    `step`, `validation_loss`, as far as the engine knows them; null where it has no model files), fallback
    (`wanted` and `reason`, where the base model takes the place of a checkpoint; else null), device, precision,
    settings as used, seed."""
    voice: dict[str, Any] | None = None
    """`files` with their sha256, or `speaker`."""
    audio: tuple[AudioFile, ...] = ()
    segments: tuple[SpokenSegment, ...] = ()
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
        return printable_json(self.model_dump_json(by_alias=True, indent=2)).encode() + b"\n"


def schema() -> dict[str, Any]:
    """JSON Schema of manifest.json."""
    return Manifest.model_json_schema(by_alias=True)
