"""What a job needs beside its file and may come after it: recordings, and texts beside them that say what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from files.allowed_paths import NotAllowed
from files.opens import content_of, is_being_written, opened_regular
from files.printable import printable
from jobs.spec.parse import Document
from watcher.client.status import SHOWN

Find = Callable[[str], Path | None]
"""A recording's name -> where it is, None for not there; NotAllowed for never."""


@dataclass(slots=True)
class Needs:
    """What the jobs of a file name that has to be there before they start.

    Attributes:
        recordings: Their names, once each, in order.
        untold: Those of them whose words an engine has to know, and only a transcript can tell.
        missing: The one that was waited for when it was last looked.
        paths: Of those that were there then.
    """

    recordings: tuple[str, ...]
    untold: frozenset[str]
    missing: str = ""
    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Needs:
        names = dict.fromkeys(name for document in documents for name in document.recordings)
        return cls(tuple(names), frozenset(name for document in documents for name in document.without_transcript))


@dataclass(slots=True)
class Companions:
    """Files that jobs wait for, and since when they are as they are."""

    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def waited_for(self, needs: Needs, find: Find, now: float, quiet_s: float) -> str:
        """What the jobs of a file wait for, in words; "" for nothing.

        Args:
            find: `Places.find` for the job file's folder.
            now: Monotonic seconds.
            quiet_s: So long must a file have been still where nobody can tell whether it is open.
        """
        if needs.missing and (reason := self._reason([needs.missing], needs, find, (now, quiet_s))):
            return reason  # one look, however many there are
        needs.missing, needs.paths = "", ()
        return self._reason(needs.recordings, needs, find, (now, quiet_s))

    def _reason(self, names: Sequence[str], needs: Needs, find: Find, times: tuple[float, float]) -> str:
        paths = []
        for name in names:
            for what, shown, path in _wanted(name, needs, find):
                if reason := self._not_yet(path, *times):
                    needs.missing = name
                    return f"waiting for the {what} {printable(shown, 200)}: {reason}"
                if path is not None and what == "recording":
                    paths.append(path)
        needs.paths = tuple(paths)
        return ""

    def _not_yet(self, path: Path | None, now: float, quiet_s: float) -> str:
        """Why a file can't be used yet; "" when it can."""
        if path is None:
            return "it is not there"
        try:
            with opened_regular(path) as (fd, status):
                written = is_being_written(fd)
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


def _wanted(name: str, needs: Needs, find: Find) -> Iterator[tuple[str, str, Path | None]]:
    """What it is, its name, and where it is or will be; what can never be had is left out."""
    try:
        path = find(name)
    except NotAllowed:
        return
    yield "recording", name, path
    if path is not None and name in needs.untold:
        yield "transcript", str(PurePosixPath(name).with_suffix(".txt")), path.with_suffix(".txt")
