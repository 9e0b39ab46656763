"""Real file systems that disappear, return, fill up, turn read-only or break: a hold that ends by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.mounting import (
    command,
    make_disk,
    make_disk_with_an_unreadable_file,
    mount_again,
    mount_disk,
    mount_tmpfs,
    private_mounts,
    unmount,
)
from tests.spooling import PLUGINS, ROOT, Spool, is_running, until

BOUNDARY = Path(__file__).parents[1] / "crash" / "boundary"
LONG_TEXT = f"text: One. {'Much more. ' * 30}\nsettings: {{audio_ms: 1000}}\n"


@pytest.fixture
def mounts(spool: Spool) -> Iterator[None]:
    """Private mounts, removed after the daemon has ended."""
    with private_mounts():
        yield
        if spool.process is not None:
            spool.stop(signal.SIGKILL)


def held(spool: Spool, what: str, words: str) -> None:
    """Wait until the status shows this hold with these words in its reason."""
    until(
        lambda: any(hold["what"] == what and words in hold["reason"] for hold in spool.status().get("holds", [])),
        f"{what} on hold: {words}; {spool.status().get('holds')}",
    )
    until(lambda: spool.status()["state"] == "hold", "the state says hold")


def opened_on(pid: int, share: Path) -> list[str]:
    """Files on a file system that a process has open."""
    device, descriptors = share.stat().st_dev, list(Path(f"/proc/{pid}/fd").iterdir())
    return [os.readlink(path) for path in descriptors if os.path.exists(path) and path.stat().st_dev == device]


def no_longer_held(spool: Spool) -> None:
    until(lambda: not spool.status()["holds"], "the hold is over")


def fill_up(folder: Path) -> Path:
    """Fill a file system."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler


def until_changed(path: Path) -> None:
    before = path.stat().st_mtime_ns
    until(lambda: path.stat().st_mtime_ns != before, f"{path.name} is written again")


def chunks_begun(journal: Path) -> list[str]:
    return [line.partition(" ")[2] for line in journal.read_text().splitlines()] if journal.exists() else []


# The inbox.


def test_an_inbox_that_is_unmounted_and_back_puts_the_running_job_off_and_goes_on(spool: Spool, mounts: None) -> None:
    """Finished chunks are not rendered again; nothing is written to the bare mount point."""
    share, journal, gate = spool.folder / "share", spool.folder / "journal", spool.folder / "gate"
    mount_tmpfs(share)
    mount_again(share, spool.inbox)
    settings = json.dumps({"fault": "hang", "only": "Two", "times": 1, "counter": str(gate), "journal": str(journal)})
    spool.drop("a.yaml", f"text: One. Two. Three.\nsettings: {settings}\n")
    spool.drop("b.yaml")
    spool.start()
    until(lambda: gate.exists() and gate.stat().st_size, "the first chunk is finished, the second begun and hanging")
    assert "Two." in chunks_begun(journal)
    worker = spool.worker_pid()
    unmount(spool.inbox)
    until(lambda: spool.lines("hold"), "a hold")
    assert spool.lines("hold")[-1]["what"] == "inbox"
    assert not list(spool.inbox.iterdir())
    assert spool.process is not None
    assert not opened_on(spool.process.pid, share), "an unmount would stay busy"
    assert not is_running(worker)
    mount_again(share, spool.inbox)
    assert spool.manifest("a")["attempts"] == 1
    assert spool.manifest("b")["status"] == "done"
    assert chunks_begun(journal) == ["One.", "Two.", "Two.", "Three."]
    assert spool.worker_pid() != worker
    assert spool.results() == ["a", "b"]
    no_longer_held(spool)
    assert spool.stop() == 0


