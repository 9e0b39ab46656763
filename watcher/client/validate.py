"""`voicespool validate`: checks a job file by the daemon's own rules, before it is dropped."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engines.checkpoints import requirements
from engines.checkpoints.reference import CheckpointRef
from files.allowed_paths import NotAllowed
from files.opens import opened_regular, read_at_most
from files.printable import printable
from files.tree import Problem
from jobs.errors import JobInvalid
from jobs.names import numbered_document
from jobs.order import Fallback
from jobs.spec.parse import Document, parse
from jobs.spec.rules import Rules
from jobs.spool.inbox_names import why_ignored
from jobs.spool.places import WRITTEN_ENDINGS, Places, read_transcript, transcript_message
from watcher.config.complaints import in_file
from watcher.config.settings import Config

_OPTIONS = {"settings": "setting"}


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of checking one job file.

    Attributes:
        path: As it was given.
        data: Its bytes; b"" when it could not be read.
        documents: Its jobs, also invalid ones; () when it could not be parsed.
        problems: All of them, those of recordings too.
        beside: Recordings next to the file: name in the job, with its ending -> real path.
        by_options: Whether options of `submit` describe the job, so that there is no file whose lines could be named.
        notes: Sentences about what is missing on this machine.
    """

    path: Path
    data: bytes
    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]
    beside: dict[str, Path]
    by_options: bool = False
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """`FILE:LINE: key: message` for each problem, `--option: message` where there is no file."""
        return [self._sentence(problem) for problem in self.problems]

    def warnings(self) -> list[str]:
        """The same for jobs that are rendered, but maybe not as intended: YAML cuts a text, or the base model is used
        instead of a checkpoint.
        """
        models = [str(document.model) for document in self.documents if isinstance(document.model, Fallback)]
        odd = [problem for document in self.documents for problem in document.warnings]
        return [self._sentence(problem) for problem in (*odd, *map(Problem, (*models, *self.notes)))]

    def _sentence(self, problem: Problem) -> str:
        if not self.by_options:
            return in_file(printable(self.path), problem)
        key, _dot, setting = problem.key.partition("[")[0].partition(".")
        option = f"--{_OPTIONS.get(key, key).replace('_', '-')} {setting}".rstrip()
        return f"{option}: {problem.message}" if key else problem.message

    def as_json(self) -> dict[str, Any]:
        problems = [{"line": p.line, "key": p.key, "message": p.message} for p in self.problems]
        return {
            "file": printable(self.path),
            "valid": not self.problems,
            "jobs": len(self.documents),
            "problems": problems,
            "warnings": self.warnings(),
        }

    def jobs(self, name: str) -> list[tuple[str, str]]:
        """The name and the SHA-256 (hex) of each job that it becomes when it is dropped as `name`."""
        if len(self.documents) < 2:
            return [("".join(self._own_names()) or name, hashlib.sha256(self.data).hexdigest())]
        digests = [hashlib.sha256(document.source).hexdigest() for document in self.documents]
        names = [numbered_document(name, number + 1, len(digests)) for number in range(len(digests))]
        return [(own or name, digest) for own, name, digest in zip(self._own_names(), names, digests, strict=True)]

    def _own_names(self) -> list[str]:
        """The name that each job asks for itself; "" for none."""
        return [(document.spec.name or "") if document.spec else "" for document in self.documents]


def check(path: Path, config: Config, rules: Rules) -> Checked:
    """Read a job file by the daemon's rules, and look for the recordings that it names."""
    nothing = Checked(path, b"", (), (), {})
    if (reason := why_ignored(path.name)) and (path.is_symlink() or path.exists()):
        return replace(nothing, problems=(Problem(f"the daemon ignores this file: {reason}"),))
    try:
        data = _read(path, config.limits.job_file_bytes)
    except _NotReadable as error:
        return replace(nothing, problems=(Problem(str(error)),))
    return check_data(path, data, config, rules)


