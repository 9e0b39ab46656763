"""The daemon dies at a chosen moment, or finds something unusual when it starts: what the next daemon does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.spooling import PLUGINS, ROOT, Spool, is_running, until

BOUNDARY = Path(__file__).parent / "boundary"
THREE = "text: One. Two. Three.\n"


def boundary(**trouble: str) -> dict[str, Any]:
    """An environment in which system calls of the daemon fail."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (BOUNDARY, ROOT, PLUGINS))), **trouble}


def killed(spool: Spool, at: str) -> None:
    """Run once and be killed at a call."""
    ran = spool.once(**boundary(KILL_AT=at))
    assert ran.returncode == -signal.SIGKILL, ran.stderr


def with_settings(**settings: object) -> str:
    return f"{THREE}settings: {json.dumps(settings, default=str)}\n"


def chunks_begun(journal: Path) -> list[str]:
    """The rendered texts, in order."""
    return [line.partition(" ")[2] for line in journal.read_text().splitlines()] if journal.exists() else []


def second_begins(journal: Path, times: int) -> None:
    until(lambda: chunks_begun(journal).count("Two.") == times, "the second chunk begins")


def it_hangs(counter: Path, times: int) -> None:
    until(lambda: counter.exists() and counter.stat().st_size == times, "it hangs")


# While rendering.


def test_kill_9_while_rendering_renders_only_what_is_missing_and_counts_no_attempt(spool: Spool) -> None:
    """More deaths than attempts: each daemon continues at the interrupted chunk, and the job is done."""
    journal, counter = spool.folder / "journal", spool.folder / "counter"
    spool.config["limits"] = {"attempts": 2}
    spool.drop("a.yaml", with_settings(fault="hang", only="Two", times=3, counter=counter, journal=journal))
    for death in range(1, 4):
        spool.start(wait=False)
        second_begins(journal, death)
        it_hangs(counter, death)
        spool.stop(signal.SIGKILL)
        assert spool.results() == []
    assert spool.once().returncode == 0
    assert chunks_begun(journal) == ["One.", *["Two."] * 4, "Three."]
    assert spool.manifest("a")["attempts"] == 1
    assert spool.claims() == []


def test_failed_attempts_are_counted_on_disk_over_the_daemons_death(spool: Spool) -> None:
    """The daemon is killed before the third attempt; the next daemon makes it, as the last one."""
    journal = spool.folder / "journal"
    spool.drop("a.yaml", with_settings(fault="error", journal=journal))
    killed(spool, "mkdir:/attempt-3")
    assert len(chunks_begun(journal)) == 2
    assert spool.once().returncode == 1
    assert spool.manifest("a.failed")["attempts"] == 3
    assert len(chunks_begun(journal)) == 3


def test_kill_9_of_the_daemon_leaves_no_worker_and_nothing_that_the_worker_started(spool: Spool) -> None:
    journal = spool.folder / "journal"
    spool.drop("a.yaml", with_settings(fault="hang_with_child", journal=journal))
    spool.start()
    until(lambda: "child" in chunks_begun(journal), "the engine starts a process")
    pids = [spool.worker_pid(), *(int(line.split()[0]) for line in journal.read_text().splitlines())]
    assert all(map(is_running, pids))
    spool.stop(signal.SIGKILL)
    until(lambda: not any(map(is_running, pids)), "worker and its child are gone")


# Between two of the three renames.


def test_kill_9_between_claim_and_parse(spool: Spool) -> None:
    """The file is claimed and not read yet: the next daemon reads it."""
    spool.drop("a.yaml", THREE)
    spool.drop("bad.yaml", "txt: wrong key\n")
    killed(spool, "rename:/original+")
    assert len(list(spool.inbox.glob("*.yaml"))) == 1
    assert len(spool.claims()) == 1
    assert spool.once().returncode == 1
    assert spool.results() == ["a", "bad.failed"]
    assert spool.claims() == []


@pytest.mark.parametrize("taken_away", [False, True], ids=["result stays", "consumer takes the result away"])
def test_kill_9_between_publication_and_release(spool: Spool, taken_away: bool) -> None:
    """Published once, even if a consumer removes the result before the next daemon starts."""
    journal = spool.folder / "journal"
    spool.drop("a.yaml", with_settings(journal=journal))
    killed(spool, f"rename:{spool.outbox}/a+")
    assert spool.results() == ["a"]
    assert len(spool.claims()) == 1
    first = (spool.outbox / "a" / "manifest.json").read_bytes()
    if taken_away:
        shutil.move(spool.outbox / "a", spool.folder / "taken")
    assert spool.once().returncode == 0
    assert spool.results() == ([] if taken_away else ["a"])
    assert taken_away or (spool.outbox / "a" / "manifest.json").read_bytes() == first
    assert spool.claims() == []
    assert len(chunks_begun(journal)) == 3


def test_kill_9_before_the_publication_publishes_what_was_assembled(spool: Spool) -> None:
    """The intent is on disk, the result is complete and not visible: the next daemon publishes it without rendering."""
    journal = spool.folder / "journal"
    spool.drop("a.yaml", with_settings(journal=journal))
    killed(spool, f"rename:{spool.outbox}/a")
    assert spool.results() == []
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]
    assert spool.claims() == []
    assert len(chunks_begun(journal)) == 3