@pytest.mark.long
def test_the_mount_point_of_an_inbox_that_stays_away_is_never_taken_for_a_new_inbox(spool: Spool, mounts: None) -> None:
    """Longer than the half minute after which a new inbox is used: the share returns, and work continues."""
    share = spool.folder / "share"
    mount_tmpfs(share)
    mount_again(share, spool.inbox)
    spool.start()
    unmount(spool.inbox)
    until(lambda: spool.lines("hold"), "a hold")
    gone_s = time.monotonic()
    until(lambda: time.monotonic() > gone_s + 45, "the half minute and more is over")
    assert not list(spool.inbox.iterdir())
    mount_again(share, spool.inbox)
    spool.drop("a.yaml")
    assert spool.manifest("a")["status"] == "done"
    assert spool.lines("new_inbox") == []
    assert spool.stop() == 0


def test_an_inbox_that_is_deleted_and_made_again_is_a_hold_at_first(spool: Spool) -> None:
    """For half a minute nothing is claimed in the new inbox, and nothing is written to it."""
    spool.start()
    os.rename(spool.inbox, spool.folder / "old")
    until(lambda: spool.lines("hold"), "a hold")
    spool.inbox.mkdir()
    spool.drop("a.yaml")
    assert spool.stop() == 0
    assert [path.name for path in spool.inbox.iterdir()] == ["a.yaml"]
    assert spool.results() == []


def test_a_daemon_whose_inbox_is_away_sleeps_between_two_looks(spool: Spool) -> None:
    """Also when its last event was about the lost inbox. A process that spins has no voluntary context switches."""
    spool.start()
    spool.drop("a.yaml")
    spool.result("a")

    def removed() -> bool:
        shutil.rmtree(spool.inbox, ignore_errors=True)  # the daemon may be writing into it
        return not spool.inbox.exists()

    until(removed, "the inbox is gone")
    until(lambda: spool.lines("hold"), "a hold")
    assert spool.process is not None
    process = psutil.Process(spool.process.pid)
    before = process.num_ctx_switches().voluntary
    until(lambda: process.num_ctx_switches().voluntary > before + 3, "it sleeps")
    assert spool.stop() == 0


@pytest.mark.long
def test_an_inbox_that_is_deleted_and_stays_new_for_half_a_minute_is_taken_as_new(spool: Spool) -> None:
    """The log names the jobs that were claimed in the old inbox; the new one works."""
    gate = spool.folder / "gate"
    spool.drop("1-running.yaml", f"text: One.\nsettings: {{gate: {gate}}}\n")
    spool.drop("2-queued.yaml")
    spool.start()
    until(lambda: len(spool.lines("claim")) == 2 and spool.lines("render"), "one job runs, one is queued")
    os.rename(spool.inbox, spool.folder / "old")
    spool.inbox.mkdir()
    spool.drop("new.yaml")
    assert spool.manifest("new")["status"] == "done"
    [line] = spool.lines("new_inbox")
    assert line["jobs"] == ["1-running", "2-queued"]
    assert spool.results() == ["new"]
    assert spool.stop() == 0


def test_a_full_inbox_loses_nothing_and_goes_on_when_there_is_space(spool: Spool, mounts: None) -> None:
    """Files that can't be claimed stay in the inbox; the log says why, since status.json is on the full disk too."""
    mount_tmpfs(spool.inbox, "size=256k")
    spool.start()
    spool.drop("a.yaml")
    spool.result("a")
    until(lambda: not spool.claims() and not list((spool.state / "trash").iterdir()), "its claim takes no more space")
    (spool.inbox / ".b.yaml").write_text("text: Waits for space.\n")
    filler = fill_up(spool.inbox)
    os.rename(spool.inbox / ".b.yaml", spool.inbox / "b.yaml")
    until(lambda: "No space left" in spool.log(), "the log says why")
    filler.unlink()
    assert spool.manifest("b")["status"] == "done"
    assert spool.stop() == 0


