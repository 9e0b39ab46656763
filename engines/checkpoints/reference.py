"""A checkpoint as a job refers to it: one frozen value, from the job file through the order to the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engines.checkpoints.requirements import Requirement


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A model file, as far as a job needs to know it.

    Attributes:
        path: Its real path.
        name: Its path in models/, or the absolute one where it lies elsewhere; safe to print.
        engine: The one that it is for; None when the file does not tell.
        architecture: In words.
        why_not: Why it does not load and what to do about it; "" when it does.
        validation_loss: Where it says so.
        files: Itself, and what lies beside it and belongs to it.
        needs: What has to be on this machine besides.
        state: Inode, size and mtime (ns) of each of its files that was there: another one when one was replaced.
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
        """The same with the state that its files are in now."""
        return replace(self, state=state_of(self.files))

    def packed(self) -> dict[str, Any]:
        """As plain data that JSON can hold, for `unpacked`."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        needs = [[need.model, need.why, need.cure] for need in self.needs]
        return value | {"path": str(self.path), "files": [str(file) for file in self.files], "needs": needs}

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> CheckpointRef:
        """The reverse.

        Raises:
            TypeError, KeyError: It is none of `packed`'s.
        """
        plain = dict(value)
        plain["path"], plain["files"] = Path(value["path"]), tuple(map(Path, value["files"]))
        plain["needs"] = tuple(Requirement(*need) for need in value["needs"])
        return cls(**plain | {"state": tuple(value["state"])})


def state_of(files: Iterable[Path]) -> tuple[int, ...]:
    """Inode, size and mtime (ns) of each that is there."""
    return tuple(number for file in files for number in _state(file))


def _state(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
