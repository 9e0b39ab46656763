"""What can be asked for by files alone: pause, cancel, order, time, retry; and which job is which."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.sounds import recording
from tests.spooling import Spool, below, spooling, until

NEVER_S = 3600.0
PATIENT = {"quiet_s": 0.2, "scan_s": 0.5, "unparsable_grace_s": 0.6, "companions_s": NEVER_S}


def job(text: str, **keys: Any) -> str:
    return json.dumps({"text": text, **keys})


def said(spool: Spool, folder: str) -> str:
    manifest = spool.manifest(folder)
    assert manifest["status"] == "done", manifest
    return str(manifest["request"]["text"])


def counts(spool: Spool) -> dict[str, int]:
    return dict(spool.status().get("counts", {}))


def queue(spool: Spool) -> list[str]:
    """Names of the queued jobs, in the order in which they will run."""
    return [entry["name"] for entry in spool.status().get("next", ())]


def until_claimed(spool: Spool, jobs: int) -> None:
    """Wait until so many jobs have been queued since the log began."""
    until(lambda: len(spool.lines("claim")) == jobs, lambda: f"{jobs} jobs are claimed; {spool.lines('claim')}")


class Gate:
    """Jobs that stop in the middle until the gate is opened, and a record of what was begun."""

    def __init__(self, folder: Path) -> None:
        self.path, self.journal = folder / "gate", folder / "journal"

    def job(self, text: str, **keys: Any) -> str:
        return job(text, settings={"gate": str(self.path), "journal": str(self.journal)}, **keys)

    def noted(self, text: str, **keys: Any) -> str:
        """A job that is only recorded."""
        return job(text, settings={"journal": str(self.journal)}, **keys)

    def open(self) -> None:
        self.path.touch()

    def begun(self) -> list[str]:
        if not self.journal.exists():
            return []
        return [line.partition(" ")[2] for line in self.journal.read_text().splitlines()]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


# --- PAUSE -----------------------------------------------------------------------------------------------------------


def test_pause(spool: Spool, gate: Gate) -> None:
    """The running job is finished; others are claimed, queued, refused and cancelled, but not begun meanwhile."""
    spool.start()
    spool.drop("running.json", gate.job("Running."))
    until(lambda: gate.begun() == ["Running."])
    spool.drop("PAUSE", "back in an hour\n")
    for name in ("first", "second", "unwanted"):
        spool.drop(f"{name}.json", gate.noted(name))
    spool.drop("wrong.yaml", "text: [")
    until_claimed(spool, 5)
    spool.drop("unwanted.cancel", b"")
    gate.open()
    assert said(spool, "running") == "Running."
    assert spool.manifest("wrong.failed")["status"] == "failed"
    assert spool.manifest("unwanted.cancelled")["status"] == "cancelled"
    until(lambda: spool.status()["state"] == "paused" and counts(spool)["queued"] == 2)
    assert queue(spool) == ["first", "second"]
    assert not list(spool.inbox.glob("*.json"))
    assert spool.stop() == 0
    spool.start()
    until(lambda: spool.status()["state"] == "paused")
    assert gate.begun() == ["Running."]
    (spool.inbox / "PAUSE").unlink()
    assert said(spool, "first") == "first"
    assert said(spool, "second") == "second"
    assert gate.begun() == ["Running.", "first", "second"]


def test_a_pause_that_is_a_folder_or_a_link_counts_and_one_elsewhere_does_not(spool: Spool) -> None:
    """Any PAUSE at the top of the inbox, none below it; a passing run does not wait for it."""
    (spool.inbox / "PAUSE").symlink_to("nowhere")
    spool.drop("radio/PAUSE", b"")
    spool.drop("radio/hello.yaml")
    for how in ("--once", "--until-idle"):
        done = spool.command("run", how)
        assert done.returncode == 0, done.stderr
        assert spool.results() == []
        assert len(spool.claims()) == 1
    (spool.inbox / "PAUSE").unlink()
    assert spool.once().returncode == 0
    assert spool.results() == ["radio/hello"]


# --- NAME.cancel -----------------------------------------------------------------------------------------------------


def test_a_cancel_file_means_nothing_to_jobs_that_come_after_it(spool: Spool) -> None:
    """Left behind while no daemon ran, it does not swallow a later job of that name."""
    cancel = spool.drop("hello.cancel", b"")
    job_file = spool.inbox / "hello.yaml"

    def dropped_later() -> bool:  # clocks of file systems tick coarsely
        spool.drop("hello.yaml")
        return job_file.stat().st_ctime_ns > cancel.stat().st_ctime_ns

    until(dropped_later, "the job is younger than the cancel file")
    assert spool.once().returncode == 0
    assert spool.results() == ["hello"]
    assert not cancel.exists()


def test_cancel_jobs_that_wait(tmp_path: Path) -> None:
    """For a recording, for bytes, for their time or their turn, in subfolders, of two suffixes: all of that name go."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        (spool.inbox / "PAUSE").touch()
        spool.drop("recording.json", job("I wait.", speaker_wav="never.wav"))
        (spool.inbox / "empty.yaml").touch()
        spool.drop("radio/queued one.json", job("I wait."))
        spool.drop("later.json", job("I wait.", not_before=later))
        spool.drop("both.json", job("I wait."))
        spool.drop("both.YAML", "text: I wait too.\n")
        spool.drop("kept.json", job("I stay."))
        spool.start()
        until(lambda: counts(spool)["queued"] == 5 and counts(spool)["waiting"] == 2)
        for name in ("recording", "empty", "radio/queued one", "later", "both", "unknown"):
            spool.drop(f"{name}.cancel", b"anything")
        names = ["both", "empty", "later", "radio/queued one", "recording"]
        gone = sorted([*(f"{name}.cancelled" for name in names), "both.cancelled~2"])
        until(lambda: spool.results() == gone, lambda: f"{spool.results()}")
        for folder in gone:
            manifest = spool.manifest(folder)
            assert manifest["status"] == "cancelled"
            assert manifest["audio"] == []
            assert "cancelled" in (spool.outbox / folder / "ERROR.txt").read_text()
        assert (spool.outbox / "recording.cancelled" / "recording.json").read_text().startswith('{"text": "I wait."')
        until(lambda: not below(spool.inbox, "*.cancel"), "they are consumed")
        until(lambda: counts(spool) == counts(spool) | {"queued": 1, "waiting": 0, "cancelled": 6})
        (spool.inbox / "PAUSE").unlink()
        assert said(spool, "kept") == "I stay."
        spool.drop("recording.json", job("A new one."))
        assert said(spool, "recording") == "A new one."


