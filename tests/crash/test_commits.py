"""Kill the daemon at every call that changes the disk: nothing is lost, nothing is published twice."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.sounds import recording
from tests.spooling import PLUGINS, ROOT, Spool, spooling, until

BOUNDARY = Path(__file__).parent / "boundary"
JOBS = {
    "good.yaml": "text: Good morning.\nspeaker_wav: ana.wav\n",
    "bad.yaml": "txt: wrong key\n",
    "radio/two.yaml": "text: One.\n---\ntext: Two.\n",
}
EXPECTED = ["bad.failed", "good", "radio/two-1", "radio/two-2"]


def boundary(at: str, **extra: str) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(map(str, (BOUNDARY, ROOT, PLUGINS))), "KILL_AT": at, **extra}


MANY = {f"job-{number:02}.yaml": "text: One. Two.\n" for number in range(40)}


def fill(spool: Spool, jobs: Mapping[str, str]) -> list[str]:
    """Drop jobs. Returns the names of their results."""
    (spool.inbox / "ana.wav").write_bytes(recording())
    for name, text in jobs.items():
        spool.drop(name, text)
    return EXPECTED if jobs is JOBS else [name.removesuffix(".yaml") for name in jobs]


def calls_of_a_whole_run(folder: Path, jobs: Mapping[str, str] = JOBS) -> int:
    with spooling(folder) as spool:
        expected = fill(spool, jobs)
        count = spool.folder / "count"
        assert spool.once(**boundary("0", KILL_COUNT=str(count))).returncode == (jobs is JOBS)
        assert spool.results() == expected
        return int(count.read_text())


def survives(folder: Path, at: str, jobs: Mapping[str, str] = JOBS) -> None:
    """A run is killed at a call, the next one finishes: every job is published once, as without a kill."""
    with spooling(folder) as spool:
        expected = fill(spool, jobs)
        killed = spool.once(**boundary(at))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        for name in spool.results():
            json.loads((spool.outbox / name / "manifest.json").read_bytes())
        finished = spool.once()
        assert finished.returncode in {0, 1}, finished.stderr
        assert spool.results() == expected, f"killed at {at}: {finished.stderr}"
        assert not spool.claims()
        assert not spool.job_files()
        until(lambda: not list((spool.state / "trash").iterdir()))


def test_killed_at_a_sample_of_all_commits(tmp_path: Path) -> None:
    """Every twenty-ninth call, before it or after it."""
    calls = calls_of_a_whole_run(tmp_path / "whole")
    assert calls > 40
    for number in range(5, calls, 29):
        survives(tmp_path / str(number), f"{number}{'+' * (number % 2)}")


@pytest.mark.parametrize("at", ["rename:status.json", "rename:status.json+"])
def test_killed_while_status_json_is_written(tmp_path: Path, at: str) -> None:
    """The number of its writes depends on time, so these calls are not counted."""
    survives(tmp_path, at)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_killed_at_every_commit(tmp_path: Path, part: int) -> None:
    """Every call, before and after it; each of four parts has every fourth call."""
    calls = calls_of_a_whole_run(tmp_path / "whole")
    for number in range(1 + part, calls + 1, 4):
        for after in ("", "+"):
            survives(tmp_path / f"{number}{after}", f"{number}{after}")


@pytest.mark.long
def test_killed_with_many_jobs_in_flight(tmp_path: Path) -> None:
    """At sixty calls of a run with forty jobs."""
    calls = calls_of_a_whole_run(tmp_path / "whole", MANY)
    for number in random.Random(1).sample(range(1, calls + 1), 60):
        survives(tmp_path / str(number), f"{number}{'+' * (number % 2)}", MANY)
