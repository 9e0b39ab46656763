"""The record of a claimed job: what it is and what became of it, in one file that only grows."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from files.durable import create, start_writing, sync_and_close, to_json, write_all
from files.opens import read_whole


class Record:
    """`claim.json` of a claim: one JSON object per line, each of them a change that was appended with one write.

    Of a value that was set twice, the last one counts. A power failure can cut the last line; that change then did not
    happen. Each change starts with a line break, so the next one is whole again.

    Attributes:
        path: The file.
        changes: All changes, oldest first.
    """

    __slots__ = ("changes", "path")

    def __init__(self, path: Path, changes: list[Mapping[str, Any]] | None = None) -> None:
        self.path, self.changes = path, changes or []

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record; an empty one if the file is missing."""
        changes: list[Mapping[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for line in read_whole(path).splitlines():
                with contextlib.suppress(ValueError, RecursionError):
                    change = json.loads(line)
                    changes += [change] if isinstance(change, dict) else []
        return cls(path, changes)

    def start(self, **change: Any) -> int:
        """Write the file with its first change. Returns its descriptor, for `files.durable.sync_and_close`."""
        fd = create(self.path, to_json(change), may_exist=True)
        self.changes = [change]
        return fd

    def write(self, **change: Any) -> int:
        """Append a change. Returns the descriptor of the file, for `files.durable.sync_and_close`."""
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:  # a damaged claim that is being completed
            fd = create(self.path, b"")
        try:
            write_all(fd, b"\n" + to_json(change))
            start_writing(fd)
        except OSError:
            os.close(fd)
            raise
        self.changes.append(change)
        return fd

    def add(self, *, durable: bool = True, **change: Any) -> None:
        """Append a change. With `durable`, it is on disk on return."""
        fd = self.write(**change)
        if durable:
            sync_and_close([fd])
        else:
            os.close(fd)

    def last(self, name: str) -> Any:
        """The value that a change set last; None if none did."""
        return next((change[name] for change in reversed(self.changes) if name in change), None)

    def merged(self) -> dict[str, Any]:
        """All values."""
        return {name: value for change in self.changes for name, value in change.items()}

    # --- what became of the job ---

    @property
    def is_cancelled(self) -> bool:
        return bool(self.last("cancelled"))

    @property
    def is_alone(self) -> bool:
        """Whether the job must not be rendered along with others: it was there when the engine failed with several."""
        return bool(self.last("alone"))

    @property
    def intent(self) -> Mapping[str, Any]:
        """The intent to publish, if a crash came before the release; else {}."""
        return self.last("intent") or {}

    def failed_attempts(self) -> list[Mapping[str, Any]]:
        """The outcomes of the attempts that failed. An attempt that ended with the daemon has none."""
        return [change["outcome"] for change in self.changes if "outcome" in change]

    @property
    def is_attempt_open(self) -> bool:
        """Whether an attempt was started that has no outcome."""
        marks = [name for change in self.changes for name in ("started_at", "outcome") if name in change]
        return marks[-1:] == ["started_at"]
