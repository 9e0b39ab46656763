"""A worker that can't be started, or ends before it is ready, causes a hold: jobs wait, no attempt is counted."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spooling import PLUGINS, ROOT, Spool, is_running, until

BROKEN_START = Path(__file__).parent / "start"
PIDS = Path("/sys/fs/cgroup/pids")

JOBS = [f"{number}" for number in range(5)]


@pytest.fixture
def jobs(spool: Spool) -> Spool:
    """A spool with five jobs in its inbox."""
    for name in JOBS:
        spool.drop(f"{name}.yaml", f"text: Job {name}.\n")
    return spool


def held(spool: Spool) -> dict[str, str]:
    """Wait for a hold or a held file; the reasons of all of them."""

    def found() -> dict[str, str]:
        status = spool.status()
        reasons = {hold["what"]: hold["reason"] for hold in status.get("holds", [])}
        return reasons | {file["file"]: file["reason"] for file in status.get("held", [])}

    return until(found, lambda: f"a hold; results: {spool.results()}, log:\n{spool.log()[-3000:]}")


def all_done_at_first_try(spool: Spool) -> None:
    for name in JOBS:
        manifest = spool.manifest(name)
        assert (manifest["status"], manifest["attempts"]) == ("done", 1)
    assert spool.results() == JOBS
    until(lambda: not spool.status()["holds"], "the hold is over")
    assert spool.stop() == 0


def limited(words: str) -> tuple[str, ...]:
    """Run the daemon with soft limits of `ulimit`, which can be raised while it runs."""
    return "sh", "-c", f'ulimit -S {words} && exec "$@"', "sh"


def unlimited(spool: Spool, limit: int) -> None:
    assert spool.process is not None
    hard = resource.prlimit(spool.process.pid, limit)[1]
    resource.prlimit(spool.process.pid, limit, (hard, hard))


# Resources that may be missing.


def test_without_memory_for_a_worker_jobs_wait(jobs: Spool) -> None:
    """With a limit on memory the interpreter can't import its libraries; in an earlier version every job failed."""
    jobs.prefix = limited("-v 120000")
    jobs.start()
    reason = held(jobs)["worker"]
    assert reason.startswith("the worker ended by itself with exit code 1 before it was ready; it printed: ")
    assert jobs.results() == []
    unlimited(jobs, resource.RLIMIT_AS)
    all_done_at_first_try(jobs)
    assert [line["what"] for line in jobs.lines("hold")] == ["worker"]
    assert [line["what"] for line in jobs.lines("resume")] == ["worker"]


@pytest.mark.parametrize("files", [14, 16, 24, 26])
def test_without_open_files_jobs_wait(jobs: Spool, files: int) -> None:
    """With limits that stop the daemon at its lock, at its inbox, or at a worker's first or last pipe."""
    jobs.prefix = limited(f"-n {files}")
    jobs.start()
    assert all(reason.partition(" (")[0].endswith("Too many open files") for reason in held(jobs).values())
    assert jobs.results() == []
    unlimited(jobs, resource.RLIMIT_NOFILE)
    all_done_at_first_try(jobs)


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A cgroup whose number of processes and threads can be limited. Skips if none can be made."""
    group = PIDS / f"voicespool-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup that counts processes can be made here: {error.strerror}")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
    group.rmdir()


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (1, "the worker can't be started"),
        (3, "Resource temporarily unavailable"),
        (4, "no process is left for the keeper of the worker"),
    ],
)
def test_without_processes_jobs_wait(jobs: Spool, few_processes: Path, processes: int, words: str) -> None:
    """With one process the daemon has no thread for file events and scans; with a few, the worker or keeper fails."""
    (few_processes / "pids.max").write_text(str(processes))
    jobs.prefix = ("sh", "-c", f'echo 0 > {few_processes}/cgroup.procs && exec "$@"', "sh")
    jobs.start()
    assert words in held(jobs)["worker"]
    assert jobs.results() == []
    (few_processes / "pids.max").write_text("max")
    all_done_at_first_try(jobs)


# Broken workers.


def broken(spool: Spool, fault: str) -> dict[str, Any]:
    """Environment of a daemon whose workers break before they are ready, for as long as the file `broken` exists."""
    (spool.folder / "broken").touch()
    path = os.pathsep.join(filter(None, map(str, [BROKEN_START, ROOT, PLUGINS, os.environ.get("PYTHONPATH", "")])))
    return {"PYTHONPATH": path, "START_FAULT": fault, "START_WHILE": str(spool.folder / "broken")}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("exit", "ended by itself with exit code 7 before it was ready; it printed: a library that the worker needs"),
        ("kill", "the worker was killed from outside (SIGKILL) before it was ready"),
        ("import", "ModuleNotFoundError: import of numpy halted"),
        ("rubbish", "the worker sent an invalid message (loaded before ready)"),
    ],
)
def test_a_worker_that_breaks_before_it_is_ready_is_a_hold(jobs: Spool, fault: str, reason: str) -> None:
    jobs.start(**broken(jobs, fault))
    assert reason in held(jobs)["worker"]
    assert jobs.results() == []
    assert len(jobs.claims()) == len(JOBS)
    (jobs.folder / "broken").unlink()
    all_done_at_first_try(jobs)


def test_while_no_worker_starts_wrong_jobs_fail_and_cancelled_ones_end(spool: Spool) -> None:
    """The hold lasts while there is something to render. `--once` exits with 75 meanwhile."""
    trouble = broken(spool, "exit")
    spool.drop("a.yaml")
    ended = spool.once(**trouble)
    assert ended.returncode == 75
    assert "a library that the worker needs is damaged" in ended.stderr
    spool.start(**trouble)
    held(spool)
    spool.drop("wrong.yaml", "txt: a wrong key\n")
    assert spool.manifest("wrong.failed")["error"]["code"] == "job_invalid"
    assert list(held(spool)) == ["worker"]
    (spool.inbox / "a.cancel").touch()
    spool.result("a.cancelled")
    until(lambda: spool.status()["state"] == "idle", "nothing is left to render")
    assert spool.status()["holds"] == []
    assert spool.stop() == 0


def test_an_engine_that_can_not_be_loaded_for_want_of_open_files_is_a_hold(spool: Spool) -> None:
    """The worker, which may have used them up, is killed; no attempt is counted, and the next daemon does the job."""
    spool.drop("a.yaml")
    spool.start(FAULTY_LOAD="no_files")
    assert held(spool)["work"] == "the engine faulty can't be loaded: Too many open files"
    first, *_next_tries = spool.lines("worker_started")
    assert not is_running(first["pid"])
    assert spool.stop() == 0
    assert spool.results() == []
    assert spool.once().returncode == 0
    assert spool.manifest("a")["attempts"] == 1


def test_an_engine_that_memory_does_not_suffice_for_fails_its_job(spool: Spool) -> None:
    """A model that is too large must not delay other jobs, so lack of memory fails the job."""
    spool.config["limits"] = {"attempts": 2}
    spool.drop("a.yaml")
    assert spool.once(FAULTY_LOAD="no_memory").returncode == 1
    manifest = spool.manifest("a.failed")
    assert (manifest["error"]["code"], manifest["attempts"]) == ("out_of_memory", 2)