def check_data(
    path: Path, data: bytes, config: Config, rules: Rules, known: Mapping[str, Path] = MappingProxyType({})
) -> Checked:
    """The same for bytes that are, or could be, the file at `path`; `known` has the paths of some recordings."""
    try:
        documents = parse(data, path.suffix, rules)
    except JobInvalid as invalid:
        return Checked(path, data, (), invalid.problems, {})
    problems = [problem for document in documents for problem in document.problems]
    names = dict.fromkeys(name for document in documents for name in document.recordings)
    folder = path.resolve().parent
    named_at = {name: place for document in reversed(documents) for name, place in document.named_at.items()}
    found, missing = _recordings([name for name in names if name not in known], folder, config, named_at)
    untold = _transcripts(documents, {**known, **found})
    named = {_whole(name, folder): real for name, real in found.items()}
    beside = {name: real for name, real in named.items() if (folder / name).exists() and not Path(name).is_absolute()}
    homeless, notes = _base_models(documents, config, rules)
    notes = (*notes, *_unused(documents, rules))
    return Checked(path, data, documents, (*problems, *missing, *untold, *homeless), {**known, **beside}, notes=notes)


class _NotReadable(Exception):
    """A sentence that says why."""


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with opened_regular(path.resolve()) as (fd, _status):
            data = read_at_most(fd, max_bytes)
    except OSError as error:
        reason = "not a regular file" if error.errno == errno.EINVAL else error.strerror
        raise _NotReadable(f"can't be read: {reason}") from None
    if not data:
        raise _NotReadable("empty; the daemon would wait for its content")
    if len(data) > max_bytes:
        raise _NotReadable(f"larger than limits.job_file_bytes ({max_bytes} bytes)")
    return data


def _whole(name: str, folder: Path) -> str:
    """The name of a recording with its ending, which a job may leave out, if it is in this folder."""
    if (folder / name).is_file():
        return name
    return next((name + ending for ending in WRITTEN_ENDINGS if (folder / (name + ending)).is_file()), name)


def _recordings(
    names: list[str], folder: Path, config: Config, named_at: Mapping[str, tuple[str, int]]
) -> tuple[dict[str, Path], list[Problem]]:
    """The paths of the recordings that a job in a folder names, and a problem for each that would not be found."""
    places = Places(
        inbox=folder,
        voices=config.voices,
        state=config.state_dir,
        allowed_roots=(*config.allowed_roots, config.inbox),
        max_bytes=config.limits.recording_bytes,
    )
    there, problems = {}, []
    for name in names:
        place = named_at.get(name, ("speaker_wav", None))
        try:
            found = places.find(name, folder)
        except NotAllowed as error:
            problems.append(Problem(str(error), *place))
            continue
        if found is None:
            problems.append(Problem(places.missing(name, folder), *place))
        elif found.stat().st_size > places.max_bytes:
            message = f"{printable(name)} is larger than limits.recording_bytes ({places.max_bytes} bytes)"
            problems.append(Problem(message, *place))
        else:
            there[name] = found
    return there, problems


def _transcripts(documents: Sequence[Document], recordings: Mapping[str, Path]) -> Iterator[Problem]:
    """One for each recording whose transcript an engine needs and that has none."""
    for document in documents:
        for name in document.without_transcript:
            if name in recordings and document.spec is not None and not read_transcript(recordings[name]):
                yield Problem(transcript_message(str(document.spec.engine), name), "speaker_text")


def _base_models(
    documents: Sequence[Document], config: Config, rules: Rules
) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    """A problem for each engine whose base model would be used and is not here, a note for each that is not here."""
    problems, notes = [], []
    specs = [(document.spec.engine or "", document.model) for document in documents if document.spec is not None]
    for engine in dict.fromkeys(engine for engine, _model in specs):
        info = rules.info(engine)
        if info is not None and info.missing is not None:
            notes.append(
                f"{printable(engine)} is not installed on this machine; to install it: {printable(info.missing)}"
            )
        elif any(not isinstance(model, CheckpointRef) for used, model in specs if used == engine):
            lack = requirements.missing(requirements.of_base_model(engine), config.models)
            problems += [] if lack is None else [Problem(printable(f"{lack.message}. {lack.hint}"), "engine")]
    return tuple(problems), tuple(notes)


def _unused(documents: Sequence[Document], rules: Rules) -> Iterator[str]:
    """A note for each engine that ignores the recordings that it is given."""
    for engine in dict.fromkeys(d.spec.engine or "" for d in documents if d.spec is not None and d.spec.recordings()):
        info = rules.info(engine)
        if info is not None and info.missing is None and not info.clones_voices:
            yield f"{printable(engine)} can't clone voices; speaker_wav is ignored"


def as_json(checked: list[Checked]) -> dict[str, Any]:
    """All files as one object for JSON."""
    files = [one.as_json() for one in checked]
    return {"valid": all(file["valid"] for file in files), "files": files}
