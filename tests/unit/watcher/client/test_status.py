"""What `status` knows from outside, and that showing it can't be abused."""

from __future__ import annotations

import io
import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jobs.results.manifest import Checks
from jobs.spool.lock import Lock
from tests.manifests import failure, manifest, source
from watcher.cli import progress
from watcher.cli.display import layout
from watcher.cli.display import status as display
from watcher.client.follow import LOST_AFTER_S, Follower
from watcher.client.results import results_of
from watcher.client.status import Snapshot, Status, look, schema
from watcher.client.submit import Dropped
from watcher.config.settings import Config, load

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NASTY = "\x1b[2J\x1b]8;;http://evil\x07[bold red]x[/]\nfake: line\u202e\u2066\udcff"
JOB = {"job_id": "20261121T110000.1", "name": "radio/hello"}
STATUS: dict[str, Any] = {
    "schema": 1,
    "version": "0.1.0",
    "host": "box",
    "pid": 7,
    "started_at": "2026-11-21T10:00:00Z",
    "updated_at": "2026-11-21T11:59:00Z",
    "state": "running",
    "holds": [{"what": "outbox", "reason": "it is full", "since": "2026-11-21T11:00:00Z"}],
    "counts": {"ready": 0, "waiting": 1, "queued": 1, "running": 1, "held": 1, "ignored": 1, "done": 1, "failed": 1},
    "warm": {"engine": "espeak", "checkpoint": None},
    "rate": 12.5,
    "running": [{**JOB, "engine": "espeak", "chunk": 3, "chunks": 10, "started_at": "2026-11-21T11:58:00Z",
                 "eta_s": 62.5}],
    "next": [{"job_id": "n", "name": "news", "place": 1, "priority": 5, "not_before": None}],
    "waiting": [{"file": "late.yaml", "reason": "it is empty", "since": "2026-11-21T11:59:30Z"}],
    "held": [{"file": "locked.yaml", "reason": "it can't be read", "since": "2026-11-21T09:00:00Z"}],
    "ignored": [{"file": "notes.txt", "reason": "not a job file"}],
    "results": [
        {"job_id": "a", "name": "a", "status": "done", "folder": "/out/a", "finished_at": "2026-11-21T11:00:00Z",
         "duration_s": 61.0, "source_sha256": "0" * 64, "message": None},
        {"job_id": "b", "name": "b", "status": "failed", "folder": "/out/b.failed",
         "finished_at": "2026-11-19T11:00:00Z", "duration_s": None, "source_sha256": "0" * 64,
         "message": "no such speaker"},
    ],
}  # fmt: skip
DAEMON = {"pid": 7, "host": "box", "started_at": "2026-11-21T10:00:00Z"}


def written(status: dict[str, Any]) -> Any:
    """As the daemon writes it: every key."""
    return Status.read(status).model_dump(mode="json", by_alias=True)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "config.yaml").write_text("")
    config = load(tmp_path / "config.yaml")
    config.state_dir.mkdir(parents=True)
    config.outbox.mkdir()
    return config


def shown(snapshot: Snapshot, rows: int = 20) -> str:
    stream = io.StringIO()
    layout.show(display.status(snapshot, NOW, rows), stream)
    return stream.getvalue()


def write_status(config: Config, **changes: Any) -> None:
    (config.state_dir / "status.json").write_text(json.dumps(STATUS | changes))


def publish(config: Config, folder: str, job_id: str, status: str = "done", sha256: str = "") -> Path:
    path = config.outbox / folder
    path.mkdir(parents=True)
    error = failure("why") if status == "failed" else None
    written = manifest(job_id=job_id, status=status, source=source(sha256=sha256), error=error)
    (path / "manifest.json").write_bytes(written.to_json())
    return path


def test_everything_a_user_asks_for_is_shown() -> None:
    """Running job with progress and time left, hold, queue, waiting, held and ignored with reasons, results."""
    text = shown(Snapshot(Status.read(STATUS), DAEMON))
    for words in (
        "process 7 on box, for 2 h", "hold: outbox: it is full (for 1 h)", "12.5 s of audio per second",
        "radio/hello", "3 of 10", "1:02",
        "1 queued", "news", "late.yaml", "it is empty", "30 s", "locked.yaml", "3 h", "notes.txt", "not a job file",
        "/out/a", "1:01", "1 h ago", "no such speaker", "2 d ago",
    ):  # fmt: skip
        assert words in text, words


def test_long_lists_are_cut_and_say_so() -> None:
    """So that a queue of thousands leaves the rest in sight."""
    queue = [{"job_id": str(n), "name": f"job-{n}", "place": n, "priority": 5} for n in range(1, 31)]
    text = shown(Snapshot(Status.read(STATUS | {"next": queue}), DAEMON), rows=5)
    assert "job-5" in text
    assert "job-6" not in text
    assert "… and 25 more" in text