def test_a_disk_that_is_full_at_the_start_is_one_hold_until_there_is_space(spool: Spool, mounts: None) -> None:
    """A claim that can't be read back is checked repeatedly and logged once."""
    mount_tmpfs(spool.inbox, "size=256k")
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    for spare in (spool.state / "spare").iterdir():  # its space would be free after the start
        shutil.rmtree(spare)
    claim = spool.state / "claimed" / "20260101T000000.000000001"
    claim.mkdir()
    (claim / "claim.json").write_text('{"source": "b.yaml", "claimed_ns": 1767225600000000001}')
    (claim / "original").write_text("text: Claimed, and not read yet.\n")
    filler = fill_up(spool.inbox)
    ended = spool.once()
    assert ended.returncode == 75
    assert "inbox: the inbox: No space left on device" in ended.stderr
    spool.start(wait=False)
    until(lambda: spool.lines("hold"), "a hold")
    until_changed(spool.state / "lock")
    filler.unlink()
    assert spool.manifest("b")["status"] == "done"
    assert len(spool.lines("hold")) == len(spool.lines("resume")) == 1
    assert spool.stop() == 0


def test_an_inbox_that_fills_up_while_a_job_is_rendered_is_a_hold_and_no_failure(spool: Spool, mounts: None) -> None:
    """The worker can't write a chunk: no attempt is counted, and the job is done when there is space."""
    gate = spool.folder / "gate"
    mount_tmpfs(spool.inbox, "size=1m")
    spool.drop("a.yaml", f"text: One. Two. Three.\nsettings: {{gate: {gate}, audio_ms: 2000}}\n")
    spool.start()
    until(lambda: spool.lines("render"), "the job runs")
    filler = fill_up(spool.inbox)
    gate.touch()
    until(lambda: any("No space left" in line["reason"] for line in spool.lines("hold")), "a hold that says why")
    assert spool.results() == []
    filler.unlink()
    assert spool.manifest("a")["attempts"] == 1
    assert spool.results() == ["a"]


def test_an_inbox_that_turns_read_only_holds_its_files_and_goes_on_when_it_may(spool: Spool, mounts: None) -> None:
    mount_tmpfs(spool.inbox)
    spool.config["ready"]["quiet_s"] = 3.0  # b is not taken before the inbox is read-only
    spool.start()
    spool.drop("a.yaml")
    spool.result("a")
    (spool.inbox / "b.yaml").write_text("text: Can't be taken.\n")
    command("mount", "--bind", "-o", "ro", spool.inbox, spool.inbox)
    until(lambda: "Read-only file system" in spool.log(), "the log says why")
    unmount(spool.inbox)
    assert spool.manifest("b")["attempts"] == 1
    assert spool.stop() == 0


# The outbox.


def test_an_unmounted_outbox_is_a_hold_and_not_a_fresh_start(spool: Spool, mounts: None) -> None:
    """An empty mount point stays empty; when the share is back, work resumes by itself."""
    share = spool.folder / "share"
    mount_tmpfs(share)
    mount_again(share, spool.outbox)
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    unmount(spool.outbox)
    spool.drop("b.yaml")
    ended = spool.once()
    assert ended.returncode == 75
    assert "is not the outbox that was used before" in ended.stderr
    spool.start()
    held(spool, "outbox", "its .voicespool/id is missing")
    assert not list(spool.outbox.iterdir())
    mount_again(share, spool.outbox)
    assert spool.manifest("b")["status"] == "done"
    no_longer_held(spool)
    unmount(spool.outbox)
    spool.drop("c.yaml")
    held(spool, "outbox", "its .voicespool/id is missing")
    mount_again(share, spool.outbox)
    assert spool.manifest("c")["status"] == "done"
    assert spool.results() == ["a", "b", "c"]


def test_an_outbox_that_is_gone_or_of_another_spool_is_a_hold(spool: Spool) -> None:
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    os.rename(spool.outbox, spool.folder / "mine")
    spool.drop("b.yaml")
    gone = spool.once()
    assert gone.returncode == 75
    assert "is not there" in gone.stderr
    (spool.outbox / ".voicespool").mkdir(parents=True)
    (spool.outbox / ".voicespool" / "id").write_text("somebody else's\n")
    spool.start()
    held(spool, "outbox", "is the outbox of another spool")
    assert spool.results() == []
    os.rename(spool.outbox, spool.folder / "theirs")
    os.rename(spool.folder / "mine", spool.outbox)
    assert spool.manifest("b")["status"] == "done"
    assert [path.name for path in (spool.folder / "theirs").iterdir()] == [".voicespool"]