def test_cancel_the_running_job(spool: Spool, gate: Gate) -> None:
    """It ends with its chunk and the model stays loaded; the next job runs; the same file moved back runs after all."""
    spool.start()
    spool.drop("running.json", gate.job("Running. Never said."))
    until(gate.begun)
    worker = spool.worker_pid()
    spool.drop("next.json", job("Next."))
    spool.drop("running.cancel", b"")
    until(lambda: spool.lines("cancelling"), "the worker is asked to stop")
    gate.open()
    assert spool.manifest("running.cancelled")["status"] == "cancelled"
    assert said(spool, "next") == "Next."
    assert gate.begun() == ["Running."]
    assert spool.manifest("next")["timing"]["load_s"] == 0.0
    assert spool.worker_pid() == worker
    os.rename(spool.outbox / "running.cancelled" / "running.json", spool.inbox / "running.json")
    assert said(spool, "running") == "Running. Never said."


def test_cancel_jobs_of_a_file_with_several(spool: Spool, gate: Gate) -> None:
    """NAME-2.cancel means the second document alone, NAME.cancel all that are left, the running one too."""
    spool.start()
    documents = ["One.", "Two.", "Three.", "Four."]
    spool.drop("radio/many.json", f"[{','.join(map(gate.job, documents))}]")
    until(lambda: gate.begun() == ["One."])
    spool.drop("radio/many-2.cancel", b"")
    until(lambda: not below(spool.inbox, "*.cancel"))
    spool.drop("radio/many.cancel", b"")
    until(lambda: len(spool.lines("cancelling")) == 4, "the worker is asked to stop all")
    gate.open()
    gone = [f"radio/many-{number}.cancelled" for number in (1, 2, 3, 4)]
    until(lambda: spool.results() == gone, lambda: f"{spool.results()}")
    assert gate.begun() == ["One."]
    job_file = spool.outbox / "radio/many-3.cancelled" / "many-3.json"
    assert json.loads(job_file.read_text())["text"] == "Three."


