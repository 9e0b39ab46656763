"""The configuration and the engines, as far as reading a job file depends on them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from engines.base import EngineClass, EngineInfo
from engines.checkpoints import inspection
from files.tree import Bounds
from jobs.spec.checkpoint_names import Models
from jobs.spec.job_spec import JobSpec


class NeedsModelFiles(Exception):
    """A job file can't be read in this process, because it names a model."""


@dataclass(frozen=True, slots=True)
class ModelsElsewhere:
    """Replaces `Models` in the daemon, which must not read model files: every method raises NeedsModelFiles."""

    def refer(self, name: object) -> NoReturn:
        raise NeedsModelFiles(str(name))

    find = missing = refer


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for all job files. Create once: it caches what engines report about themselves.

    Attributes:
        engines: Name -> class, from `engines.registry.engines()`.
        planned: Engines of later versions: name -> message.
        default_engine, default_language: For jobs that name none.
        models: Finds checkpoints; None if jobs may not name any.
        token: Identifies these rules; a file that was read by other rules must be read again.
        defaults: For keys that a job does not set: any of checkpoint, speaker, speaker_wav, speaker_text, seed,
            settings, output, priority, timeout_s, on_checkpoint_error. None: not set.
        transcribe: `whisper` if recordings without a transcript are transcribed, else `off`.
        text_chars: Maximum length of the text of one job.
        documents: Maximum number of jobs in one file.
        metadata_bytes: Maximum size of `metadata` as JSON.
        recordings: Maximum number of different recordings in one job.
        recording_uses: Maximum number of recordings in one file, summed over its jobs.
        speaker_text_chars: Maximum length of `speaker_text`.
        bounds: For the YAML and JSON readers.
    """

    engines: Mapping[str, EngineClass]
    planned: Mapping[str, str] = field(default_factory=dict)
    default_engine: str = "espeak"
    default_language: str = "en"
    models: Models | ModelsElsewhere | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    transcribe: str = "off"
    text_chars: int = 1_000_000
    documents: int = 1_000
    metadata_bytes: int = 64 * 1024
    recordings: int = 100
    recording_uses: int = 10_000
    speaker_text_chars: int = 4_000
    bounds: Bounds = field(default_factory=Bounds)
    token: str = field(default_factory=lambda: secrets.token_hex(8), compare=False)
    _known: dict[str, EngineInfo] = field(default_factory=dict, init=False, repr=False, compare=False)

    def info(self, engine: str) -> EngineInfo | None:
        """The description of an engine, cached; None if there is no such engine."""
        if engine not in self._known and engine in self.engines:
            self._known[engine] = self.engines[engine].info()
        return self._known.get(engine)

    def on_checkpoint_error(self, spec: JobSpec) -> str:
        """What to do with a job whose checkpoint can't be used: `fail` or `base`."""
        is_set = "on_checkpoint_error" in spec.model_fields_set
        return spec.on_checkpoint_error if is_set else self.defaults.get("on_checkpoint_error") or "fail"

    def supports_language(self, engine: str, tag: str) -> bool:
        """Whether an engine supports a language. True if a plugin raises: the worker asks again and reports the error,
        which must not end the daemon.
        """
        try:
            return self.engines[engine].match_language(tag) is not None
        except Exception:  # noqa: BLE001 - other people's code
            return True

    def reads_own_formats(self, engine: str) -> bool:
        """Whether an engine takes checkpoints in formats that voicespool does not recognise, as a plugin may."""
        info = self.info(engine)
        return info is not None and info.takes_checkpoints and engine not in inspection.ENGINES