def test_lists_say_how_many_they_do_not_show() -> None:
    """status.json has the first 1,000 of each, and the number of all; nothing is said that nobody could see."""
    counts = {"queued": 5000, "waiting": 1, "held": 2, "ignored": 1}
    text = shown(Snapshot(Status.read(STATUS | {"counts": counts}), DAEMON))
    assert "… and 4999 more" in text
    assert "… and 1 more" in text


def test_a_folder_that_can_not_be_looked_into_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inbox is not said to hold nothing then."""
    (config.inbox / "team").mkdir()
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if os.fspath(path).endswith("team"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    snapshot = look(config)
    assert snapshot.unseen_folders == (("team", "Permission denied"),)
    text = shown(snapshot)
    assert "not readable: team: Permission denied" in text
    assert "holds no job file" not in text


def test_doubt_and_repair_are_shown_with_the_result() -> None:
    """A doubtful result with its reason; a failure whose name was done later as that, not as a failure."""
    done, failed = STATUS["results"]
    doubtful = {**done, "verdict": "doubtful", "reasons": ["far too long", "clipped"]}
    repaired = {**failed, "done_since": True}
    counts = STATUS["counts"] | {"done": 4, "doubtful": 1, "failed": 0, "repaired": 1}
    status = STATUS | {"results": [doubtful, repaired], "counts": counts}
    jsonschema.validate(written(status), schema())
    text = shown(Snapshot(Status.read(status), DAEMON))
    assert "done, doubtful" in text
    assert re.search(r"/out/a\n    far too long\n    clipped\n", text)
    assert "failed, done since" in text
    assert "4 done (1 doubtful), 1 failed and done since\n" in text


def test_a_wrong_or_changed_configuration_is_shown() -> None:
    """The daemon's word: what was wrong with the file, and what waits for a restart."""
    folders = {name: f"/srv/{name}" for name in ("inbox", "outbox", "voices", "models", "state_dir")}
    config = {"file": "/srv/config.yaml", **folders, "read_at": "2026-11-21T11:00:00Z",
              "pending_restart": ["outbox"], "error": "line 3: unknown key"}  # fmt: skip
    status = STATUS | {"config": config}
    jsonschema.validate(written(status), schema())
    text = shown(Snapshot(Status.read(status), DAEMON))
    assert "/srv/config.yaml, read 1 h ago, is invalid; the daemon keeps the previous" in text
    assert "configuration: line 3: unknown key" in text
    assert "needs a restart: outbox" in text


def test_a_strangers_text_can_not_steer_the_terminal() -> None:
    """Not by escape sequences, line breaks, bidirectional overrides or rich's markup; whatever field it is in."""
    nasty = json.loads(json.dumps(STATUS), object_hook=lambda part: {
        key: NASTY if isinstance(value, str) else value for key, value in part.items()
    })  # fmt: skip
    for snapshot in (
        Snapshot(Status.read(nasty), {"pid": NASTY, "host": NASTY}),
        Snapshot(Status.read(nasty), None, (NASTY,), 1),
    ):
        text = shown(snapshot)
        assert all(char.isprintable() or char == "\n" for char in text)
        assert not any(line.startswith("fake") for line in text.splitlines())


@pytest.mark.parametrize(
    "broken",
    [
        {}, {"results": 3, "next": [1], "running": None, "counts": None}, {"running": {"chunk": "x", "eta_s": True}},
        {"running": [{"chunk": -3, "chunks": 2}, 7]},
    ],
)  # fmt: skip
def test_a_status_of_another_version_is_no_reason_to_crash(broken: dict[str, Any]) -> None:
    """What is not understood is left out."""
    assert shown(Snapshot(Status.read(broken), DAEMON))
    assert shown(Snapshot(Status.read(broken), None))


def test_several_jobs_run_at_once_and_none_looks_finished() -> None:
    """One line each, also of an older daemon's single object; the bar of what still runs is never full."""
    (one,) = STATUS["running"]
    last = {**one, "job_id": "2", "name": "news", "chunk": 10, "eta_s": 0}
    lines = shown(Snapshot(Status.read(STATUS | {"running": [one, last]}), DAEMON)).splitlines()
    rows = [line for line in lines if "of 10" in line]
    assert [row.split()[0] for row in rows] == ["radio/hello", "news"]
    assert [row.count("━") for row in rows] == [6, 19]
    assert shown(Snapshot(Status.read(STATUS | {"running": one}), DAEMON)) == shown(
        Snapshot(Status.read(STATUS), DAEMON)
    )
    assert Snapshot(Status.read(STATUS | {"running": one}), DAEMON).as_json()["running"] == [{"file": "", **one}]
    assert Snapshot(Status.read(STATUS | {"running": None}), DAEMON).as_json()["running"] == []


