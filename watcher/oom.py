"""Whether the kernel ended a process for want of memory, told by the counters that it keeps.

A process ended by the kernel shows SIGKILL, like one that somebody killed. The count of such endings, before
and after, tells them apart: `oom_kill` in `memory.events.local` (cgroup v2) or `memory.oom_control` (v1) of our own
group, which a worker shares; on machines without these, the whole machine's in `/proc/vmstat`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

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
    """Where our own group's counters may be: v2, then v1."""
    try:
        groups = (proc / "self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        words, kinds = place.split(" "), kind.split(" ")
        if len(words) < 5 or len(kinds) < 3 or not kinds[0].startswith("cgroup"):
            continue
        root, folder = words[3], Path(words[4])
        for group in groups:
            _, controllers, path = group.split(":", 2)
            if kinds[0] == "cgroup2" and not controllers:
                yield folder / _below(path, root) / "memory.events.local"
                yield folder / _below(path, root) / "memory.events"
            elif "memory" in controllers.split(",") and "memory" in kinds[2].split(","):
                yield folder / _below(path, root) / "memory.oom_control"


def _below(path: str, root: str) -> PurePosixPath:
    """A group's place under the mount; in a container the path may be the host's, the mount our own group."""
    group = PurePosixPath(path)
    return group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
