"""Bytes of a job file -> jobs, or everything that is wrong with them, at once.

    bytes -> text (decode) -> trees (yaml12, json_text) -> JobSpec (shape) -> engine and model (choice) ->
    can it be done (checks) -> defaults

No file is touched but by `rules.models`, which looks at what lies under models/ and at the headers there.
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
"""Problems of each document, however many the documents before it have."""


@dataclass(frozen=True, slots=True)
class Document:
    """One job of a file.

    Attributes:
        spec: The job with all defaults filled in, or None when something is wrong with it.
        problems: What is wrong, in the order of the file; empty when there is a spec.
        model: The checkpoint that it names, or that the configuration names for it; None for the base model.
        source: This document as a job file of its own, with the suffix of the file it came in; of a file with
            one document, the file, byte for byte.
        recordings: Every recording it names, once each, in order; with problems, as far as they could be
            read.
        named_at: Of each recording that the file itself names, the key and the line where it first does.
        warnings: What is odd, but not wrong, in the order of the file: text that YAML takes for a comment.
        untold: Those of them whose words its engine has to know, and neither the job nor Whisper tells.
        maybe_unfinished: The last document of a stream breaks off, or a `---` with nothing behind it follows: more
            bytes may be on their way.
    """

    spec: JobSpec | None
    problems: tuple[Problem, ...]
    source: bytes
    recordings: tuple[str, ...]
    maybe_unfinished: bool = False
    model: CheckpointRef | Fallback | None = None
    untold: tuple[str, ...] = ()
    named_at: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


def parse(data: bytes, suffix: str, rules: Rules) -> tuple[Document, ...]:
    """Read a job file.

    Args:
        data: All of it, at most a few MiB (the caller sees to that).
        suffix: `.yaml`, `.yml` or `.json`, in any case.
        rules: The configuration and the engines.

    Returns:
        At least one document. A document that is wrong leaves the others alone.

    Raises:
        JobInvalid: The file as a whole can't be read, or holds no document.
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
    if uses > rules.recording_uses:  # each is looked for, copied and described
        message = f"the jobs of this file name {uses} recordings together; at most {rules.recording_uses} are allowed"
        raise JobInvalid([Problem(f"{message} (limits.recording_uses), so make several files of it")])
    return tuple(documents)


def decode(data: bytes) -> str:
    """UTF-8 with or without byte order mark, or UTF-16 with one.

    Raises:
        Unreadable: It is something else, or breaks off in the middle of a character.
    """
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise UnreadableText("this is UTF-32; save it as UTF-8", 1)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        found = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "the end"
        raise UnreadableText(f"this is not {name} ({found} in line {line}); save it as UTF-8", line) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        message = "there are zero bytes in it: still being written, no text, or UTF-16 without byte order mark"
        raise UnreadableText(message, line)
    return text


def _json(text: str, rules: Rules) -> list[Document]:
    jobs, left = json_text.read(text, rules.bounds, rules.documents), _Left(rules.bounds)
    return [left.less(_document(tree, part.encode(), rules, left.most)) for tree, part in jobs]


@dataclass(slots=True)
class _Left:
    """How many problems of a file are still to be shown: a thousand wrong documents are named, but briefly."""

    bounds: Bounds
    shown: int = 0

    @property
    def most(self) -> int:
        return min(self.bounds.problems, max(SHOWN_AT_LEAST, self.bounds.file_problems - self.shown))

    def less(self, document: Document) -> Document:
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
    left = _Left(rules.bounds)
    unreadable: UnreadableText | None = None
    for piece in pieces:
        try:
            tree = _json_in_yaml(piece, rules) or yaml12.read(piece, rules.bounds)
        except UnreadableText as error:
            error.maybe_unfinished &= piece is pieces[-1]
            broken = Document(None, (error.problem,), piece.text.encode(), (), error.maybe_unfinished)
            documents.append(broken)
            unreadable = error
            continue
        if tree is not None:
            documents.append(left.less(_document(tree, piece.text.encode(), rules, left.most)))
        elif piece is pieces[-1] and documents and piece.text.startswith("---"):
            documents[-1] = replace(documents[-1], maybe_unfinished=True)
    if unreadable is not None and len(documents) == 1:
        raise unreadable
    return documents


