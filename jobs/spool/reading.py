"""Reading of a job file: at once if it is small, else in a reader process.

The daemon's loop does nothing that an untrusted file can make slow. Files above `AT_ONCE_BYTES`, and files that name a
model, are given to a `Reader` process. It answers later, with JSON only, because a process that parses untrusted bytes
is not trusted with anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from engines.checkpoints.reference import CheckpointRef
from files.durable import from_json, replace, to_json
from files.tree import Problem
from jobs.errors import JobInvalid
from jobs.order import Fallback
from jobs.spec.job_spec import JobSpec
from jobs.spec.parse import Document, parse
from jobs.spec.rules import Rules
from jobs.spool.claim import ClaimFolder

AT_ONCE_BYTES = 8 << 10
"""The worst file of this size takes a few hundredths of a second to parse."""


class BeingRead(Exception):
    """The file of the next job is still being read; try again when the reading has ended."""

    def __init__(self, reading: Reading) -> None:
        super().__init__("the job file is being read")
        self.reading = reading


@dataclass(slots=True)
class Reading:
    """A job file that is being read, or was read."""

    _result: tuple[Document, ...] | JobInvalid | None = None

    @classmethod
    def at_once(cls, data: bytes, suffix: str, rules: Rules) -> Reading:
        """Read a file now. Raises NeedsModelFiles."""
        try:
            return cls(parse(data, suffix, rules))
        except JobInvalid as invalid:
            return cls(invalid)

    @property
    def ended(self) -> bool:
        return self._result is not None

    def end(self, result: tuple[Document, ...] | JobInvalid) -> None:
        self._result = result

    def documents(self) -> tuple[Document, ...]:
        """The documents of the file, at least one.

        Raises:
            JobInvalid: The file can't be read as a job file.
        """
        if self._result is None:
            raise RuntimeError("the file is still being read")
        if isinstance(self._result, JobInvalid):
            raise self._result
        return self._result


class Reader(Protocol):
    """A process that reads job files."""

    def ask(self, data: bytes, suffix: str) -> Reading:
        """Start reading a job file; the reading ends later."""

    def is_full(self, size_bytes: int) -> bool:
        """Whether too many files are waiting for this one to be added; it then stays in the inbox."""


# --- saved in a claim ------------------------------------------------------------------------------------------------


def save_parsed(folder: ClaimFolder, key: str, result: Document | JobInvalid) -> None:
    """Save a parsed job; valid as long as `key` is the same. Not forced to disk: the file can be parsed again."""
    value = packed(result if isinstance(result, JobInvalid) else (result,))
    replace(folder.understood, to_json({"key": key, **value}), durable=False)


def load_parsed(folder: ClaimFolder, key: str, data: bytes) -> Reading | None:
    """Load what `save_parsed` saved for these bytes and this key; None if there is nothing."""
    saved = from_json(folder.understood)
    if saved.get("key") != key:
        return None
    try:
        return Reading(unpacked(saved, data))
    except (ValueError, TypeError, KeyError):
        return None


# --- as JSON ---------------------------------------------------------------------------------------------------------


def packed(result: tuple[Document, ...] | JobInvalid) -> dict[str, Any]:
    """The result of a reading as plain data, for `unpacked`."""
    if isinstance(result, JobInvalid):
        return {"problems": _pack_problems(result.problems), "maybe_unfinished": result.maybe_unfinished}
    return {"documents": [_pack(document, alone=len(result) == 1) for document in result]}


def unpacked(value: Mapping[str, Any], data: bytes) -> tuple[Document, ...] | JobInvalid:
    """The reverse of `packed`, for the file with these bytes.

    Raises:
        ValueError, TypeError, KeyError: The value is not from `packed`.
    """
    if "documents" not in value:
        problems = tuple(Problem(*problem) for problem in value["problems"])
        return JobInvalid(problems, maybe_unfinished=value["maybe_unfinished"])
    documents = tuple(_unpack(document, data) for document in value["documents"])
    if not documents:
        raise ValueError("no documents")
    return documents


def _pack_problems(problems: Sequence[Problem]) -> list[Any]:
    return [[problem.message, problem.key, problem.line] for problem in problems]


def _pack(document: Document, *, alone: bool) -> dict[str, Any]:
    value = {field.name: getattr(document, field.name) for field in fields(Document)}
    spec, model = document.spec, document.model
    return value | {
        "spec": spec.packed() if spec is not None else None,
        "problems": _pack_problems(document.problems),
        "warnings": _pack_problems(document.warnings),
        # The receiver has the bytes of a single document; they are the whole file.
        "source": None if alone else document.source.decode(),
        "model": _pack_model(model) if model is not None else None,
    }


def _unpack(value: Mapping[str, Any], data: bytes) -> Document:
    spec, source, model = value["spec"], value["source"], value["model"]
    plain = {key: tuple(part) if isinstance(part, list) else part for key, part in value.items()}
    return Document(
        **plain
        | {
            "spec": JobSpec.model_validate(spec) if spec is not None else None,
            "problems": tuple(Problem(*problem) for problem in value["problems"]),
            "warnings": tuple(Problem(*warning) for warning in value["warnings"]),
            "named_at": {name: (key, line) for name, (key, line) in value["named_at"].items()},
            "source": data if source is None else source.encode(),
            "model": _unpack_model(model) if model is not None else None,
        }
    )


def _pack_model(model: CheckpointRef | Fallback) -> dict[str, Any]:
    return model.packed() if isinstance(model, CheckpointRef) else asdict(model)


def _unpack_model(value: Mapping[str, Any]) -> CheckpointRef | Fallback:
    return CheckpointRef.unpacked(value) if "path" in value else Fallback(**value)
