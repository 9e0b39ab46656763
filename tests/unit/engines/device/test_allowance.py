"""How much memory and processor time there is, by the kernel's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.device.allowance import free_memory, processors

GIB = 1 << 30
MOUNT = "30 23 0:26 {root} {folder} rw,nosuid shared:9 - {kind} {kind} rw,{options}\n"


def proc(tmp_path: Path, groups: str, mounts: str) -> Path:
    """A /proc of a machine with 8 GiB free, with just what is looked at."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
    return tmp_path / "proc"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def unified(tmp_path: Path) -> Path:
    """A process in a/b of cgroup v2 under tmp_path/fs."""
    return proc(tmp_path, "0::/a/b\n", MOUNT.format(root="/", folder=tmp_path / "fs", kind="cgroup2", options="x"))


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    """`max` is no limit, and neither are files that are not there."""
    files = unified(tmp_path)
    group(tmp_path / "fs/a/b", memory__max="max", memory__current=GIB, cpu__max="max 100000")
    assert free_memory(files) == 8 * GIB
    assert processors(files) == len(os.sched_getaffinity(0))


def test_the_narrowest_group_counts(tmp_path: Path) -> None:
    """A limit of a group further up counts too; page cache that nobody uses is free."""
    files = unified(tmp_path)
    group(tmp_path / "fs/a/b", memory__max=6 * GIB, memory__current=GIB, memory__stat="inactive_file 0")
    group(tmp_path / "fs/a", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=f"inactive_file {GIB}\nx")
    assert free_memory(files) == 2 * GIB


def test_nothing_left_is_nothing(tmp_path: Path) -> None:
    """A limit lowered below what is in use gives no negative number."""
    files = unified(tmp_path)
    group(tmp_path / "fs/a/b", memory__max=GIB, memory__current=2 * GIB, memory__stat="")
    assert free_memory(files) == 0


def test_version_one(tmp_path: Path) -> None:
    """The older layout: one mount for each controller, and a container whose own group is the mount."""
    mounts = MOUNT.format(root="/docker/x", folder=tmp_path / "mem", kind="cgroup", options="memory")
    mounts += MOUNT.format(root="/docker/x", folder=tmp_path / "cpu", kind="cgroup", options="cpu,cpuacct")
    files = proc(tmp_path, "4:memory:/docker/x\n3:cpu,cpuacct:/elsewhere\n0::/\n", mounts)
    group(tmp_path / "mem", memory__limit_in_bytes=3 * GIB, memory__usage_in_bytes=GIB, memory__stat="rss 5")
    group(tmp_path / "cpu", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert free_memory(files) == 2 * GIB
    assert processors(files) == 1


@pytest.mark.parametrize(("quota", "threads"), [("50000 100000", 1), ("100001 100000", 2)])
def test_part_of_a_processor_is_one_thread(tmp_path: Path, quota: str, threads: int) -> None:
    """A quota is rounded up, and never exceeds the processors that there are."""
    files = unified(tmp_path)
    group(tmp_path / "fs/a/b", cpu__max=quota)
    assert processors(files) == min(threads, len(os.sched_getaffinity(0)))


def test_this_machine() -> None:
    """The real files: something is free, and less than all there is."""
    assert 0 < free_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 <= processors() <= (os.cpu_count() or 1)