def test_cancel_one_document(spool: Spool) -> None:
    """The others of its file are spoken."""
    (spool.inbox / "PAUSE").touch()
    spool.start()
    spool.drop("many.yaml", "text: One.\n---\ntext: Two.\n---\ntext: Three.\n")
    until_claimed(spool, 3)
    spool.drop("many-2.cancel", b"")
    spool.result("many-2.cancelled")
    (spool.inbox / "PAUSE").unlink()
    assert said(spool, "many-3") == "Three."
    assert spool.results() == ["many-1", "many-2.cancelled", "many-3"]


@pytest.mark.parametrize("between", [0, 2000])
def test_cancel_while_no_daemon_runs(spool: Spool, between: int) -> None:
    """Job and cancel lie there when the daemon starts, close together or far apart in its scan: it is not spoken."""
    for number in range(between):
        (spool.inbox / f"hello.d{number}.txt").touch()  # between them in the order of names
    spool.drop("hello.json", job("Hello."))
    spool.drop("other.json", job("Other."))
    spool.drop("hello.cancel", b"")
    assert spool.once().returncode == 0
    assert spool.results() == ["hello.cancelled", "other"]
    assert spool.once().returncode == 0
    assert spool.results() == ["hello.cancelled", "other"]


def test_a_cancel_file_is_there_until_its_job_is_cancelled_for_good(spool: Spool) -> None:
    """It is found while the daemon still reads back what is claimed, and the daemon is killed when the file is gone."""
    (spool.inbox / "PAUSE").touch()
    spool.start()
    jobs = 400
    spool.drop("a.json", f"[{','.join(job(str(number)) for number in range(jobs))}]")
    spool.drop("hello.json", job("Hello."))
    until_claimed(spool, jobs + 1)
    spool.stop(signal.SIGKILL)
    spool.drop("hello.cancel", b"")
    spool.start(wait=False)
    until(lambda: not (spool.inbox / "hello.cancel").exists(), "the cancel file is gone")
    spool.stop(signal.SIGKILL)
    spool.start(wait=False)
    assert spool.manifest("hello.cancelled")["status"] == "cancelled"


def test_a_folder_that_ends_in_cancel_is_a_folder(spool: Spool) -> None:
    """Jobs in it are jobs; nothing is cancelled by it; it stays."""
    (spool.inbox / "hello.cancel").mkdir()
    spool.start()
    (spool.inbox / "late.cancel").mkdir()
    for name in ("hello", "hello.cancel/inner", "late", "late.cancel/inner"):
        spool.drop(f"{name}.json", job(name))
        assert said(spool, name) == name
    assert (spool.inbox / "hello.cancel").is_dir()


# --- order and time --------------------------------------------------------------------------------------------------


def test_order(spool: Spool, gate: Gate) -> None:
    """Highest priority first, then the oldest claim, then natural order of names; documents in their order."""
    (spool.inbox / "PAUSE").touch()
    for number in (10, 9, 1):
        spool.drop(f"part-{number}.json", gate.noted(f"part {number}"))
    spool.start()
    until_claimed(spool, 3)
    jobs = {"low": 0, "urgent": 9, "high": 7, "default": None, "also high": 7}
    for count, (name, priority) in enumerate(jobs.items(), start=4):
        spool.drop(f"{name}.json", gate.noted(name, **({} if priority is None else {"priority": priority})))
        until_claimed(spool, count)
    spool.drop("two.json", f"[{gate.noted('two 1', priority=8)}, {gate.noted('two 2', priority=8)}]")
    until(lambda: len(queue(spool)) == 10)
    order = ["urgent", "two 1", "two 2", "high", "also high", "part 1", "part 9", "part 10", "default", "low"]
    assert [name.replace("-", " ") for name in queue(spool)] == order
    assert [entry["place"] for entry in spool.status()["next"]] == list(range(1, 11))
    (spool.inbox / "PAUSE").unlink()
    until(lambda: len(spool.results()) == 10)
    assert gate.begun() == order


