"""Parses a job file: from bytes to jobs, or to all of their problems.

    bytes -> text (decode) -> trees (yaml12, json_text) -> JobSpec (shape) -> engine and model (engine_choice) ->
    checks -> defaults

Reads no file except through `rules.models`, which lists models/ and reads the headers of model files.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engines.base import EngineInfo
from engines.checkpoints.reference import CheckpointRef
from files import json_text, yaml12
from files.tree import Bounds, Problem, Tree, UnreadableText, dotted
from jobs.errors import JobInvalid
from jobs.names import checked_name
from jobs.order import Fallback
from jobs.spec.checks import Check, fits, path_fault
from jobs.spec.engine_choice import Choice, choose
from jobs.spec.job_spec import JobSpec, Output
from jobs.spec.rules import Rules
from jobs.spec.shape import shape

__all__ = ["Document", "Rules", "parse"]

SHOWN_AT_LEAST = 3
"""Problems shown for each document, even if earlier documents used up `Bounds.file_problems`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One job of a file.

    Attributes:
        spec: The job with all defaults filled in, or None if it has problems.
        problems: In the order of the file; empty if there is a spec.
        model: The checkpoint from the job or the configuration; None for the base model.
        source: This document as a job file with the suffix of its file; for a file with one document, the unchanged
            bytes of the file.
        recordings: Every recording that it names, without duplicates, in order; if it has problems, as far as they
            could be read.
        named_at: Recording -> key and line of its first use in the file.
        warnings: In the order of the file: comments that may have been meant as text.
        without_transcript: Recordings whose transcript the engine needs, and that neither the job nor Whisper provides.
        maybe_unfinished: The last document is cut off, or an empty `---` follows it: more bytes may follow.
    """

    spec: JobSpec | None
    problems: tuple[Problem, ...]
    source: bytes
    recordings: tuple[str, ...]
    maybe_unfinished: bool = False
    model: CheckpointRef | Fallback | None = None
    without_transcript: tuple[str, ...] = ()
    named_at: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


def parse(data: bytes, suffix: str, rules: Rules) -> tuple[Document, ...]:
    """Read a job file.

    Args:
        data: The whole file; the caller limits its size.
        suffix: `.yaml`, `.yml` or `.json`, in any case.
        rules: The configuration and the engines.

    Returns:
        At least one document. An invalid document does not affect the others.

    Raises:
        JobInvalid: The file can't be read at all, or holds no document.
    """
    try:
        text = decode(data)
        documents = _json(text, rules) if suffix.lower() == ".json" else _yaml(text, rules)
    except UnreadableText as error:
        raise JobInvalid([error.problem], maybe_unfinished=error.maybe_unfinished) from None
    if not documents:
        raise JobInvalid([Problem("there is no job in this file")], maybe_unfinished=True)
    if len(documents) == 1:
        (only,) = documents
        return (replace(only, source=data),)
    uses = sum(len(document.recordings) for document in documents)
    if uses > rules.recording_uses:  # the daemon searches for and copies each of them
        message = f"the jobs of this file name {uses} recordings; at most {rules.recording_uses} are allowed"
        raise JobInvalid([Problem(f"{message} (limits.recording_uses); split the file")])
    return tuple(documents)


def decode(data: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        UnreadableText: Another encoding, or cut off inside a character.
    """
    encoding = "utf-8-sig"
    # Before UTF-16: the UTF-32 mark starts with the UTF-16 mark.
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise UnreadableText("this is UTF-32; save it as UTF-8", 1)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        what = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "the end"
        raise UnreadableText(f"this is not {name} ({what} in line {line}); save it as UTF-8", line) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        message = "zero bytes in the file: still being written, not text, or UTF-16 without a byte order mark"
        raise UnreadableText(message, line)
    return text


def _json(text: str, rules: Rules) -> list[Document]:
    jobs, budget = json_text.read(text, rules.bounds, rules.documents), _ProblemBudget(rules.bounds)
    return [budget.spend(_document(tree, part.encode(), rules, budget.next_document)) for tree, part in jobs]


@dataclass(slots=True)
class _ProblemBudget:
    """Limits the problems shown for a file, so that each of a thousand invalid documents is reported, but briefly."""

    bounds: Bounds
    shown: int = 0

    @property
    def next_document(self) -> int:
        return min(self.bounds.problems, max(SHOWN_AT_LEAST, self.bounds.file_problems - self.shown))

    def spend(self, document: Document) -> Document:
        self.shown += len(document.problems)
        return document


def _yaml(text: str, rules: Rules) -> list[Document]:
    pieces = []
    for piece in yaml12.split(text):
        pieces.append(piece)
        if len(pieces) > rules.documents:
            raise UnreadableText(
                f"more than {rules.documents} jobs in one file (limits.documents)", piece.line, maybe_unfinished=False
            )
    documents: list[Document] = []
    budget = _ProblemBudget(rules.bounds)
    unreadable: UnreadableText | None = None
    for piece in pieces:
        try:
            tree = _json_in_yaml(piece, rules) or yaml12.read(piece, rules.bounds)
        except UnreadableText as error:
            error.maybe_unfinished &= piece is pieces[-1]  # more bytes can only complete the last document
            broken = Document(None, (error.problem,), piece.text.encode(), (), error.maybe_unfinished)
            documents.append(broken)
            unreadable = error
            continue
        if tree is not None:
            documents.append(budget.spend(_document(tree, piece.text.encode(), rules, budget.next_document)))
        # A writer may have paused after `---`.
        elif piece is pieces[-1] and documents and piece.text.startswith("---"):
            documents[-1] = replace(documents[-1], maybe_unfinished=True)
    if unreadable is not None and len(documents) == 1:
        raise unreadable
    return documents


