"""Companion files: recordings that a job names, and their transcripts, which may appear after the job file."""

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
"""A recording's name -> its path, None if it is missing. Raises NotAllowed if no job may use it."""


@dataclass(slots=True)
class Needs:
    """The companion files of a job file.

    Attributes:
        recordings: Names of its recordings, once each, in order.
        untranscribed: Those whose transcript an engine needs and the job does not give.
        missing: The recording that the job file waited for at the last look.
        paths: The recordings, when none was missing.
    """

    recordings: tuple[str, ...]
    untranscribed: frozenset[str]
    missing: str = ""
    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Needs:
        names = dict.fromkeys(name for document in documents for name in document.recordings)
        untranscribed = frozenset(name for document in documents for name in document.without_transcript)
        return cls(tuple(names), untranscribed)


@dataclass(slots=True)
class Companions:
    """Checks whether companion files are there, complete and no longer written."""

    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def waited_for(self, needs: Needs, find: Find, now: float, quiet_s: float) -> str:
        """Why a job file has to wait for a companion file; "" when it has not.

        Args:
            find: `Places.find` for the job file's folder.
            now: Monotonic seconds.
            quiet_s: Quiet time of files where the system can't tell whether they are open.
        """
        if needs.missing and (reason := self._reason([needs.missing], needs, find, (now, quiet_s))):
            return reason  # a quick look, however many recordings there are
        needs.missing, needs.paths = "", ()
        return self._reason(needs.recordings, needs, find, (now, quiet_s))

    def _reason(self, names: Sequence[str], needs: Needs, find: Find, times: tuple[float, float]) -> str:
        paths = []
        for name in names:
            for what, shown, path in _wanted(name, needs, find):
                if reason := self._why_unusable(path, *times):
                    needs.missing = name
                    return f"waiting for the {what} {printable(shown, 200)}: {reason}"
                if path is not None and what == "recording":
                    paths.append(path)
        needs.paths = tuple(paths)
        return ""

    def _why_unusable(self, path: Path | None, now: float, quiet_s: float) -> str:
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
            return "it appeared or changed just now"
        return ""

    def _still_since(self, path: str, content: int, now: float) -> float:
        """When a file was first seen with this content. Needed only where the system can't tell whether it is open."""
        before, since = self._seen.pop(path, (0, now))
        self._seen[path] = content, since if before == content else now
        if len(self._seen) > SHOWN:
            del self._seen[next(iter(self._seen))]
        return self._seen[path][1]


def _wanted(name: str, needs: Needs, find: Find) -> Iterator[tuple[str, str, Path | None]]:
    """Kind, name and path of the files that a recording's use needs; nothing if no job may use the recording."""
    try:
        path = find(name)
    except NotAllowed:
        return
    yield "recording", name, path
    if path is not None and name in needs.untranscribed:
        yield "transcript", str(PurePosixPath(name).with_suffix(".txt")), path.with_suffix(".txt")