def test_a_batch_keeps_natural_order(spool: Spool, gate: Gate) -> None:
    """A folder that one rename brings while the daemon is busy: part-2 before part-10."""
    spool.start()
    spool.drop("first.json", gate.job("first"))
    until(gate.begun)
    batch = spool.folder / "batch"
    batch.mkdir()
    for number in (10, 2, 1):
        (batch / f"part-{number}.json").write_text(gate.noted(f"part {number}"))
    os.rename(batch, spool.inbox / "batch")
    until_claimed(spool, 4)
    gate.open()
    until(lambda: len(spool.results()) == 4)
    assert gate.begun() == ["first", "part 1", "part 2", "part 10"]


def test_not_before(spool: Spool) -> None:
    """A job waits for its time and nobody waits for it; status tells; a passing run leaves it; then it is spoken."""
    now = datetime.now(UTC)
    soon, tomorrow = now + timedelta(seconds=3), now + timedelta(days=1)
    spool.drop("soon.json", job("Soon.", not_before=soon.isoformat(), priority=9))
    spool.drop("tomorrow.json", job("Tomorrow.", not_before=tomorrow.isoformat()))
    spool.drop("now.json", job("Now."))
    done = spool.once()
    assert done.returncode == 0, done.stderr
    if datetime.now(UTC) < soon:
        assert spool.results() == ["now"]
    assert spool.start("--until-idle", wait=False).wait(60) == 0
    spool.start()
    manifest = spool.manifest("soon")
    started = datetime.fromisoformat(manifest["source"]["claimed_at"]).timestamp() + manifest["timing"]["queued_s"]
    assert started >= soon.timestamp() - 0.01
    until(lambda: queue(spool) == ["tomorrow"])
    told = datetime.fromisoformat(spool.status()["next"][0]["not_before"])
    assert abs((told - tomorrow).total_seconds()) < 0.01
    assert spool.results() == ["now", "soon"]


# --- passing runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--once", "--until-idle"])
def test_a_passing_run_takes_what_becomes_ready(spool: Spool, how: str) -> None:
    """Written in place a moment ago, or half-written for ever: it waits for those, tells of the failure, and ends."""
    for name in ("whole", "radio/below"):
        path = spool.inbox / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(job(name))
    (spool.inbox / "half.json").write_text('{"text": "Ha')
    (spool.inbox / "empty.json").touch()
    done = spool.command("run", how)
    assert done.returncode == (1 if how == "--once" else 0), done.stderr
    assert spool.results() == ["half.failed", "radio/below", "whole"]
    assert spool.status()["state"] == "stopped"
    assert spool.command("run", how).returncode == 0, "the failure was told once"