def test_the_example_keeps_to_the_schema() -> None:
    """The schema is valid, and what these tests use is a status.json."""
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(written(STATUS), schema())


def test_without_a_daemon_the_inbox_is_listed(config: Config) -> None:
    """Job files in it, also in subfolders, without the spool's own and other hidden ones."""
    (config.inbox / "radio").mkdir()
    for name in ("b.yaml", "radio/a.json", ".hidden.yaml", "notes.txt", ".voicespool/x.yaml"):
        (config.inbox / name).write_text("text: x")
    snapshot = look(config)
    assert snapshot.daemon is None
    assert snapshot.files == ("b.yaml", "radio/a.json")
    assert "No daemon has run for this inbox yet" in shown(snapshot)
    assert snapshot.as_json()["inbox"] == {"count": 2, "files": ["b.yaml", "radio/a.json"], "unseen": []}


def test_jobs_that_an_ended_daemon_had_taken_are_not_forgotten(config: Config) -> None:
    """They are in no list of the inbox, and go on at the next start."""
    write_status(config, running=[], counts={"queued": 2, "running": 0})
    assert "2 jobs were queued or running; `voicespool run` resumes" in shown(look(config))
    write_status(config, running=[], counts={"queued": 0, "running": 0})
    assert "queued or running" not in shown(look(config))


def test_titles_are_not_folded_over_a_narrow_list(config: Config) -> None:
    (config.inbox / "a.yaml").write_text("text: x")
    assert "in the inbox\n" in shown(look(config))


def test_looking_is_harmless_where_nothing_was_made_yet(tmp_path: Path) -> None:
    """No folder, no state: nothing is made, nothing fails."""
    (tmp_path / "config.yaml").write_text("")
    assert look(load(tmp_path / "config.yaml")).as_json()["daemon"]["running"] is False
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_whether_the_daemon_lives_is_the_lock_s_word(config: Config) -> None:
    """A status.json that says `running` means nothing when nobody holds the lock; asking does not take it."""
    write_status(config)
    assert look(config).daemon is None
    assert "ended unexpectedly" in shown(look(config))
    lock = Lock.acquire(config.state_dir / "lock")
    try:
        daemon = look(config).daemon
        assert daemon is not None
        assert daemon["pid"] == os.getpid()
    finally:
        lock.release()
    Lock.acquire(config.state_dir / "lock").release()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1', "\xff"])
def test_a_status_json_that_can_not_be_read_counts_as_none(config: Config, content: str) -> None:
    """It may be half-written by another version, or by somebody else."""
    (config.state_dir / "status.json").write_text(content, encoding="latin-1")
    assert not look(config).status.is_written


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (59, "59 s"), (120, "2 min"), (7200, "2 h"), (3 * 86400, "3 d")]
)
def test_ages_are_told_in_one_unit(seconds: float, words: str) -> None:
    """A clock that runs ahead is no negative age."""
    assert display.age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == words
    assert display.age("soon", NOW) == "?"


# --- results and following ----------------------------------------------------------------------------------------


def test_results_of_a_name_are_found_under_all_its_names(config: Config) -> None:
    """With numbers, marks and numbered parents; no other job's; oldest first; what is no result is passed over."""
    publish(config, "radio/hello~2", "2")
    publish(config, "radio/hello", "1")
    publish(config, "radio~2/hello.failed~3", "3", "failed")
    publish(config, "radio/hello-2", "9")
    publish(config, "hello", "9")
    (config.outbox / "radio" / "hello~7").mkdir()
    found = results_of(config.outbox, "radio/hello")
    assert [(result.job_id, result.folder.name) for result in found] == [
        ("1", "hello"), ("2", "hello~2"), ("3", "hello.failed~3"),
    ]  # fmt: skip


def test_the_job_file_of_a_failed_result_is_found(config: Config) -> None:
    """Its folder has a mark and a number, the file has not."""
    folder = publish(config, "hello.failed~2", "1", "failed")
    (folder / "hello.yml").write_text("text: x")
    (result,) = results_of(config.outbox, "hello")
    assert result.job_file() == folder / "hello.yml"


def follower(config: Config, *jobs: Dropped) -> Follower:
    one = Follower.start(config, [job.name for job in jobs])
    one.follow(jobs)
    return one


HELLO = Dropped("radio/hello.yaml", "radio/hello", "a" * 64)