def test_an_outbox_that_is_another_one_after_the_crash_gets_the_job_rendered_anew(spool: Spool) -> None:
    """The intent's outbox is gone, and the operator has configured another one."""
    spool.drop("a.yaml", THREE)
    killed(spool, f"rename:{spool.outbox}/a")
    spool.config["outbox"] = str(spool.folder / "other")
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]
    assert spool.claims() == []


# A file that kills the daemon.


def test_a_file_that_kills_every_daemon_is_put_aside_at_the_limit(spool: Spool) -> None:
    """Each daemon dies while it reads this file; after `daemon_deaths` it fails unread, and other jobs continue."""
    spool.config["limits"] = {"daemon_deaths": 3}
    spool.drop("deadly.yaml", THREE)
    for _ in range(3):
        killed(spool, 'pwrite:"deadly.yaml"+')
    spool.drop("good.yaml", THREE)
    assert spool.once().returncode == 1
    assert spool.results() == ["deadly.failed", "good"]
    error = (spool.outbox / "deadly.failed" / "ERROR.txt").read_text()
    assert "the daemon died 3 times in a row while reading this file" in error
    assert (spool.outbox / "deadly.failed" / "deadly.yaml").read_text() == THREE


def test_one_death_while_reading_is_no_reason_to_put_a_file_aside(spool: Spool) -> None:
    spool.drop("a.yaml", THREE)
    killed(spool, 'pwrite:"a.yaml"+')
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]


# What a daemon finds when it starts.


def test_a_stale_lock_with_a_reused_pid_means_nothing(spool: Spool) -> None:
    """The lock file names a running process (this one), but nobody holds the lock, so it is free."""
    spool.state.mkdir()
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "token": "old", "started_at": "2026-01-01T00:00:00Z"}
    (spool.state / "lock").write_text(json.dumps(holder))
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]


def test_a_clock_set_back_by_a_year_stops_nothing(spool: Spool) -> None:
    """Jobs claimed in the future, a crash, and a clock that is set back while the daemon runs."""
    clock, gate, journal = spool.folder / "clock", spool.folder / "gate", spool.folder / "journal"
    clock.write_text(str(400 * 86400))
    spool.drop("a.yaml", with_settings(gate=gate, journal=journal))
    spool.start(**boundary(CLOCK_FILE=str(clock)))
    until(lambda: chunks_begun(journal), "the first job is rendered")
    spool.drop("b.yaml")
    until(lambda: len(spool.claims()) == 2, "the second job is claimed")
    assert all(name > "2027" for name in spool.claims())
    (spool.folder / "clock.new").write_text("0")
    (spool.folder / "clock.new").rename(clock)  # by a rename, since it may be read at any moment
    spool.drop("c.yaml")
    until(lambda: len(spool.claims()) == 3, "a job is claimed after the clock was set back")
    spool.stop(signal.SIGKILL)
    gate.touch()
    spool.drop("d.yaml")
    assert spool.once().returncode == 0
    assert spool.results() == ["a", "b", "c", "d"]
    timing = spool.manifest("a")["timing"]
    assert timing["queued_s"] == timing["total_s"] == 0.0
    assert spool.claims() == []


def test_a_half_written_file_present_at_start_waits_for_its_writer(spool: Spool) -> None:
    """A writer has the file open when the daemon starts; it is not taken before the writer closes it."""
    with (spool.inbox / "a.yaml").open("w") as file:
        file.write("text: The first half")
        file.flush()
        spool.start()
        waiting = until(lambda: spool.status()["waiting"], "the file waits")
        until(lambda: "open for writing" in spool.status()["waiting"][0]["reason"], "the spool sees the writer")
        assert waiting[0]["file"] == "a.yaml"
        file.write(" and the second half.\n")
    assert spool.manifest("a")["request"]["text"] == "The first half and the second half."


def test_a_half_written_file_whose_writer_died_fails_in_words_and_can_be_dropped_again(spool: Spool) -> None:
    (spool.inbox / "a.yaml").write_text('text: "The first half')
    assert spool.once().returncode == 1
    assert spool.results() == ["a.failed"]
    assert "line 1" in (spool.outbox / "a.failed" / "ERROR.txt").read_text()
    spool.drop("a.yaml", '# mended\ntext: "The first half"\n')
    assert spool.once().returncode == 0
    assert spool.results() == ["a", "a.failed"]


def test_half_made_things_of_a_dead_daemon_are_swept_away(spool: Spool) -> None:
    """Incomplete results, copies and claims, and trash: none is published, all are removed, the daemon starts."""
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    staging = next(path for path in (spool.outbox / ".voicespool").iterdir() if path.is_dir())
    half_result = staging / "20260101T000000.000000001"
    half_claim = spool.state / "claimed" / "20260101T000000.000000002"
    trash = spool.state / "trash" / "20260101T000000.000000003"
    half_recording = spool.state / "recordings" / ".scratch"
    for folder in (half_result, half_claim, trash):
        folder.mkdir(parents=True)
        (folder / "half.wav").write_bytes(b"RIFF")
    half_recording.write_bytes(b"RIFF")
    (spool.state / "reading").write_text("")
    (spool.state / ".status.json.new").write_text('{"half')
    spool.drop("b.yaml")
    assert spool.once().returncode == 0
    assert spool.results() == ["a", "b"]
    assert not any(path.exists() for path in (half_result, half_claim, trash))