def test_a_passing_run_waits_for_a_recording_that_comes(tmp_path: Path) -> None:
    """A job whose recording is on its way becomes ready, too."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.drop("hello.json", job("Hello.", speaker_wav="ana.wav"))
        process = spool.start("--once")
        until(lambda: counts(spool).get("waiting") == 1)
        spool.drop("ana.wav", recording())
        assert process.wait(60) == 0
        assert spool.results() == ["hello"]


# --- identity --------------------------------------------------------------------------------------------------------


def test_the_same_name_again_is_a_new_job(spool: Spool) -> None:
    """With new content or the same: each has its result, the later ones a number."""
    spool.start()
    for number, text in enumerate(["First.", "Second.", "Second."], start=1):
        spool.drop("hello.json", job(text))
        assert said(spool, f"hello~{number}" if number > 1 else "hello") == text
    assert {path.name for path in (spool.outbox / "hello~3").iterdir()} == {"hello.json", "hello.wav", "manifest.json"}
    assert len({spool.manifest(name)["job_id"] for name in spool.results()}) == 3


def test_a_failed_job_is_mended_and_dropped_again(spool: Spool) -> None:
    """Mended in its result and moved back, or dropped anew under its name: it runs; the failure stays on record."""
    spool.start()
    spool.drop("Wrong.YAML", "text: Hello.\nlangauge: pt\n")
    mended = spool.result("Wrong.failed") / "Wrong.YAML"
    mended.write_text(mended.read_text().replace("langauge", "language"))
    os.rename(mended, spool.inbox / "Wrong.YAML")
    assert said(spool, "Wrong") == "Hello."
    spool.drop("late.json", job("Hello.", speaker_wav="ana.wav"))
    failed = spool.result("late.failed")
    (spool.inbox / "ana.wav").write_bytes(recording())
    os.rename(failed / "late.json", spool.inbox / "late.json")
    assert said(spool, "late") == "Hello."
    assert spool.results() == ["Wrong", "Wrong.failed", "late", "late.failed"]


def test_retry_by_name(spool: Spool) -> None:
    """`voicespool retry` moves the job file back for whatever name and suffix it has."""
    names = ["Shouted.YAML", "radio/what? now.Yml"]
    for name in names:
        spool.drop(name, "text: [")
    assert spool.once().returncode == 1
    for name in names:
        done = spool.command("retry", name.rpartition(".")[0])
        assert done.returncode == 0, done.stderr
    assert spool.once().returncode == 1
    assert sum(".failed~2" in name for name in spool.results()) == 2


def test_overwritten_while_waiting_queued_and_running(tmp_path: Path, gate: Gate) -> None:
    """Before the claim new content replaces the old; after it, it is a job of its own, and the first stays whole."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        spool.drop("waiting.json", job("Old.", speaker_wav="never.wav"))
        in_place = spool.drop("in-place.json", job("Old.", speaker_wav="never.wav"))
        until(lambda: counts(spool)["waiting"] == 2)
        spool.drop("waiting.json", job("New."))
        in_place.write_text(job("New."))
        assert said(spool, "waiting") == "New."
        assert said(spool, "in-place") == "New."
        spool.drop("running.json", gate.job("Running, old."))
        until(lambda: gate.begun() == ["Running, old."])
        spool.drop("queued.json", gate.job("Queued, old."))
        until_claimed(spool, 4)
        spool.drop("running.json", gate.job("Running, new."))
        (spool.inbox / "queued.json").write_text(gate.job("Queued, new."))
        until_claimed(spool, 6)
        gate.open()
        for name in ("running", "queued"):
            assert said(spool, name) == f"{name.title()}, old."
            assert said(spool, f"{name}~2") == f"{name.title()}, new."
        assert len(spool.results()) == 6


def test_a_job_is_what_it_was_when_it_was_claimed(spool: Spool) -> None:
    """A file with a second name is overwritten through that name while its job is queued: nothing of it is spoken."""
    kept = spool.folder / "kept.json"
    kept.write_text(job("As it was."))
    (spool.inbox / "PAUSE").touch()
    os.link(kept, spool.inbox / "linked.json")
    spool.start()
    until_claimed(spool, 1)
    kept.write_text(job("Something else."))
    (spool.inbox / "PAUSE").unlink()
    assert said(spool, "linked") == "As it was."
    assert json.loads((spool.outbox / "linked" / "linked.json").read_text())["text"] == "As it was."
    assert json.loads(kept.read_text())["text"] == "Something else."


def test_a_daemon_with_work_is_never_called_idle(spool: Spool) -> None:
    """Between two jobs nothing runs, and yet the next one is due."""
    (spool.inbox / "PAUSE").touch()
    for number in range(12):
        spool.drop(f"j{number}.json", job(f"Number {number}."))
    spool.start()
    until_claimed(spool, 12)
    (spool.inbox / "PAUSE").unlink()

    def all_done() -> bool:
        status = spool.status()
        assert not (status["state"] == "idle" and status["next"]), status
        return len(spool.lines("done")) == 12

    until(all_done)