def test_an_outbox_that_goes_while_a_job_renders_and_fails_another_renders_nothing_again(spool: Spool) -> None:
    """The hold says what is wrong, also when the rendered job meets it; back again, both are published."""
    gate = spool.folder / "gate"
    spool.start()
    spool.drop("a.yaml", f"text: One. Two.\nsettings: {{gate: {gate}}}\n")
    until(lambda: spool.lines("render"), "the job renders")
    os.rename(spool.outbox, spool.folder / "away")
    spool.drop("wrong.yaml", "txt: wrong key\n")
    held(spool, "outbox", "is not there")
    gate.touch()
    until(lambda: not spool.status()["running"], "the job is rendered")
    os.rename(spool.folder / "away", spool.outbox)
    assert spool.manifest("a")["attempts"] == 1
    assert spool.manifest("wrong.failed")["status"] == "failed"
    assert len(spool.lines("render")) == 1
    assert {line["reason"] for line in spool.lines("hold")} == {f"the outbox {spool.outbox} is not there"}


def test_a_result_that_waited_for_the_outbox_is_published_while_another_job_renders(spool: Spool) -> None:
    """Also when the other one has the higher priority."""
    first, second = spool.folder / "first", spool.folder / "second"
    spool.start()
    spool.drop("a.yaml", f"text: One.\nsettings: {{gate: {first}}}\n")
    until(lambda: spool.lines("render"), "the job renders")
    os.rename(spool.outbox, spool.folder / "away")
    first.touch()
    held(spool, "outbox", "is not there")
    spool.drop("b.yaml", f"text: Two.\npriority: 9\nsettings: {{gate: {second}}}\n")
    until(lambda: len(spool.lines("claim")) == 2, "the other job is queued")
    os.rename(spool.folder / "away", spool.outbox)
    assert spool.manifest("a")["status"] == "done"
    until(lambda: [job["name"] for job in spool.status()["running"]] == ["b"], "the other one renders")
    second.touch()
    assert spool.manifest("b")["status"] == "done"
    assert len(spool.lines("render")) == 2


def test_a_result_that_waited_for_the_outbox_is_published_by_a_paused_daemon_too(spool: Spool) -> None:
    """It needs no rendering, also for the next daemon."""
    gate = spool.folder / "gate"
    spool.start()
    spool.drop("a.yaml", f"text: One.\nsettings: {{gate: {gate}}}\n")
    until(lambda: spool.lines("render"), "the job renders")
    os.rename(spool.outbox, spool.folder / "away")
    gate.touch()
    held(spool, "outbox", "is not there")
    assert spool.stop() == 0
    os.rename(spool.folder / "away", spool.outbox)
    (spool.inbox / "PAUSE").touch()
    spool.start()
    assert spool.manifest("a")["status"] == "done"
    assert len(spool.lines("render")) == 1


def test_an_outbox_that_is_back_is_no_hold_while_the_first_job_renders(spool: Spool) -> None:
    gate = spool.folder / "gate"
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    os.rename(spool.outbox, spool.folder / "away")
    spool.start()
    held(spool, "outbox", "is not there")
    spool.drop("b.yaml", f"text: Two.\nsettings: {{gate: {gate}}}\n")
    until(lambda: spool.lines("claim"), "the job is queued")
    os.rename(spool.folder / "away", spool.outbox)
    until(lambda: spool.status()["running"], "the job renders")
    no_longer_held(spool)
    assert spool.status()["state"] == "running"
    gate.touch()
    assert spool.manifest("b")["status"] == "done"


