"""What a worker is asked to do with one job, and what it answers: the messages between the two processes."""

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
    """What the base model takes the place of, where a job allows it; safe to print.

    Attributes:
        wanted: The checkpoint, as the job or the configuration names it.
        reason: Why it can't be used.
    """

    wanted: str
    reason: str

    @classmethod
    def told(cls, engine: Mapping[str, Any]) -> Fallback | None:
        """What the `engine` of a rendering or a manifest says of it."""
        said = engine.get("fallback")
        if not isinstance(said, Mapping):
            return None
        return cls(printable(said.get("wanted"), 200), printable(said.get("reason")))

    def __str__(self) -> str:
        return f"the base model takes the place of the checkpoint {self.wanted}: {self.reason}"


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Bounds of one job that only the worker can hold; named as in the `limits` of the configuration.

    Attributes:
        audio_s: Longest audio, pauses included.
        speaker_text_chars: Longest transcript of a recording, whoever wrote it.
    """

    audio_s: float = 86_400.0
    speaker_text_chars: int = 4_000


@dataclass(frozen=True, slots=True)
class Order:
    """One job as the worker gets it.

    Attributes:
        job_id: For log lines.
        stem: Safe file name without extension for the files made (`hello` gives `hello.wav`).
        spec: The job, as `JobSpec.packed` has it.
        engine: Name of the engine, decided.
        checkpoint: In the state that it was in when the order was written; None for the base model.
        recordings: Each name in the spec's `speaker_wav` lists -> absolute path of the spool's own copy.
        transcripts: Each name in the `speaker_wav` lists that has a sidecar transcript -> that text.
        chunks_dir: Where finished chunks are kept from one attempt to the next; exists.
        result_dir: An empty folder of this attempt's own, for the finished files.
        device: The `device` section of the configuration.
        models: Absolute path of the folder of models; "" where there is none.
        fallback: What the base model takes the place of; None when it is not that.
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
        """The device as engines see it."""
        known = {field.name for field in fields(Device)} - {"models"}
        section = {key: value for key, value in self.device.items() if key in known}
        return Device(**section, models=Path(self.models) if self.models else None)

    @property
    def model(self) -> tuple[str, str | None, tuple[int, ...]]:
        """What has to be loaded for it: engine, checkpoint and its state; equal where one loading serves both."""
        if self.checkpoint is None:
            return self.engine, None, ()
        return self.engine, str(self.checkpoint.path), self.checkpoint.state

    def packed(self) -> dict[str, Any]:
        """As plain data, for `unpacked`; JSON but for what a job's metadata may hold, infinity and NaN."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        value["checkpoint"] = self.checkpoint.packed() if self.checkpoint else None
        value["fallback"] = asdict(self.fallback) if self.fallback else None
        return value | {"limits": asdict(self.limits)}

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> Order:
        """The reverse; further keys are left alone.

        Raises:
            TypeError, KeyError: It is none of `packed`'s.
        """
        parts = {field.name: value[field.name] for field in fields(cls)}
        parts["checkpoint"] = CheckpointRef.unpacked(parts["checkpoint"]) if parts["checkpoint"] else None
        parts["fallback"] = Fallback(**parts["fallback"]) if parts["fallback"] else None
        return cls(**parts | {"limits": JobLimits(**parts["limits"])})


@dataclass(frozen=True, slots=True)
class Rendering:
    """What was made: the parts of the manifest that only the worker knows. JSON through and through.

    Attributes:
        files: Names of the files in `result_dir`, in the order of the manifest.
        engine: name, library, version, checkpoint (name, architecture, sha256, step, validation_loss; or None),
            fallback (wanted, reason; or None), device, precision, settings, seed.
        voice: `{"files": [{"file", "sha256"}]}`, with `transcript` where the engine needs one, and `transcribed_by`
            where Whisper listened; `{"speaker": name}` for what is not spoken with a recording.
        audio: One object per file: file, sha256, format, sample_rate, channels, duration_s, peak_dbfs, loudness_lufs.
        segments: start_s, end_s, seed, takes, language, speaker or recordings; text where the job has segments.
        chunks: text, start_s, end_s; empty when they are in a file of their own.
        chunks_file: Name of that one, among `files`; else "".
        checks: `{"verdict": "ok" | "doubtful", "reasons": [...]}`.
        timing: load_s, synthesis_s.
        warnings: Sentences.
    """

    files: tuple[str, ...]
    engine: Mapping[str, Any]
    voice: Mapping[str, Any]
    audio: tuple[Mapping[str, Any], ...]
    segments: tuple[Mapping[str, Any], ...]
    checks: Mapping[str, Any]
    timing: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    chunks: tuple[Mapping[str, Any], ...] = ()
    chunks_file: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        done, total: Chunks that are finished, kept ones included, and that the job has.
        audio_s: Length of the finished chunks' audio together.
    """

    done: int
    total: int
    audio_s: float


class RenderStopped(Exception):
    """The rendering was asked to stop, and did after a chunk; what is finished is kept."""