def _json_in_yaml(piece: yaml12.YamlDocument, rules: Rules) -> Tree | None:
    """JSON is YAML, and programs write it so, with escapes (`\\ud83d\\ude00`) that libyaml refuses."""
    if piece.line > 1 or not piece.text.lstrip().startswith("{"):
        return None
    try:
        return json_text.read(piece.text, rules.bounds, 1, in_yaml=True)[0][0]
    except UnreadableText:
        return None


def _document(tree: Tree, source: bytes, rules: Rules, most_problems: int) -> Document:
    spec, findings = shape(tree, most_problems)
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
        names = tuple(name for name in named_at if not path_fault(name))  # nobody waits for what can never be there
        return Document(None, problems, source, names, named_at=named_at, warnings=findings.warnings)
    spec = _with_defaults(spec, rules, choice, info).model_copy(update=voice)
    is_needed = info is not None and info.needs_transcript and rules.transcribe == "off"
    return Document(
        spec,
        (),
        source,
        spec.recordings(),
        model=choice.model,
        untold=spec.untold(()) if is_needed else (),
        named_at=named_at,
        warnings=findings.warnings,
    )


def _with_defaults(spec: JobSpec, rules: Rules, choice: Choice, info: EngineInfo | None) -> JobSpec:
    """What the configuration says for all jobs, where this one says nothing and its engine can do it."""
    given = spec.model_fields_set
    defaults = {key: value for key, value in rules.defaults.items() if value is not None}
    update: dict[str, Any] = {
        "engine": choice.engine,
        "checkpoint": choice.checkpoint,
        "language": spec.language or rules.default_language,
    }
    if spec.name is not None:
        update["name"] = checked_name(spec.name)
    for key in ("seed", "priority", "timeout_s", "on_checkpoint_error"):
        if key in defaults and key not in given:
            update[key] = defaults[key]
    if "output" in defaults:
        update["output"] = Output.model_validate({**defaults["output"], **spec.output.model_dump(exclude_unset=True)})
    update["settings"] = _typed({**_usable(defaults.get("settings", {}), info), **spec.settings}, info)
    update["segments"] = tuple(
        segment.model_copy(update={"settings": _typed(segment.settings, info)}) for segment in spec.segments
    )
    return spec.model_copy(update=update)


def _usable(settings: Mapping[str, Any], info: EngineInfo | None) -> dict[str, Any]:
    """The defaults that this engine has; what only another engine has is no fault of the job."""
    options = {option.name: option for option in info.options} if info is not None else {}
    return {name: value for name, value in settings.items() if name in options and fits(options[name], value)}


def _typed(settings: Mapping[str, Any], info: EngineInfo | None) -> dict[str, Any]:
    """`speed: 1` and `speed: 1.0` are the same job: whole numbers become what the option is."""
    fractions = {option.name for option in info.options if option.kind is float} if info is not None else set()
    return {name: float(value) if name in fractions else value for name, value in settings.items()}


def _default_voice(spec: JobSpec, rules: Rules, choice: Choice, info: EngineInfo | None) -> dict[str, Any]:
    """For a job without a voice: the default recording where the engine can use it, else the default speaker where
    the engine has that one, or does not say whom it has and is what jobs get that name neither engine nor checkpoint.
    """
    if info is None or spec.speaker is not None or spec.speaker_wav:
        return {}
    defaults = rules.defaults
    if (recordings := defaults.get("speaker_wav")) and info.clones_voices:
        names = (recordings,) if isinstance(recordings, str) else tuple(recordings)
        return {"speaker_wav": names, "speaker_text": spec.speaker_text or defaults.get("speaker_text")}
    speaker, checkpoint = defaults.get("speaker"), defaults.get("checkpoint")
    usual = info.name == rules.default_engine if checkpoint is None else choice.checkpoint == checkpoint
    known = speaker in info.speakers if info.speakers else usual
    return {"speaker": speaker} if speaker is not None and known else {}
