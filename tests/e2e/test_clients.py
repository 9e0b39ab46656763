"""What commands say of a running spool is so: doubt, uploads, the log; the real command as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sounds import recording
from tests.spooling import Spool, environment, until

DOUBTFUL = '{"text": "One. Two.", "settings": {"fault": "endless", "only": "Two"}}'


def test_a_doubtful_result_says_so_wherever_done_is_said(spool: Spool) -> None:
    """status and its --json, submit --wait, and the log, as a warning with the reason; the exit code stays 0."""
    spool.start()
    job = spool.folder / "babble.json"
    job.write_text(DOUBTFUL)
    done = spool.command("submit", "--wait", str(job))
    assert (done.returncode, done.stdout.strip()) == (0, str(spool.outbox / "babble"))
    assert "babble: done, doubtful: " in done.stderr
    (reason,) = spool.manifest("babble")["checks"]["reasons"]
    (result,) = json.loads(spool.command("status", "--json").stdout)["results"]
    assert (result["verdict"], result["reasons"]) == ("doubtful", [reason])
    text = spool.command("status").stdout
    assert "done, doubtful" in text
    assert "1 done (1 doubtful)" in text
    (line,) = spool.lines("done")
    assert (line["level"], line["doubts"]) == ("warning", [reason])


def test_submit_leaves_no_recording_behind(spool: Spool) -> None:
    """With its transcript it goes into a folder of the job's own, next to it, which goes when the job is claimed."""
    ana = spool.folder / "ana.wav"
    ana.write_bytes(recording())
    ana.with_suffix(".txt").write_text("What Ana says.")
    house = spool.inbox / "team/ana.wav"
    house.parent.mkdir()
    house.write_bytes(b"another recording of that name")
    words = ("submit", "--text", "Hello.", "--speaker-wav", str(ana), "--name", "team/hello")
    assert spool.command(*words).returncode == 0
    (upload,) = [path for path in house.parent.iterdir() if path.is_dir()]
    assert upload.name.startswith(".voicespool-upload-")
    assert sorted(os.listdir(upload)) == ["ana.txt", "ana.wav"]
    spool.start()
    manifest = spool.manifest("team/hello")
    assert manifest["status"] == "done", manifest["error"]
    assert os.listdir(house.parent) == ["ana.wav"], "what was there before stays"
    assert house.read_bytes() == b"another recording of that name"
    done = spool.command(*words[:-1], "team/again", "--wait")
    assert done.returncode == 0, done.stderr
    assert os.listdir(house.parent) == ["ana.wav"]


def test_a_submission_that_does_not_come_off_leaves_nothing(spool: Spool) -> None:
    """The job can't be dropped after its recording was: the recording goes too."""
    (spool.folder / "ana.wav").write_bytes(recording())
    code = (
        "import sys, watcher.client.submit as submit, watcher.cli.main as cli\n"
        "drop = submit.drop\n"
        "def refused(inbox, name, suffix, data, **how):\n"
        "    if suffix == '.yaml': raise KeyboardInterrupt\n"
        "    return drop(inbox, name, suffix, data, **how)\n"
        "submit.drop = refused\n"
        "cli.main()\n"
    )
    spool.write_config()
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", "config.yaml", "submit", "--text", "Hi.", "--speaker-wav", "ana.wav"],
        env=environment(), cwd=spool.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert os.listdir(spool.inbox) == []


def test_a_failed_job_whose_recording_is_gone_is_not_retried_in_vain(spool: Spool) -> None:
    """It could only wait for a recording that nobody has any more."""
    (spool.folder / "ana.wav").write_bytes(recording())
    spool.start()
    words = ("submit", "--text", "Hello.", "--speaker-wav", "ana.wav", "--setting", "fault=refuse", "--name", "hello")
    assert spool.command(*words, "--wait").returncode == 1
    done = spool.command("retry", "hello")
    assert done.returncode == 1
    assert "Submit the job again with its recording" in done.stderr
    assert os.listdir(spool.inbox) == [".voicespool"]


@pytest.mark.parametrize("how", ["copytruncate", "moved"])
def test_a_log_that_is_rotated(spool: Spool, tmp_path: Path, how: str) -> None:
    """Emptied in place, the daemon's lines go on at its beginning; moved away, they follow it and none is lost."""
    spool.start()
    log, old = spool.folder / "log", tmp_path / "log.1"
    until(lambda: spool.lines("start"), "the daemon says that it starts")
    if how == "moved":
        log.rename(old)
    else:
        old.write_bytes(log.read_bytes())
        os.truncate(log, 0)
    spool.drop("hello.yaml")
    spool.result("hello")
    grown = old if how == "moved" else log
    until(lambda: '"action": "done"' in grown.read_text(), "the job is in the log")
    assert "\0" not in grown.read_text()
    assert log.exists() == (how == "copytruncate")
