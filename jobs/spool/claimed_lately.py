"""Which files were claimed within the last day, so that one that comes back is known.

A sync client can take a claim for an accident and put the file back as it was: same name, same bytes, same modification
time. A person who saves a text again, or moves a failed job back, makes a file with another time.

A line is appended for each claim and nothing is forced to disk: after a power failure the last ones may be missing, and
such a file is then rendered once more without a word. The file is replaced by a shorter one now and then.
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
FRESH_S = 3600
MOST = 4000


@dataclass(slots=True)
class ClaimedLately:
    """The claims of the last day, at most `MOST`; the oldest are forgotten first.

    Attributes:
        path: Where they are kept: lines of `SEEN_S CLAIMED_S DIGEST`.
        clock: Unix time in seconds.
    """

    path: Path
    clock: Callable[[], float] = time.time
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)
    _lines: int = 0

    @classmethod
    def open(cls, path: Path) -> ClaimedLately:
        """Read what is known; a file that is missing or damaged means less."""
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
        """A file was claimed now. Trouble with the disk is no reason to stop."""
        now_s = int(self.clock())
        self._write(_digest(source, sha256, mtime_ns), now_s, now_s)

    def recall(self, source: str, sha256: str, mtime_ns: int) -> str:
        """When just such a file was claimed, in words; "" when none was. It is remembered for a day from now."""
        now_s, digest = int(self.clock()), _digest(source, sha256, mtime_ns)
        seen_s, claimed_s = self._known.get(digest, (0, 0))
        if abs(now_s - seen_s) > DAY_S:
            return ""
        if now_s - seen_s > FRESH_S:
            self._write(digest, now_s, claimed_s)
        return f"{datetime.fromtimestamp(claimed_s, UTC):%Y-%m-%d %H:%M:%S} UTC"

    def _remember(self, digest: str, seen_s: int, claimed_s: int) -> None:
        self._known.pop(digest, None)
        self._known[digest] = seen_s, claimed_s
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def _write(self, digest: str, seen_s: int, claimed_s: int) -> None:
        self._remember(digest, seen_s, claimed_s)
        self._lines += 1
        with contextlib.suppress(OSError):
            if self._lines > 2 * MOST:
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
