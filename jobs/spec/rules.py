"""What reading a job file depends on besides the file: the configuration and the engines there are."""

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


class NotHere(Exception):
    """A job file can't be read here: it takes a look at files of models."""


@dataclass(frozen=True, slots=True)
class ModelsElsewhere:
    """Stands for a spool's models in a process that must not look at their files."""

    def refer(self, name: object) -> NoReturn:
        raise NotHere(str(name))

    find = lacks = refer


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for all job files; make it once, it remembers what engines say of themselves.

    Attributes:
        engines: Name -> class, as `engines.registry.engines()` has it.
        planned: Engines of later versions: name -> sentence that says so.
        default_engine, default_language: For jobs that name none.
        models: Where checkpoints are looked up; None where none may be named.
        token: Names these rules: what was read by others may mean something else.
        defaults: What jobs get that do not say otherwise: any of checkpoint, speaker, speaker_wav, speaker_text, seed,
            settings, output, priority, timeout_s, on_checkpoint_error. None counts as not there.
        transcribe: `whisper` where it listens to recordings without a transcript, else `off`.
        text_chars: Longest text of one job.
        documents: Most jobs in one file.
        metadata_bytes: Largest `metadata`, as JSON.
        recordings: Most different recordings that one job may name.
        recording_uses: Most that all jobs of one file may name; each counts those that it names.
        speaker_text_chars: Longest `speaker_text`.
        bounds: For reading, before anybody asks what it means.
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
        """What an engine says of itself, asked once; None when there is no such engine."""
        if engine not in self._known and engine in self.engines:
            self._known[engine] = self.engines[engine].info()
        return self._known.get(engine)

    def on_checkpoint_error(self, spec: JobSpec) -> str:
        """What a job wants done when its checkpoint can't be used: `fail` or `base`."""
        given = "on_checkpoint_error" in spec.model_fields_set
        return spec.on_checkpoint_error if given else self.defaults.get("on_checkpoint_error") or "fail"

    def speaks(self, engine: str, tag: str) -> bool:
        """Whether an engine speaks a language. A plugin that breaks over the question must not take the daemon with
        it: the worker asks again, and its result says how it broke.
        """
        try:
            return self.engines[engine].match_language(tag) is not None
        except Exception:  # noqa: BLE001 - other people's code
            return True

    def knows_its_files(self, engine: str) -> bool:
        """Whether an engine takes checkpoints that it alone can tell: a plugin, with files of its own kind."""
        info = self.info(engine)
        return info is not None and info.takes_checkpoints and engine not in inspection.ENGINES
