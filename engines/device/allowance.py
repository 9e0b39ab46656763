"""Memory and CPUs available to this process: those of the machine, or less if a control group limits them.

See cgroups(7), and the kernel's admin-guide: cgroup-v2, cgroup-v1/memory.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")


def free_memory(proc: Path = PROC) -> int:
    """Bytes that can be allocated without swapping or the OOM killer: the least of the machine and all groups.

    Inactive page cache of a group counts as free, as it does in `MemAvailable`.

    Args:
        proc: The proc file system.
    """
    free = [_machine(proc)]
    for group in groups("memory", proc):
        for limit, used, inactive_cache in (
            ("memory.max", "memory.current", "inactive_file"),  # v2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # v1
        ):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                reclaimable = _table(group / "memory.stat").get(inactive_cache, 0)
                free.append(int((group / limit).read_text()) - int((group / used).read_text()) + reclaimable)
    # A limit can be lowered below what is in use.
    return max(0, min(free))


def processors(proc: Path = PROC) -> int:
    """Threads that can run at the same time: CPUs of the affinity mask, or the least CPU quota of a group, rounded up.

    Args:
        proc: The proc file system.

    Returns:
        1 or more.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group in groups("cpu", proc):
        with contextlib.suppress(OSError, ValueError):  # v2; without a limit the quota is "max"
            quota, period = (group / "cpu.max").read_text().split()
            counts.append(math.ceil(int(quota) / int(period)))
        with contextlib.suppress(OSError, ValueError):  # v1; without a limit the quota is -1
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            counts.append(math.ceil(int(quota) / int(period)) if int(quota) > 0 else counts[0])
    return max(1, min(counts))


def groups(controller: str, proc: Path = PROC) -> Iterator[Path]:
    """Folders of the control groups that this process is in, each followed by its parents.

    Args:
        controller: For cgroup v1, for example `memory`; v2 has one hierarchy for all controllers.
        proc: The proc file system.
    """
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    # "hierarchy:controllers:path"; controllers are empty for v2
    memberships = [fields for line in lines if len(fields := line.split(":", 2)) == 3]
    for line in mounts:
        # "id parent major:minor root mount_point options ... - type source super_options", see proc_pid_mountinfo(5)
        before, _, after = line.partition(" - ")
        mount, file_system = before.split(" "), after.split(" ")
        if len(mount) < 5 or len(file_system) < 3 or not file_system[0].startswith("cgroup"):
            continue
        for _, controllers, path in memberships:
            is_v2 = file_system[0] == "cgroup2" and not controllers
            if is_v2 or (controller in controllers.split(",") and controller in file_system[2].split(",")):
                yield from _with_parents(Path(mount[4]), path, mount[3])


def _with_parents(mount_point: Path, path: str, root: str) -> Iterator[Path]:
    """A group and its parents up to the mount point.

    Args:
        mount_point: Of the hierarchy.
        path: Of the group in the hierarchy.
        root: The group that is mounted there. In a container it may be our own, while `path` is the host's.
    """
    group = PurePosixPath(path)
    own = mount_point / (group.relative_to(root) if group.is_relative_to(root) else PurePosixPath())
    yield own
    yield from (parent for parent in own.parents if parent.is_relative_to(mount_point))


def _machine(proc: Path) -> int:
    try:
        return _table(proc / "meminfo")["MemAvailable:"] << 10  # KiB
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _table(path: Path) -> dict[str, int]:
    """Parse lines of a name and a number."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {fields[0]: int(fields[1]) for fields in lines if len(fields) > 1}
