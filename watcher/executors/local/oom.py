"""Whether the kernel ended a process for want of memory, told by the counters that it keeps.

A process ended by the kernel shows SIGKILL, like one that somebody killed. The count of such endings, before
and after, tells them apart: `oom_kill` in `memory.events.local` (cgroup v2) or `memory.oom_control` (v1) of our own
group, which a worker shares; on machines without these, the whole machine's in `/proc/vmstat`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engines.device.allowance import groups

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class KillCount:
    """How many processes the kernel has ended for memory so far.

    Attributes:
        source: The file that says so; counts of two sources are not comparable.
    """

    source: Path
    count: int

    def grew_since(self, earlier: KillCount | None) -> bool:
        return earlier is not None and earlier.source == self.source and self.count > earlier.count


def kill_count(proc: Path = PROC) -> KillCount | None:
    """Count now; None where the kernel does not say. About 0.1 ms."""
    for source in _sources(proc):
        count = _count(source)
        if count is not None:
            return KillCount(source, count)
    return None


@cache
def _sources(proc: Path) -> tuple[Path, ...]:
    """Looked up once: a process stays in its group for as long as it lives."""
    return (*_group_files(proc), proc / "vmstat")


def _count(source: Path) -> int | None:
    try:
        lines = source.read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
    except (OSError, ValueError, IndexError):
        return None


def _group_files(proc: Path) -> Iterator[Path]:
    """Where our own group's counters may be, v2 or v1, before those of the groups around it."""
    for group in groups("memory", proc):
        yield from (group / name for name in ("memory.events.local", "memory.events", "memory.oom_control"))