def test_a_job_that_is_put_right_while_its_failure_waits_for_the_outbox_is_rendered(spool: Spool) -> None:
    """Wrong by the configuration of before, right by the one of now: it waits for its turn behind what renders."""
    gate = spool.folder / "gate"
    spool.config["defaults"] = {"engine": "instant"}
    spool.start()
    spool.drop("a.yaml", f"text: One.\nengine: faulty\nsettings: {{gate: {gate}}}\n")
    until(lambda: spool.lines("render"), "the job renders")
    os.rename(spool.outbox, spool.folder / "away")
    spool.drop("b.yaml", "text: Two.\nsettings: {audio_ms: 100}\n")
    held(spool, "outbox", "is not there")
    spool.config["defaults"] = {"engine": "faulty"}
    spool.write_config()
    assert spool.process is not None
    spool.process.send_signal(signal.SIGHUP)
    until(lambda: spool.lines("reload"), "the configuration is read again")
    os.rename(spool.folder / "away", spool.outbox)
    no_longer_held(spool)
    gate.touch()
    assert spool.manifest("a")["status"] == "done"
    assert spool.manifest("b")["attempts"] == 1
    assert spool.stop() == 0


def test_a_full_outbox_is_a_hold_that_renders_nothing_again(spool: Spool, mounts: None) -> None:
    """The status says why. When there is space, the finished job is published once, and then the next jobs."""
    journal = spool.folder / "journal"
    mount_tmpfs(spool.outbox, "size=256k")
    spool.start()
    spool.drop("a.yaml")
    spool.result("a")
    filler = fill_up(spool.outbox)
    spool.drop("b.yaml", f"text: One. Two.\nsettings: {{journal: {journal}}}\n")
    spool.drop("c.yaml")
    held(spool, "work", "No space left")
    assert spool.results() == ["a"]
    filler.unlink()
    assert spool.manifest("b")["attempts"] == 1
    assert spool.manifest("c")["status"] == "done"
    assert chunks_begun(journal) == ["One.", "Two."]
    no_longer_held(spool)
    assert spool.results() == ["a", "b", "c"]


def test_a_result_that_does_not_fit_where_others_do_delays_its_own_job_alone(spool: Spool, mounts: None) -> None:
    """No hold; when there is space the result is published, rendered once."""
    journal = spool.folder / "journal"
    mount_tmpfs(spool.outbox, "size=512k")
    spool.start()
    spool.drop("long.yaml", f"text: One. [pause 60s]\npriority: 9\nsettings: {{journal: {journal}}}\n")
    until(lambda: [job["file"] for job in spool.status().get("held", [])] == ["long"], "the job is deferred")
    assert "No space left" in spool.status()["held"][0]["reason"]
    spool.drop("short.yaml")
    assert spool.manifest("short")["status"] == "done"
    assert spool.status()["holds"] == []
    command("mount", "-o", "remount,size=64m", spool.outbox)
    assert spool.manifest("long")["attempts"] == 1
    assert chunks_begun(journal) == ["One."]


def test_a_read_only_outbox_is_a_hold(spool: Spool, mounts: None) -> None:
    mount_tmpfs(spool.outbox)
    spool.start()
    spool.drop("a.yaml")
    spool.result("a")
    command("mount", "-o", "remount,ro", spool.outbox)
    spool.drop("b.yaml")
    held(spool, "work", "Read-only file system")
    command("mount", "-o", "remount,rw", spool.outbox)
    assert spool.manifest("b")["attempts"] == 1
    assert spool.results() == ["a", "b"]


def test_inbox_and_outbox_on_different_file_systems(spool: Spool, mounts: None) -> None:
    """A result can't be renamed from one to the other: it is copied, and still appears by one rename."""
    mount_tmpfs(spool.outbox)
    assert spool.inbox.stat().st_dev != spool.outbox.stat().st_dev
    spool.drop("radio/a.yaml")
    spool.drop("bad.yaml", "txt: wrong key\n")
    assert spool.once().returncode == 1
    assert spool.results() == ["bad.failed", "radio/a"]
    assert sorted(os.listdir(spool.outbox / "radio" / "a")) == ["a.wav", "a.yaml", "manifest.json"]


