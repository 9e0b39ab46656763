"""Records which files were claimed within the last day, to recognise a file that a sync tool restores.

To a sync tool, a claim can look like an accidental deletion, so it restores the file with the same name, bytes and
modification time. A file that a person saves again has another time.

Each claim appends a line, without forcing it to disk. After a power failure the last lines may be missing; such a file
is then rendered again without a warning. The record is compacted from time to time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from files.durable import replace

DAY_S = 86400
REFRESH_S = 3600  # a file that keeps coming back is recorded again this often
MAX_CLAIMS = 4000


@dataclass(slots=True)
class ClaimedLately:
    """The claims of the last day, at most `MAX_CLAIMS`; the oldest are dropped first.

    Attributes:
        path: Of the record: lines of `SEEN_S CLAIMED_S DIGEST`.
        clock: Unix time in seconds.
    """

    path: Path
    clock: Callable[[], float] = time.time
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)
    _lines: int = 0

    @classmethod
    def open(cls, path: Path) -> ClaimedLately:
        """Read the record; missing or damaged lines are skipped."""
        lately = cls(path)
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        for line in lines:
            with contextlib.suppress(ValueError):
                seen_s, claimed_s, digest = line.split()
                lately._remember(digest, int(seen_s), int(claimed_s))
        lately._lines = len(lines)
        return lately

    def note(self, source: str, sha256: str, mtime_ns: int) -> None:
        """Record that a file was claimed now. Disk errors are ignored."""
        now_s = int(self.clock())
        self._write(_digest(source, sha256, mtime_ns), now_s, now_s)

    def recall(self, source: str, sha256: str, mtime_ns: int) -> str:
        """When the same file was claimed before, as text; "" if it was not. Keeps the record for another day."""
        now_s, digest = int(self.clock()), _digest(source, sha256, mtime_ns)
        seen_s, claimed_s = self._known.get(digest, (0, 0))
        if abs(now_s - seen_s) > DAY_S:
            return ""
        if now_s - seen_s > REFRESH_S:
            self._write(digest, now_s, claimed_s)
        return f"{datetime.fromtimestamp(claimed_s, UTC):%Y-%m-%d %H:%M:%S} UTC"

    def _remember(self, digest: str, seen_s: int, claimed_s: int) -> None:
        self._known.pop(digest, None)
        self._known[digest] = seen_s, claimed_s
        if len(self._known) > MAX_CLAIMS:
            del self._known[next(iter(self._known))]

    def _write(self, digest: str, seen_s: int, claimed_s: int) -> None:
        self._remember(digest, seen_s, claimed_s)
        self._lines += 1
        with contextlib.suppress(OSError):
            if self._lines > 2 * MAX_CLAIMS:
                known = (_line(digest, *times) for digest, times in self._known.items())
                replace(self.path, b"".join(known), durable=False)
                self._lines = len(self._known)
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self.path, flags, 0o600)
            try:
                os.write(fd, _line(digest, seen_s, claimed_s))
            finally:
                os.close(fd)


def _line(digest: str, seen_s: int, claimed_s: int) -> bytes:
    return f"{seen_s} {claimed_s} {digest}\n".encode("ascii")


def _digest(source: str, sha256: str, mtime_ns: int) -> str:
    return hashlib.sha256(f"{sha256} {mtime_ns} ".encode("ascii") + os.fsencode(source)).hexdigest()[:32]
