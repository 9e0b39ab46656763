"""How much memory and processor time this process may have: the machine's, or less where a control group says so."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")


def free_memory(proc: Path = PROC) -> int:
    """Bytes that can still be taken without swapping or being ended: the machine's or the control groups', the least.

    What a group holds as page cache and has not used lately counts as free, as it does in the machine's own figure.
    """
    free = [_machine(proc)]
    for group in groups("memory", proc):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                unused = _table(group / "memory.stat").get(cache, 0)
                free.append(int((group / limit).read_text()) - int((group / used).read_text()) + unused)
    return max(0, min(free))


def processors(proc: Path = PROC) -> int:
    """How many threads can run at once: the processors given to this process, or the groups' quota, rounded up."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group in groups("cpu", proc):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            counts.append(math.ceil(int(quota) / int(period)))
        with contextlib.suppress(OSError, ValueError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            counts.append(math.ceil(int(quota) / int(period)) if int(quota) > 0 else counts[0])
    return max(1, min(counts))


def groups(controller: str, proc: Path = PROC) -> Iterator[Path]:
    """Folders of the control groups that this process is in, its own first, for one controller (v1) or all (v2)."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    mine = [words for line in lines if len(words := line.split(":", 2)) == 3]
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        words, kinds = place.split(" "), kind.split(" ")
        if len(words) < 5 or len(kinds) < 3 or not kinds[0].startswith("cgroup"):
            continue
        for _, controllers, path in mine:
            unified = kinds[0] == "cgroup2" and not controllers
            if unified or (controller in controllers.split(",") and controller in kinds[2].split(",")):
                yield from _upwards(Path(words[4]), path, words[3])


def _upwards(mount: Path, path: str, root: str) -> Iterator[Path]:
    """From a group to the top of its mount; in a container the path may be the host's, the mount our own group."""
    group = PurePosixPath(path)
    own = mount / (group.relative_to(root) if group.is_relative_to(root) else PurePosixPath())
    yield own
    yield from (parent for parent in own.parents if parent.is_relative_to(mount))


def _machine(proc: Path) -> int:
    try:
        return _table(proc / "meminfo")["MemAvailable:"] << 10
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    words = (line.split() for line in path.read_text().splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1}
