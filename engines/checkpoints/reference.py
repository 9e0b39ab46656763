"""A checkpoint as a job refers to it: one frozen value, from the job file to the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engines.checkpoints.requirements import Requirement


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """The properties of a checkpoint that jobs need.

    Attributes:
        path: Its real path.
        name: Its path in models/, or the absolute one for a file elsewhere; safe to print.
        engine: Name of its engine; None if the file is not recognised.
        architecture: In words.
        why_not: Why it can't be loaded, and what to do; "" if it can.
        validation_loss: None if the file has none.
        files: Its file, and those next to it that belong to it.
        needs: Models that it needs besides.
        state: Inode, size and mtime (ns) of each existing file; differs once a file is replaced.
    """

    path: Path
    name: str
    engine: str | None = None
    architecture: str = ""
    why_not: str = ""
    validation_loss: float | None = None
    files: tuple[Path, ...] = ()
    needs: tuple[Requirement, ...] = ()
    state: tuple[int, ...] = ()

    def now(self) -> CheckpointRef:
        """A copy with the current state of its files."""
        return replace(self, state=state_of(self.files))

    def packed(self) -> dict[str, Any]:
        """As plain data for JSON; `unpacked` reads it."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        needs = [[need.model, need.why, need.cure] for need in self.needs]
        return value | {"path": str(self.path), "files": [str(file) for file in self.files], "needs": needs}

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> CheckpointRef:
        """Read the result of `packed`.

        Raises:
            TypeError, KeyError: It is something else.
        """
        plain = dict(value)
        plain["path"], plain["files"] = Path(value["path"]), tuple(map(Path, value["files"]))
        plain["needs"] = tuple(Requirement(*need) for need in value["needs"])
        return cls(**plain | {"state": tuple(value["state"])})


def state_of(files: Iterable[Path]) -> tuple[int, ...]:
    """Inode, size and mtime (ns) of each file that exists."""
    return tuple(number for file in files for number in _state(file))


def _state(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