def test_a_state_folder_on_another_file_system_than_the_inbox_is_refused(spool: Spool, mounts: None) -> None:
    spool.config["state_dir"] = str(spool.folder / "state")
    mount_tmpfs(spool.state)
    refused = spool.once()
    assert refused.returncode == 3
    assert "not on the file system of the inbox" in refused.stderr


# Errors of the device.


def test_an_input_output_error_on_one_file_holds_that_file_alone(spool: Spool, mounts: None) -> None:
    """A real disk whose end is missing: the file with its content there is held, the others are done."""
    make_disk_with_an_unreadable_file(spool.folder / "disk", spool.inbox, "lost.yaml")
    with pytest.raises(OSError, match="Input/output error"):
        (spool.inbox / "lost.yaml").read_bytes()
    spool.drop("good.yaml")
    spool.start()
    assert spool.manifest("good")["status"] == "done"
    [held_file] = until(lambda: spool.status()["held"], "the file is held")
    assert (held_file["file"], held_file["reason"]) == ("lost.yaml", "it can't be read: Input/output error")
    assert not spool.status()["holds"]
    assert spool.stop() == 0
    assert (spool.inbox / "lost.yaml").exists()


def test_an_outbox_on_a_disk_that_can_not_keep_its_promises_is_a_hold(spool: Spool, mounts: None) -> None:
    """A real disk in a sparse file on a smaller one: writes succeed, but fsync fails."""
    host = spool.folder / "host"
    mount_tmpfs(host, "size=30m")
    make_disk(host / "disk")
    mount_disk(host / "disk", spool.outbox)
    spool.start()
    spool.drop("a.yaml")
    spool.result("a")
    command("sync", "-f", spool.outbox)
    filler = fill_up(host)
    spool.drop("b.yaml", "text: One.\nsettings: {audio_ms: 60000}\n")
    held(spool, "work", "No space left on device")
    assert spool.results() == ["a"]
    filler.unlink()
    assert spool.manifest("b")["attempts"] == 1
    assert spool.results() == ["a", "b"]
    assert spool.stop() == 0


# Errors of shares, simulated at the system-call boundary.


def trouble(fail_at: str, fail_while: Path) -> dict[str, Any]:
    fail_while.touch()
    path = os.pathsep.join(map(str, (BOUNDARY, ROOT, PLUGINS)))
    return {"PYTHONPATH": path, "FAIL_AT": fail_at, "FAIL_WHILE": str(fail_while)}


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("fsync:/outbox/:EIO", "Input/output error"),
        ("rename:/outbox/a:EBUSY", "Device or resource busy"),
        ("fsync:claimed/:EIO", "Input/output error"),
        ("rename:/trash/:EACCES", "Permission denied"),
        ("rename:/original:EBUSY", "Device or resource busy"),
    ],
    ids=[
        "outbox can not be synced",
        "share refuses the publication",
        "state can not be synced",
        "release refused",
        "share refuses the claim",
    ],
)
def test_an_error_on_the_way_to_the_outbox_is_a_hold_and_then_the_job_is_published_once(
    spool: Spool, at: str, words: str
) -> None:
    """Also when the result was published and only the release of the claim failed."""
    broken = spool.folder / "broken"
    spool.start(**trouble(at, broken))
    spool.drop("a.yaml")
    until(lambda: words in spool.log(), "the log says why")
    broken.unlink()
    assert spool.manifest("a")["attempts"] == 1
    until(lambda: not spool.claims(), "the claim is released")
    assert spool.stop() == 0
    assert spool.results() == ["a"]


@pytest.mark.parametrize("at", ["rename:/original", "rename:/outbox/a", "rename:/trash/"])
def test_a_rename_that_worked_and_was_answered_with_an_error(spool: Spool, at: str) -> None:
    """A request that NFS repeats can report ENOENT although the first one succeeded: check, then continue."""
    spool.drop("a.yaml")
    spool.start(**trouble(f"{at}+:ENOENT", spool.folder / "broken"))
    assert spool.manifest("a")["status"] == "done"
    until(lambda: not spool.claims(), "the claim is released")
    assert spool.stop() == 0
    assert spool.results() == ["a"]
