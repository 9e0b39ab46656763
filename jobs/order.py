"""The order that the daemon sends to a worker for one job, and the worker's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from engines.base import Device
from engines.checkpoints.reference import CheckpointRef
from files.printable import printable


@dataclass(frozen=True, slots=True)
class Fallback:
    """A checkpoint that can't be used, for which the job allows the base model instead; printable.

    Attributes:
        wanted: Name of the checkpoint in the job or in the configuration.
        reason: Why it can't be used.
    """

    wanted: str
    reason: str

    @classmethod
    def recorded(cls, engine: Mapping[str, Any]) -> Fallback | None:
        """Read it from the `engine` of a rendering or a manifest."""
        value = engine.get("fallback")
        if not isinstance(value, Mapping):
            return None
        return cls(printable(value.get("wanted"), 200), printable(value.get("reason")))

    def __str__(self) -> str:
        return f"the base model is used instead of the checkpoint {self.wanted}: {self.reason}"


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Limits of one job that only the worker can enforce; named as in `limits` of the configuration.

    Attributes:
        audio_s: Maximum length of the audio, pauses included.
        speaker_text_chars: Maximum length of a transcript, from any source.
    """

    audio_s: float = 86_400.0
    speaker_text_chars: int = 4_000


@dataclass(frozen=True, slots=True)
class Order:
    """One job as sent to the worker.

    Attributes:
        job_id: For log lines.
        stem: Safe file name without extension for the finished files (`hello` gives `hello.wav`).
        spec: The job, from `JobSpec.packed`.
        engine: Name of the engine.
        checkpoint: With the file's state when the order was written; None for the base model.
        recordings: Each name in the job's `speaker_wav` -> absolute path of the spool's copy.
        transcripts: Each of these names with a transcript file (`ana.txt`) -> its text.
        chunks_dir: Where finished chunks are kept between attempts; may not exist.
        result_dir: An empty folder for the finished files of this attempt.
        device: The `device` section of the configuration.
        models: Absolute path of the models folder; "" if there is none.
        fallback: Set if the base model replaces an unusable checkpoint.
        transcribe: As in `Rules`.
        limits: See `JobLimits`.
    """

    job_id: str
    stem: str
    spec: Mapping[str, Any]
    engine: str
    checkpoint: CheckpointRef | None
    recordings: Mapping[str, str]
    transcripts: Mapping[str, str]
    chunks_dir: str
    result_dir: str
    device: Mapping[str, Any] = field(default_factory=dict)
    fallback: Fallback | None = None
    transcribe: str = "off"
    limits: JobLimits = JobLimits()
    models: str = ""

    def where(self) -> Device:
        """The device and the models folder, for engines."""
        known = {field.name for field in fields(Device)} - {"models"}
        section = {key: value for key, value in self.device.items() if key in known}
        return Device(**section, models=Path(self.models) if self.models else None)

    @property
    def model(self) -> tuple[str, str | None, tuple[int, ...]]:
        """Engine, checkpoint and its state; equal for orders that need the same loaded model."""
        if self.checkpoint is None:
            return self.engine, None, ()
        return self.engine, str(self.checkpoint.path), self.checkpoint.state

    def packed(self) -> dict[str, Any]:
        """As plain data, for `unpacked`. JSON, except that a job's metadata may hold infinity and NaN."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        value["checkpoint"] = self.checkpoint.packed() if self.checkpoint else None
        value["fallback"] = asdict(self.fallback) if self.fallback else None
        return value | {"limits": asdict(self.limits)}

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> Order:
        """The reverse of `packed`; unknown keys are ignored.

        Raises:
            TypeError, KeyError: The value is not from `packed`.
        """
        parts = {field.name: value[field.name] for field in fields(cls)}
        parts["checkpoint"] = CheckpointRef.unpacked(parts["checkpoint"]) if parts["checkpoint"] else None
        parts["fallback"] = Fallback(**parts["fallback"]) if parts["fallback"] else None
        return cls(**parts | {"limits": JobLimits(**parts["limits"])})


@dataclass(frozen=True, slots=True)
class Rendering:
    """A finished rendering: the parts of the manifest that only the worker knows, all valid JSON.

    Attributes:
        files: Names of the files in `result_dir`, in the order of the manifest.
        engine: name, library, version, checkpoint (name, architecture, sha256, step, validation_loss; or None),
            fallback (wanted, reason; or None), device, precision, settings, seed.
        voice: `{"files": [{"file", "sha256"}]}`, with `transcript` where the engine needs one, and `transcribed_by`
            if Whisper wrote it; `{"speaker": name}` for the first voice that is not a recording.
        audio: One object per file: file, sha256, format, sample_rate, channels, duration_s, peak_dbfs, loudness_lufs.
        segments: start_s, end_s, seed, takes, language, speaker or recordings; text if the job has segments.
        chunks: text, start_s, end_s; empty if they are in `chunks_file`.
        chunks_file: Name of a file in `files` that holds the chunks instead, or "".
        checks: `{"verdict": "ok" | "doubtful", "reasons": [...]}`.
        timing: load_s, batch_s, jobs_in_batch, synthesis_s; see `Timing` of the manifest.
        warnings: Sentences.
    """

    files: tuple[str, ...]
    engine: Mapping[str, Any]
    voice: Mapping[str, Any]
    audio: tuple[Mapping[str, Any], ...]
    segments: tuple[Mapping[str, Any], ...]
    checks: Mapping[str, Any]
    timing: Mapping[str, float | int]
    warnings: tuple[str, ...] = ()
    chunks: tuple[Mapping[str, Any], ...] = ()
    chunks_file: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job.

    Attributes:
        done: Finished chunks, those from earlier attempts included.
        total: Chunks of the job.
        audio_s: Length of the finished chunks' audio.
    """

    done: int
    total: int
    audio_s: float


class RenderStopped(Exception):
    """The rendering stopped after a chunk, as requested; finished chunks are kept."""
