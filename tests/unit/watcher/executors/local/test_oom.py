"""Where the kernel says how many processes it has ended for memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from watcher.executors.local import exit_cause, oom
from watcher.executors.local.oom import KillCount, kill_count

MOUNT = "30 23 0:26 {root} {folder} rw,nosuid shared:9 - {kind} {kind} rw,{options}\n"


def proc(tmp_path: Path, groups: str, mounts: str, vmstat: str | None = "oom_kill 3\n") -> Path:
    """A /proc with just what is looked at."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    if vmstat is not None:
        (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\n" + vmstat)
    return tmp_path / "proc"


def counter(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("root", ["/", "/docker/abc"])
def test_cgroup_v2(tmp_path: Path, root: str) -> None:
    source = counter(tmp_path / "fs/a.service", "memory.events", "low 0\noom 2\noom_kill 2\n")
    mounts = MOUNT.format(root=root, folder=tmp_path / "fs", kind="cgroup2", options="nsdelegate")
    groups = f"0::{root.rstrip('/')}/a.service\n"
    assert kill_count(proc(tmp_path, groups, mounts)) == KillCount(source, 2)


def test_cgroup_v1_and_a_group_path_of_the_host(tmp_path: Path) -> None:
    source = counter(tmp_path / "fs", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    mounts = MOUNT.format(root="/docker/x", folder=tmp_path / "fs", kind="cgroup", options="cpu")
    mounts += MOUNT.format(root="/docker/x", folder=tmp_path / "fs", kind="cgroup", options="memory")
    assert kill_count(proc(tmp_path, "4:memory:/elsewhere\n3:cpu:/\n0::/\n", mounts)) == KillCount(source, 5)


def test_without_a_group_the_machine_counts(tmp_path: Path) -> None:
    folder = proc(tmp_path, "rubbish:\n:\n", "rubbish\n - \n")
    assert kill_count(folder) == KillCount(folder / "vmstat", 3)


def test_where_nobody_counts_nothing_is_claimed(tmp_path: Path) -> None:
    assert kill_count(tmp_path) is None
    assert kill_count(proc(tmp_path, "", "", "pgfault 1\n")) is None


def test_counts_of_two_sources_are_not_compared() -> None:
    here, there = Path("/here"), Path("/there")
    assert KillCount(here, 2).grew_since(KillCount(here, 1))
    assert not KillCount(here, 1).grew_since(KillCount(here, 1))
    assert not KillCount(here, 2).grew_since(KillCount(there, 1))
    assert not KillCount(here, 2).grew_since(None)


def test_every_way_to_die_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "kill_count", lambda: KillCount(Path("/c"), 2))
    same, fewer = KillCount(Path("/c"), 2), KillCount(Path("/c"), 1)
    assert exit_cause.cause(3, fewer).reason == "ended by itself with exit code 3"
    assert exit_cause.cause(-signal.SIGSEGV, fewer).reason == "crashed (segmentation fault, SIGSEGV)"
    assert exit_cause.cause(-signal.SIGTERM, fewer).signal == "SIGTERM"
    assert exit_cause.cause(-50, same).reason == "was ended by signal 50"
    assert exit_cause.cause(-signal.SIGKILL, same).code == "worker_died"
    assert exit_cause.cause(-signal.SIGKILL, fewer).code == "worker_oom"