def test_a_job_is_followed_from_the_inbox_to_its_result(config: Config) -> None:
    """Waiting with its reason, queued, running, done: by name first, then by id."""
    (config.inbox / "radio").mkdir()
    (config.inbox / "radio/hello.yaml").write_text("text: x")
    write_status(config, running=[], next=[], results=[], waiting=[{"file": "radio/hello.yaml", "reason": "r"}])
    one = follower(config, HELLO)
    stages = []
    for changes in (
        {},
        {"waiting": [], "next": [{**JOB, "place": 4}]},
        {"running": STATUS["running"], "next": []},
        {"running": [], "results": [{**JOB, "status": "done", "folder": "/out", "source_sha256": HELLO.sha256}]},
    ):
        write_status(config, **({"running": [], "next": [], "results": []} | changes))
        if changes:
            (config.inbox / "radio/hello.yaml").unlink(missing_ok=True)
        one.look(time.monotonic())
        stages.append((one.jobs[0].stage, one.jobs[0].place, one.jobs[0].chunk))
    assert stages == [("dropped", None, 0), ("queued", 4, 0), ("running", 4, 3), ("done", 4, 3)]
    assert one.jobs[0].folder == Path("/out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "running", "holds": []}, "queued at place 4"),
        ({"state": "paused", "holds": []}, "queued at place 4; paused by the file PAUSE in the inbox"),
        ({"state": "hold"}, "queued at place 4; on hold: it is full"),
        (
            {"next": [{**JOB, "place": 4, "not_before": "2026-12-01T11:00:00Z"}]},
            "queued at place 4; not before 2026-12-01T11:00:00Z",
        ),
    ],
)
def test_who_waits_is_told_why_a_queued_job_does_not_start(config: Config, changes: dict[str, Any], words: str) -> None:
    one = follower(config, HELLO)
    waiting = {"running": [], "results": [], "next": [{**JOB, "place": 4, "not_before": None}]}
    write_status(config, **(waiting | changes))
    one.look(time.monotonic())
    assert progress.in_words(one.jobs[0]) == words


@pytest.mark.parametrize("where", ["status.json", "outbox"])
def test_doubt_is_told_to_whom_waits(config: Config, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reasons, whether the result is found in status.json or by its manifest; the job is done all the same."""
    checks = Checks(verdict="doubtful", reasons=("far too long", "clipped"))
    write_status(config, running=[], next=[], results=[])
    one = follower(config, HELLO)
    folder = publish(config, "radio/hello", JOB["job_id"], sha256=HELLO.sha256)
    written = manifest(job_id=JOB["job_id"], source=source(sha256=HELLO.sha256), checks=checks)
    (folder / "manifest.json").write_bytes(written.to_json())
    if where == "status.json":
        entry = {
            **JOB,
            **checks.model_dump(mode="json"),
            "status": "done",
            "folder": str(folder),
            "source_sha256": HELLO.sha256,
        }
        write_status(config, running=[], next=[], results=[entry])
    assert progress.follow(one, as_json=False) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(folder)
    assert "radio/hello: done, doubtful: far too long; clipped" in told.err
    assert progress.follow(one, as_json=True) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (job["status"], job["verdict"], job["reasons"]) == ("done", "doubtful", ["far too long", "clipped"])


def test_an_older_job_of_the_same_name_and_content_is_not_taken_for_it(config: Config) -> None:
    """Neither from status.json nor from the outbox: its id was there before."""
    ended = {"name": "radio/hello", "status": "done", "folder": "/old", "source_sha256": HELLO.sha256}
    write_status(config, running=[], next=[], results=[{**ended, "job_id": "old"}])
    publish(config, "radio/hello", "older", sha256=HELLO.sha256)
    one = follower(config, HELLO)
    one.look(0.0)
    assert one.jobs[0].stage == "dropped"
    new = publish(config, "radio/hello~2", "new", "failed", sha256=HELLO.sha256)
    one.look(10.0)
    assert (one.jobs[0].stage, one.jobs[0].folder, one.jobs[0].message) == ("failed", new, "why")


def test_a_file_that_somebody_took_out_of_the_inbox_is_lost(config: Config) -> None:
    """Not at once: the spool may be about to write down that it took it. Without a daemon nothing is known."""
    write_status(config, running=[], next=[], results=[], counts={"queued": 0})
    one = follower(config, HELLO)
    one.look(0.0)
    one.look(LOST_AFTER_S + 1)
    assert one.jobs[0].stage == "dropped"
    lock = Lock.acquire(config.state_dir / "lock")
    try:
        one.look(2 * LOST_AFTER_S)
    finally:
        lock.release()
    assert one.ended
    assert "removed from the inbox" in one.jobs[0].message
