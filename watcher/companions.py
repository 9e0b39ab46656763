"""What a job needs beside its file and may come after it: recordings, and texts beside them that say what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from jobs.errors import printable
from jobs.files import content_of, opened_regular, somebody_writes
from jobs.parse import Document
from jobs.recordings import NotAllowed
from watcher.status import SHOWN

Find = Callable[[str], Path | None]
"""A recording's name -> where it is, None for not there; NotAllowed for never."""


@dataclass(slots=True)
class Companions:
    """Files that jobs wait for, and since when they are as they are."""

    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def waited_for(self, documents: Sequence[Document], find: Find, now: float, quiet_s: float) -> str:
        """What the jobs of a file wait for, in words; "" for nothing.

        Args:
            find: `Places.find` for the job file's folder.
            now: Monotonic seconds.
            quiet_s: So long must a file have been still where nobody can tell whether it is open.
        """
        for what, name, path in _wanted(documents, find):
            if reason := self._not_yet(path, now, quiet_s):
                return f"waiting for the {what} {printable(name, 200)}: {reason}"
        return ""

    def _not_yet(self, path: Path | None, now: float, quiet_s: float) -> str:
        """Why a file can't be used yet; "" when it can."""
        if path is None:
            return "it is not there"
        try:
            with opened_regular(path) as (fd, status):
                written = somebody_writes(fd)
        except FileNotFoundError:
            return "it is not there"
        except OSError as error:
            return f"it can't be read: {error.strerror}"
        if written or status.st_size == 0:
            return "it is still being written"
        if written is None and now < self._still_since(str(path), content_of(status), now) + quiet_s:
            return "it came or changed just now"
        return ""

    def _still_since(self, path: str, content: int, now: float) -> float:
        """When a file was first seen as it is now. Needed only where nobody can tell whether it is open."""
        before, since = self._seen.pop(path, (0, now))
        self._seen[path] = content, since if before == content else now
        if len(self._seen) > SHOWN:
            del self._seen[next(iter(self._seen))]  # the one that was asked about longest ago
        return self._seen[path][1]


def _wanted(documents: Sequence[Document], find: Find) -> Iterator[tuple[str, str, Path | None]]:
    """What it is, its name, and where it is or will be; what can never be had is left out."""
    untold = {name for document in documents for name in document.untold}
    for name in dict.fromkeys(name for document in documents for name in document.recordings):
        try:
            path = find(name)
        except NotAllowed:
            continue
        yield "recording", name, path
        if path is not None and name in untold:
            yield "transcript", str(PurePosixPath(name).with_suffix(".txt")), path.with_suffix(".txt")
