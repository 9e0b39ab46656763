"""A worker that breaks in every way under the real daemon: the daemon continues, and the result gives the cause."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spooling import Spool, is_running, spooling, until
from watcher.executors.local import oom


def job(fault: str, **settings: object) -> str:
    given = {"fault": fault, **settings}
    timeout = f"timeout_s: {given.pop('timeout_s')}\n" if "timeout_s" in given else ""
    return f"text: One.\n{timeout}settings: {json.dumps(given, default=str)}\n"


# fault -> code in the manifest, words in ERROR.txt
BREAKS = {
    "segfault": ("worker_died", "crashed (segmentation fault, SIGSEGV)"),
    "abort": ("worker_died", "crashed (it aborted, SIGABRT)"),
    "kill": ("worker_died", "was killed from outside (SIGKILL)"),
    "exit": ("worker_died", "ended by itself with exit code 3"),
    "exit_well": ("worker_died", "ended by itself with exit code 0"),
    "sys_exit": ("engine_failed", "SystemExit: a library called sys.exit"),
    "raise": ("engine_failed", "CUDA error: device-side assert triggered\\x1b[31m\\x0aand a second line"),
    "error": ("engine_failed", "the faulty engine failed as configured"),
    "refuse": ("engine_refused", "the faulty engine refuses as configured"),
    "missing": ("engine_missing", "the faulty engine lacks a library as configured"),
    "oom": ("out_of_memory", "the device has 4 GiB, the model needs 6"),
    "nan": ("engine_bad_audio", "samples that are NaN or infinite for 'One.'"),
    "infinite": ("engine_bad_audio", "samples that are NaN or infinite for 'One.'"),
    "silence": ("engine_bad_audio", "the engine returned silence for 'One.'"),
    "empty": ("engine_bad_audio", "the engine returned silence for 'One.'"),
    "stereo": ("engine_bad_audio", "audio of shape (16000, 2) for 'One.'"),
    "nothing": ("engine_bad_audio", "the engine returned nothing for 'One.'"),
}


def test_whatever_an_engine_does_the_daemon_goes_on_and_the_result_says_what_happened(spool: Spool) -> None:
    """All faults in one daemon, a good job after each, and one worker at a time."""
    spool.config["limits"] = {"attempts": 1}
    for number, fault in enumerate(BREAKS):
        spool.drop(f"{number:02}-{fault}.yaml", job(fault))
        spool.drop(f"{number:02}-{fault}-after.yaml")
    spool.drop("rubbish.yaml", job("rubbish"))
    spool.drop("flood.yaml", job("flood"))
    spool.drop("endless.yaml", job("endless"))
    assert spool.once().returncode == 1
    for number, (fault, (code, words)) in enumerate(BREAKS.items()):
        failed = spool.outbox / f"{number:02}-{fault}.failed"
        manifest = json.loads((failed / "manifest.json").read_bytes())
        assert (manifest["error"]["code"], manifest["attempts"]) == (code, 1), fault
        assert manifest["error"]["hint"]
        error = (failed / "ERROR.txt").read_text()
        assert words in error, fault
        assert manifest["error"]["hint"] in error
        assert spool.manifest(f"{number:02}-{fault}-after")["status"] == "done"
    assert spool.manifest("rubbish")["checks"]["verdict"] == "ok"
    assert spool.manifest("flood")["checks"]["verdict"] == "ok"
    [doubt] = spool.manifest("endless")["checks"]["reasons"]
    assert "longer than any speech" in doubt
    assert len(spool.results()) == 2 * len(BREAKS) + 3


def test_a_job_that_kills_every_worker_fails_after_three_attempts_with_the_signal_in_its_words(spool: Spool) -> None:
    """Each attempt has a fresh worker; the next job runs. The first time does not count if that one was loaded, too.

    The chunk before may be rendered again: the engine continues at once, and the worker dies before it is saved.
    """
    journal = spool.folder / "journal"
    settings = json.dumps({"fault": "segfault", "only": "Two", "journal": str(journal)})
    spool.drop("a.yaml", f"text: One. Two.\nsettings: {settings}\n")
    spool.drop("b.yaml")
    assert spool.once().returncode == 1
    manifest = spool.manifest("a.failed")
    assert manifest["attempts"] == 3
    assert manifest["error"]["code"] == "worker_died"
    assert "SIGSEGV" in (spool.outbox / "a.failed" / "ERROR.txt").read_text()
    begun = [line.split(" ", 1) for line in journal.read_text().splitlines()]
    deadly = [pid for pid, text in begun if text == "Two."]
    assert len(set(deadly)) == len(deadly)
    assert len(deadly) in {3, 4}
    assert spool.results() == ["a.failed", "b"]


def test_a_failure_that_passes_is_tried_again_and_the_attempts_are_told(spool: Spool) -> None:
    spool.drop("a.yaml", job("kill", times=2, counter=spool.folder / "counter"))
    assert spool.once().returncode == 0
    assert spool.manifest("a")["attempts"] == 3
    assert spool.results() == ["a"]


# Hangs.


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Spool]:
    """A daemon whose worker is loaded, with time limits just long enough to start another worker."""
    with spooling(tmp_path / "warm", limits={"attempts": 1, "stall_s": 8.0, "stop_grace_s": 1.0}) as spool:
        spool.start()
        spool.drop("first.yaml")
        spool.result("first")
        yield spool


def failed_in(spool: Spool, name: str) -> dict[str, Any]:
    error = spool.manifest(f"{name}.failed")["error"]
    assert error["message"] in (spool.outbox / f"{name}.failed" / "ERROR.txt").read_text()
    return dict(error)


def test_a_render_without_progress_or_over_its_time_is_killed_with_all_it_started(warm: Spool) -> None:
    """The worker and its child are gone before the next job starts, although they ignore SIGTERM."""
    journal = warm.folder / "journal"
    workers = [warm.worker_pid()]
    warm.drop("stalls.yaml", job("hang_with_child", journal=journal))
    assert failed_in(warm, "stalls")["code"] == "stalled"
    pids = [int(line.split()[0]) for line in journal.read_text().splitlines()]
    assert len(pids) == 2
    assert not any(map(is_running, pids))
    warm.drop("late.yaml", job("hang_deaf", timeout_s=0.2))
    assert failed_in(warm, "late")["code"] == "timeout"
    assert "timeout_s (0.2 s)" in failed_in(warm, "late")["message"]
    warm.drop("good.yaml")
    assert warm.manifest("good")["status"] == "done"
    workers += [line["pid"] for line in warm.lines("worker_started")]
    assert len(set(workers)) == 3
    assert [pid for pid in set(workers) if is_running(pid)] == [warm.worker_pid()]
    assert warm.stop() == 0


def test_a_job_without_a_timeout_has_the_operators(spool: Spool) -> None:
    """limits.render_s ends a rendering that makes progress; a job's own timeout_s takes its place."""
    spool.config["limits"] = {"attempts": 1, "render_s": 0.2}
    settings = json.dumps({"chunk_ms": 100})
    text = " ".join(f"Number {number}." for number in range(20))
    spool.drop("long.yaml", f"text: {text}\nsettings: {settings}\n")
    spool.drop("own.yaml", f"text: One. Two. Three.\nsettings: {settings}\ntimeout_s: 60\n")
    assert spool.once().returncode == 1
    error = failed_in(spool, "long")
    assert error["code"] == "timeout"
    assert "limits.render_s (0.2 s)" in error["message"]
    assert "limits.render_s" in error["hint"]
    assert spool.manifest("own")["status"] == "done"


