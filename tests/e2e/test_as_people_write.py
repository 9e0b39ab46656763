"""Job files as people write them, through the real command: what they typed, are warned of, and name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spooling import Spool, spooling, until


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with spooling(tmp_path / "spool") as spool:
        yield spool


def test_a_text_that_yaml_cuts_is_spoken_and_doubtful(spool: Spool) -> None:
    """`validate` warns beforehand, the manifest afterwards; a number is the text that stands there."""
    file = spool.drop("call.yaml", "text: Call extension #42 now\n")
    checked = spool.command("validate", str(file))
    assert checked.returncode == 0
    assert "call.yaml:1: text: `#42 now` is not spoken" in checked.stderr
    spool.drop("number.yaml", "text: 3.10\n")
    assert spool.once().returncode == 0
    call, number = spool.manifest("call"), spool.manifest("number")
    assert (call["status"], call["request"]["text"], call["checks"]["verdict"]) == (
        "done",
        "Call extension",
        "doubtful",
    )
    assert any("`#42 now` is not spoken" in reason for reason in call["checks"]["reasons"])
    assert any("`#42 now` is not spoken" in warning for warning in call["warnings"])
    assert (number["request"]["text"], number["checks"]["verdict"], number["warnings"]) == ("3.10", "ok", [])
    told = {job["name"]: job for job in spool.status()["results"]}
    assert (told["call"]["verdict"], told["number"]["verdict"]) == ("doubtful", "ok")
    assert "`#42 now` is not spoken" in told["call"]["reasons"][0]
    assert spool.status()["counts"]["doubtful"] == 1
    assert "`#42 now` is not spoken" in spool.command("status").stdout


def test_a_job_that_names_its_result(spool: Spool) -> None:
    """Killed, cancelled by either name, tried again, submitted with --wait: it is the job's own name throughout."""
    spool.start()
    (spool.inbox / "PAUSE").touch()
    first = spool.drop("radio/job.yaml", "text: Good evening.\nname: evening/news\n")
    until(lambda: [job["name"] for job in spool.status().get("next", [])] == ["evening/news"], "it is queued")
    spool.stop(9)
    spool.start()
    assert spool.command("cancel", "evening/news").returncode == 0
    assert spool.manifest("evening/news.cancelled")["source"]["file"] == "radio/job.yaml"
    assert spool.command("retry", "evening/news").returncode == 0
    until(lambda: not first.exists() and spool.status().get("next"), "it is queued again")
    assert spool.command("cancel", "radio/job").returncode == 0
    assert spool.manifest("evening/news.cancelled~2")["name"] == "evening/news"
    (spool.inbox / "PAUSE").unlink()
    job = spool.folder / "mine.yaml"
    job.write_text("text: Good evening.\nname: evening/news\n")
    waited = spool.command("submit", "--wait", str(job))
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout.strip().endswith("outbox/evening/news")
    assert (spool.outbox / "evening/news/news.wav").is_file()


def test_what_is_wrong_with_options_is_said_of_the_options(spool: Spool) -> None:
    """Nobody wrote a file, so that no line of one is named."""
    refused = spool.command(
        "submit", "--text", "Hello", "--engine", "espeak", "--speaker", "Michale", "--setting", "sped=1"
    )
    assert refused.returncode == 1
    lines = refused.stderr.splitlines()
    assert any(line.startswith("--speaker: unknown voice") for line in lines), refused.stderr
    assert any(line.startswith("--setting sped: espeak has no setting `sped`") for line in lines), refused.stderr
    assert ".yaml" not in refused.stderr


def test_a_recording_is_found_without_its_ending(spool: Spool) -> None:
    """And one that is not there fails the job by its line, with the nearest that is."""
    voices = spool.folder / "voices"
    voices.mkdir(exist_ok=True)
    (voices / "ana.wav").write_bytes(b"RIFF")
    spool.drop("near.yaml", "text: Hello.\nlanguage: en\nspeaker_wav: anna.wav\n")
    spool.once()
    error = (spool.result("near.failed") / "ERROR.txt").read_text()
    assert "line 3: speaker_wav: the recording anna.wav is neither next to the job file nor in voices/" in error
    assert "did you mean `ana.wav`?" in error