def _json_in_yaml(piece: yaml12.YamlDocument, rules: Rules) -> Tree | None:
    """Read JSON in a YAML file, with escapes (`\\ud83d\\ude00`) that libyaml refuses; None if it is not JSON."""
    if piece.line > 1 or not piece.text.lstrip().startswith("{"):
        return None
    try:
        return json_text.read(piece.text, rules.bounds, 1, in_yaml=True)[0][0]
    except UnreadableText:
        return None


def _document(tree: Tree, source: bytes, rules: Rules, max_problems: int) -> Document:
    spec, findings = shape(tree, max_problems)
    if spec is None:
        return Document(None, findings.problems(), source, (), warnings=findings.warnings)
    choice = choose(spec, rules, findings)
    info = rules.info(choice.engine) if choice.engine is not None else None
    voice = _default_voice(spec, rules, choice, info)
    has_recordings = bool(
        spec.recordings() or rules.defaults.get("speaker_wav") or findings.has(("speaker_wav",), ("segments",))
    )
    Check(spec, rules, findings, info, has_recordings, bool(voice)).all()
    problems = findings.problems()
    named_at = {name: (dotted(path), tree.line_of(path)) for name, path in spec.named_at().items()}
    if problems:
        names = tuple(
            name for name in named_at if not path_fault(name)
        )  # the daemon waits for recordings; these can never arrive
        return Document(None, problems, source, names, named_at=named_at, warnings=findings.warnings)
    spec = _with_defaults(spec, rules, choice, info).model_copy(update=voice)
    is_needed = info is not None and info.needs_transcript and rules.transcribe == "off"
    return Document(
        spec,
        (),
        source,
        spec.recordings(),
        model=choice.model,
        without_transcript=spec.without_transcript(()) if is_needed else (),
        named_at=named_at,
        warnings=findings.warnings,
    )


def _with_defaults(spec: JobSpec, rules: Rules, choice: Choice, info: EngineInfo | None) -> JobSpec:
    """Fill in the defaults of the configuration, where the job sets nothing and its engine supports them."""
    explicit = spec.model_fields_set
    defaults = {key: value for key, value in rules.defaults.items() if value is not None}
    update: dict[str, Any] = {
        "engine": choice.engine,
        "checkpoint": choice.checkpoint,
        "language": spec.language or rules.default_language,
    }
    if spec.name is not None:
        update["name"] = checked_name(spec.name)
    for key in ("seed", "priority", "timeout_s", "on_checkpoint_error"):
        if key in defaults and key not in explicit:
            update[key] = defaults[key]
    if "output" in defaults:
        update["output"] = Output.model_validate({**defaults["output"], **spec.output.model_dump(exclude_unset=True)})
    update["settings"] = _typed({**_usable(defaults.get("settings", {}), info), **spec.settings}, info)
    update["segments"] = tuple(
        segment.model_copy(update={"settings": _typed(segment.settings, info)}) for segment in spec.segments
    )
    return spec.model_copy(update=update)


def _usable(settings: Mapping[str, Any], info: EngineInfo | None) -> dict[str, Any]:
    """The default settings that this engine supports; the others are for other engines."""
    options = {option.name: option for option in info.options} if info is not None else {}
    return {name: value for name, value in settings.items() if name in options and fits(options[name], value)}


def _typed(settings: Mapping[str, Any], info: EngineInfo | None) -> dict[str, Any]:
    """Convert whole numbers for float options, so that `speed: 1` and `speed: 1.0` give the same job."""
    fractions = {option.name for option in info.options if option.kind is float} if info is not None else set()
    return {name: float(value) if name in fractions else value for name, value in settings.items()}


def _default_voice(spec: JobSpec, rules: Rules, choice: Choice, info: EngineInfo | None) -> dict[str, Any]:
    """The default voice for a job without one: the default recording if the engine clones voices, else the default
    speaker if the engine has it. An engine that lists no speakers gets it only if it is the default engine.
    """
    if info is None or spec.speaker is not None or spec.speaker_wav:
        return {}
    defaults = rules.defaults
    if (recordings := defaults.get("speaker_wav")) and info.clones_voices:
        names = (recordings,) if isinstance(recordings, str) else tuple(recordings)
        return {"speaker_wav": names, "speaker_text": spec.speaker_text or defaults.get("speaker_text")}
    speaker, checkpoint = defaults.get("speaker"), defaults.get("checkpoint")
    is_default = info.name == rules.default_engine if checkpoint is None else choice.checkpoint == checkpoint
    has_speaker = speaker in info.speakers if info.speakers else is_default
    return {"speaker": speaker} if speaker is not None and has_speaker else {}