def test_a_worker_that_hangs_while_it_loads_is_killed_too(spool: Spool) -> None:
    spool.config["limits"] = {"attempts": 1, "stall_s": 2.0}
    spool.drop("a.yaml")
    assert spool.once(FAULTY_LOAD="hang").returncode == 1
    assert failed_in(spool, "a")["code"] == "stalled"


def test_a_job_cancelled_while_it_hangs_ends_after_the_grace(warm: Spool) -> None:
    """Its worker is killed after limits.stop_grace_s; it is published as cancelled."""
    journal = warm.folder / "journal"
    warm.drop("a.yaml", job("hang", journal=journal))
    until(lambda: journal.exists() and journal.read_text(), "the job is rendered")
    (warm.inbox / "a.cancel").touch()
    assert warm.manifest("a.cancelled")["status"] == "cancelled"
    until(lambda: not (warm.inbox / "a.cancel").exists(), "the cancel file is consumed")
    assert not is_running(int(journal.read_text().split()[0]))


# Killed for memory.


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A cgroup with a limit of 200 MB. Skips if none can be made."""
    count = oom.kill_count()
    if count is None or not count.source.name.startswith("memory."):
        pytest.skip("this machine has no memory cgroup that counts processes ended for memory")
    v2 = count.source.name.startswith("memory.events")
    group = count.source.parent / f"voicespool-daemon-{os.getpid()}"
    limits = ["memory.max"] if v2 else ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    try:
        try:
            for limit in limits:
                (group / limit).write_text(str(200 << 20))
        except OSError as error:
            pytest.skip(f"no memory limit can be set here: {error.strerror}")
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def test_a_worker_that_the_kernel_ends_for_memory_does_not_take_the_daemon_along(
    spool: Spool, memory_group: Path
) -> None:
    """Daemon and worker share a limit, as in a container: the worker is killed, ERROR.txt says why, work continues."""
    spool.prefix = ("sh", "-c", f'echo 0 > {memory_group}/cgroup.procs && exec "$@"', "sh")
    spool.config["limits"] = {"attempts": 2}
    spool.drop("a.yaml", job("allocate"))
    spool.drop("b.yaml")
    assert spool.once().returncode == 1
    manifest = spool.manifest("a.failed")
    assert (manifest["error"]["code"], manifest["attempts"]) == ("worker_oom", 2)
    error = (spool.outbox / "a.failed" / "ERROR.txt").read_text()
    assert "was killed by the kernel because memory ran out (SIGKILL)" in error
    assert spool.manifest("b")["status"] == "done"
