"""A malicious user who may write into the inbox: what they do harms only their own jobs.

The daemon is an ordinary user, or root in some tests; the others are in the group of the inbox, as
docs/OPERATIONS.md recommends. Needs root, else skipped.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from tests import hostile
from tests.exchanging import swap
from tests.mounting import command, private_mounts
from tests.openings import before_each_opening
from tests.sounds import recording
from tests.spooling import PATIENCE_S, ROOT, Spool, below, until
from tests.users import COLLEAGUE, DAEMON, STRANGER, User, private_folder, share, with_several_users

EXCHANGING = ROOT / "tests" / "exchanging.py"
SECRET = "text: Nobody but its owner may know this.\n"


@pytest.fixture(autouse=True)
def _several_users() -> None:
    with_several_users()


@pytest.fixture
def spool() -> Iterator[Spool]:
    """A spool of an ordinary user, on a share."""
    with share() as shared:
        yield shared


@pytest.fixture
def spool_of_root() -> Iterator[Spool]:
    with share(daemon=None) as shared:
        yield shared


def own_folder(spool: Spool, name: str) -> Path:
    """The stranger's folder in the inbox, from which the daemon may move files."""
    with STRANGER.acting():
        folder = spool.inbox / name
        folder.mkdir()
        folder.chmod(0o2775)
    return folder


def drop(spool: Spool, name: str, user: User = COLLEAGUE, **job: Any) -> None:
    """Drop a good job."""
    with user.acting():
        spool.drop(f"{name}.yaml", json.dumps({"text": "Good morning."} | job))


def is_published(spool: Spool, name: str) -> None:
    """Check that a colleague's job is done at the first attempt, and that only single files are or were held."""
    drop(spool, name)
    manifest = spool.manifest(name)
    assert (manifest["status"], manifest["attempts"]) == ("done", 1)
    was_never_on_hold(spool)


def was_never_on_hold(spool: Spool) -> None:
    assert [line for line in spool.lines("hold") if "what" in line] == []
    assert spool.status()["holds"] == []


def reason(spool: Spool, name: str) -> str:
    """Wait until a job has failed; its ERROR.txt and the manifest's message."""
    return (spool.result(f"{name}.failed") / "ERROR.txt").read_text()


# --- an error concerns only the file that causes it -------------------------------------------------------------------


def test_a_job_whose_folder_is_shut_after_the_claim_is_in_nobodys_way(spool: Spool) -> None:
    """Its file has a second name, so the daemon looks for the first one, which it may not access any more. Other jobs
    are published, also after a restart; opened again, the job ends in one way or another.
    """
    folder, gate = own_folder(spool, "shut"), spool.folder / "gate"
    spool.start()
    drop(spool, "first", settings={"gate": str(gate)})
    until(lambda: spool.lines("render"), "the worker has the first job")
    with STRANGER.acting():
        (folder / ".other").write_text("text: Good morning.\n")
        os.link(folder / ".other", folder / "job.yaml")
    until(lambda: not (folder / "job.yaml").exists(), "the job with two names is claimed")
    folder.chmod(0o000)
    gate.touch()
    is_published(spool, "second")
    assert spool.stop() == 0
    spool.start()
    is_published(spool, "third")
    folder.chmod(0o2775)
    ends = {"shut/job", "shut/job.failed"}
    until(lambda: ends & set(spool.results()), lambda: f"an end; {spool.log()[-2000:]}")


def test_a_job_changed_and_its_folder_shut_while_it_is_claimed_is_in_nobodys_way(spool: Spool) -> None:
    """Its writer still writes during the claim, so the file must be moved back into its folder, which the daemon may
    not enter any more. Other jobs are published, also after a restart.
    """
    folder, written = own_folder(spool, "shut"), threading.Event()
    with STRANGER.acting():
        scratch = folder / ".job.yaml"
        writer = scratch.open("w")
    writer.write("text: Written to.\n")
    writer.flush()

    def change() -> None:
        if not (folder / "job.yaml").exists() and not written.is_set():  # it is claimed
            writer.write("# and more\n")
            writer.flush()
            folder.chmod(0o000)
            written.set()

    spool.start()
    with writer, before_each_opening(scratch, change):
        with STRANGER.acting():
            scratch.rename(folder / "job.yaml")
        until(written.is_set, "it is claimed")
    is_published(spool, "during")
    assert spool.stop() == 0
    spool.start()
    is_published(spool, "after")
    folder.chmod(0o2775)
    ends = {"shut/job", "shut/job.failed", "job"}  # the last one is where a file goes whose folder is away
    until(lambda: ends & set(spool.results()), lambda: f"an end; {spool.log()[-2000:]}")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_cancel_file_whose_folder_is_exchanged_ends_no_render_and_removes_nothing_outside(
    spool: Spool, kind: str
) -> None:
    """Its folder is replaced by a file, or by a link to a private folder with a file of that name. The current render
    continues, nothing is on hold, and the private folder stays as it is.
    """
    private, gate, journal = private_folder(spool, DAEMON), spool.folder / "gate", spool.folder / "journal"
    (private / "mine.cancel").touch()
    DAEMON.owns(private / "mine.cancel")
    journal.touch(mode=0o666)
    DAEMON.owns(journal)
    folder = own_folder(spool, "swapped")
    with STRANGER.acting():
        other = spool.inbox / "other"
        other.touch() if kind == "file" else other.symlink_to(private)
    spool.start()
    drop(spool, "running", text="One. Two.", settings={"gate": str(gate), "journal": str(journal)})
    until(journal.read_text, "the worker has begun")
    with STRANGER.running(EXCHANGING, folder, other, "mine", "600") as attack:
        assert attack.wait(PATIENCE_S) == 0
    gate.touch()
    assert spool.manifest("running")["attempts"] == 1
    assert [line.split()[1:] for line in journal.read_text().splitlines()] == [["One."], ["Two."]]
    assert (private / "mine.cancel").exists()
    is_published(spool, "after")


def test_a_folder_exchanged_for_a_link_while_it_is_listed_shows_no_private_name(spool: Spool) -> None:
    """The daemon may list the private folder, the stranger may not: its names never appear in what everybody reads.
    The folder is a link after the daemon has seen it, while it opens the folder before, until it opens the one after.
    """
    private = private_folder(spool, DAEMON, diary=SECRET)
    for name in ("private.txt", ".private", "private.cancel"):
        (private / name).mkdir() if name == ".private" else (private / name).touch()
    before, folder, behind = (own_folder(spool, name) for name in ("1", "2", "3"))
    with STRANGER.acting():
        (spool.inbox / "other").symlink_to(private)
    exchanged: list[bool] = []

    def exchange(*, is_link: bool) -> None:
        if folder.is_symlink() != is_link:
            with STRANGER.acting():
                swap(folder, spool.inbox / "other")
            exchanged.append(is_link)

    with (
        before_each_opening(before, partial(exchange, is_link=True)),
        before_each_opening(behind, partial(exchange, is_link=False)),
    ):
        spool.start()
        until(lambda: exchanged, "the daemon opens the folder before the other one")
        told = [until_told(spool, "as before"), until_told(spool, "and once more")]
    assert not [text for text in told if "private" in text or "diary" in text]
    assert sorted(os.listdir(private)) == [".private", "diary.yaml", "private.cancel", "private.txt"]
    assert (private / "diary.yaml").read_text() == SECRET
    assert spool.results() == ["and once more", "as before"]


def until_told(spool: Spool, name: str) -> str:
    """Publish a job, and return the first status.json that shows it as done."""
    is_published(spool, name)

    def told() -> str:
        status = spool.status()
        return json.dumps(status) if name in {result["name"] for result in status["results"]} else ""

    return until(told, f"the status tells of {name}")


# --- everything has a limit, and jobs that exceed it fail ------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """A lowered limit, and a job that exceeds it.

    Attributes:
        value: Of the limit.
        write: Writes a job file, by default `job.yaml`, and its recordings into a folder.
    """

    value: float
    write: Callable[[Path], object]
    name: str = "job"


@cache
def voice(number: int) -> bytes:
    """A recording of 150 kB, different for each number."""
    return recording(seconds=3.1 + number / 100)


def writes(job: str | Mapping[str, Any], recordings: int = 0) -> Callable[[Path], object]:
    """A job file, and recordings `0.wav`, `1.wav`, … of different content."""

    def write(folder: Path) -> None:
        for number in range(recordings):
            (folder / f"{number}.wav").write_bytes(voice(number))
        (folder / "job.yaml").write_text(job if isinstance(job, str) else json.dumps(job))

    return write


def speaking_with(*numbers: int) -> dict[str, Any]:
    return {"text": "a", "speaker_wav": [f"{number}.wav" for number in numbers]}


SENTENCES = {"text": " ".join(f"Number {number}." for number in range(40)), "settings": {"chunk_ms": 200}}
BUDGETS = {
    "job_file_bytes": Budget(2000, writes({"text": "a" * 3000})),
    "documents": Budget(10, writes("---\n".join(["text: a\n"] * 11))),
    "text_chars": Budget(100, writes({"text": "a" * 101})),
    "recordings": Budget(3, writes(speaking_with(0, 1, 2, 3), recordings=4)),
    "recording_uses": Budget(20, writes("---\n".join([json.dumps(speaking_with(0, 1, 2)) + "\n"] * 7), recordings=3)),
    "recording_bytes": Budget(50_000, writes(speaking_with(0), recordings=1)),
    "job_bytes": Budget(400_000, writes(speaking_with(0, 1, 2), recordings=3)),
    "speaker_text_chars": Budget(100, writes(speaking_with(0) | {"speaker_text": "a" * 101}, recordings=1)),
    "audio_s": Budget(30.0, partial(hostile.long_pauses, items=500, minutes=0), "long_pauses"),
    "audio_s of marks": Budget(30.0, writes({"text": "a [pause 20s] b [pause 20s] c"})),
    "render_s": Budget(1.0, writes(SENTENCES)),
    "read_s": Budget(0.2, hostile.unknown_keys, "unknown_keys"),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_a_job_over_a_limit_fails_by_the_name_of_the_limit_and_keeps_nobody(case: str) -> None:
    """A colleague's jobs are published before and after; the stranger's fails, and its ERROR.txt names the limit."""
    limit, budget = case.partition(" ")[0], BUDGETS[case]
    with share(limits={limit: budget.value}) as spool:
        folder = spool.inbox / "over"
        list(map(voice, range(4)))  # made before, since this takes more than files
        with STRANGER.acting():
            staged = spool.inbox / ".staged"
            staged.mkdir()
            staged.chmod(0o2775)
            budget.write(staged)
        spool.start()
        is_published(spool, "before")
        with STRANGER.acting():
            staged.rename(folder)
        is_published(spool, "meanwhile")
        assert f"limits.{limit}" in reason(spool, f"over/{budget.name}")
        is_published(spool, "after")
        assert spool.stop() == 0


def test_sparse_recordings_on_a_small_disk_hold_nobody() -> None:
    """Five times the space on the disk, nearly all of it sparse: the job fails, since the files are no audio, or
    waits for space.
    """
    with private_mounts(), share(disk="size=64m,mode=755") as spool:
        folder = own_folder(spool, "sparse")
        spool.start()
        with STRANGER.acting():
            hostile.sparse_recordings(folder, count=20, size=16 * hostile.MIB)
        for number in range(5):
            is_published(spool, f"plain-{number}")
        failed = spool.outbox / "sparse/sparse_recordings.failed"
        until(lambda: failed.is_dir() or "limits.free_bytes" in json.dumps(spool.status()), "the job fails or waits")
        is_published(spool, "after")
        assert spool.stop() == 0


def test_recordings_that_would_fill_the_disk_wait_for_room_and_hold_nobody() -> None:
    """Their copies would leave less than `limits.free_bytes`, or a twentieth of the disk: the status shows that the job
    waits for that, other jobs are published, and with more space the job is done.
    """
    with private_mounts(), share(disk="size=32m,mode=755") as spool:
        folder, voice = own_folder(spool, "large"), recording(seconds=400.0)
        with STRANGER.acting():
            (folder / "voice.wav").write_bytes(voice)
        spool.start()
        drop(spool, "large/job", STRANGER, speaker_wav="voice.wav", engine="faulty")
        until(lambda: "limits.free_bytes" in json.dumps(spool.status()), lambda: f"{spool.status()}\n{spool.log()}")
        is_published(spool, "plain")
        assert "large/job" not in spool.results()
        command("mount", "-o", "remount,size=128m", spool.folder)
        assert spool.manifest("large/job")["status"] == "done"
        was_never_on_hold(spool)
        assert spool.stop() == 0


def test_what_is_kept_of_a_file_that_is_too_large_is_a_few_kib(spool: Spool) -> None:
    """Sparse files of 10 GiB: each fails because of its size, and its result takes very little space."""
    folder = own_folder(spool, "large")
    with STRANGER.acting():
        hostile.huge_sparse_files(folder, count=3)
        hostile.a_gigabyte(folder)
    spool.start()
    for name in ("huge-0", "huge-1", "huge-2", "gigabyte"):
        assert "limits.job_file_bytes" in reason(spool, f"large/{name}")
        assert all(path.stat().st_size <= 64 << 10 for path in below(spool.outbox / f"large/{name}.failed"))
    is_published(spool, "after")


def test_a_recording_louder_than_any_sound_fails_at_once(spool: Spool) -> None:
    """A peak of 3e38 in floating point: it fails at the first attempt, without a retry."""
    folder = own_folder(spool, "loud")
    with STRANGER.acting():
        hostile.loudest_recording(folder)
    spool.start()
    manifest = spool.manifest("loud/loudest_recording.failed")
    assert "loudest.wav" in manifest["error"]["message"]
    assert manifest["attempts"] <= 1
    is_published(spool, "after")


@pytest.mark.long
def test_everything_at_once_is_in_nobodys_way(spool: Spool) -> None:
    """The whole hostile set: its bad files fail, its good jobs are done, and a colleague's jobs are
    published meanwhile. `make bench-hostile` measures for how long they wait.
    """
    staged, models = spool.folder / "staged", spool.folder / "models"
    for path in (staged, models):
        path.mkdir()
        STRANGER.owns(path)
        path.chmod(0o2775)
    with STRANGER.acting():
        hostile.write(staged, models)
    spool.start()
    with STRANGER.acting():
        for member in sorted(staged.iterdir()):
            member.rename(spool.inbox / member.name)
    for number in range(10):
        is_published(spool, f"plain-{number}")
    wrong = {f"{name}.failed" for name in EVERY_WRONG_JOB}
    good = {f"plain_documents/plain_documents-{number + 1}" for number in range(hostile.PLAIN_DOCUMENTS)}
    until(lambda: good | wrong <= set(spool.results()), lambda: f"{(good | wrong) - set(spool.results())}", 600.0)
    was_never_on_hold(spool)
    assert spool.stop() == 0


EVERY_WRONG_JOB = (
    "unknown_keys/unknown_keys-1", "unknown_keys/unknown_keys-1000", "unknown_speakers/unknown_speakers",
    "unknown_keys_that_wait/unknown_keys_that_wait-1", "unknown_keys_that_wait/unknown_keys_that_wait-991",
    "unknown_speakers_that_wait/waits", "alias_bombs/in-sequence", "alias_bombs/in-metadata", "alias_bombs/of-itself",
    "deep_nesting/block", "deep_nesting/flow", "deep_nesting/mappings", "deep_nesting/deep",
    "sparse_recordings/sparse_recordings", "recordings_times_documents/recordings_times_documents",
    *(f"huge_sparse_files/huge-{number}" for number in range(20)), "a_gigabyte/gigabyte", "long_pauses/long_pauses",
    "long_speaker_text/long_speaker_text", "loudest_recording/loudest_recording",
    "list_that_holds_itself/list_that_holds_itself", "large_vocabulary/large_vocabulary",
)  # fmt: skip


# --- a stranger's inode is never shared -------------------------------------------------------------------------------


@pytest.mark.parametrize("of_root", [False, True], ids=["of the daemon's user", "of a third user, the daemon is root"])
def test_a_hard_link_to_a_private_file_is_refused_and_the_file_stays_as_it_is(of_root: bool) -> None:
    """As a job, as a job cancelled before it is read, and as a recording. Root makes the links, as on a server
    without `protected_hardlinks`, where every user can. Nothing of the content is published, shown or kept, and
    neither mode nor owner of the file changes.
    """
    owner = COLLEAGUE if of_root else DAEMON
    with share(daemon=None if of_root else DAEMON) as spool:
        private = private_folder(spool, owner, job=SECRET, cancelled=SECRET, voice=SECRET)
        before = {path.name: as_it_is(path) for path in private.iterdir()}
        folder = own_folder(spool, "linked")
        for name in ("job.yaml", "cancelled.yaml"):
            os.link(private / name, folder / name)
        os.link(private / "voice.yaml", folder / "voice.wav")
        with STRANGER.acting():
            (folder / "cancelled.cancel").touch()
        spool.start()
        drop(spool, "linked/speaks", STRANGER, speaker_wav="voice.wav")
        assert "link" in reason(spool, "linked/job")
        assert "link" in reason(spool, "linked/speaks")
        until(lambda: any(name.startswith("linked/cancelled.") for name in spool.results()), "the third one ends")
        is_published(spool, "after")
        assert spool.stop() == 0
        assert {path.name: as_it_is(path) for path in private.iterdir()} == before
        everything = [path for path in (*below(spool.outbox), *below(spool.state)) if path.is_file()]
        assert not [path for path in (*everything, spool.folder / "log") if b"Nobody but" in path.read_bytes()]


def as_it_is(path: Path) -> tuple[int, int, int, bytes]:
    """Mode, owner, group and content of a file."""
    status = path.stat()
    return status.st_mode, status.st_uid, status.st_gid, path.read_bytes()


def test_what_a_daemon_of_root_publishes_is_its_own(spool_of_root: Spool) -> None:
    """For jobs that were read, cancelled unread, or too large: no published file is the stranger's own file,
    which they could still change.
    """
    spool = spool_of_root
    folder = own_folder(spool, "own")
    with STRANGER.acting():
        for name in ("read", "cancelled"):
            (folder / f"{name}.yaml").write_text("text: Good morning.\n")
        (folder / "cancelled.cancel").touch()
        hostile.a_gigabyte(folder)
    with ExitStack() as kept:  # while somebody has a file open, no other one gets its number
        theirs = {os.fstat(kept.enter_context(path.open("rb")).fileno()).st_ino for path in folder.iterdir()}
        spool.start()
        for name in ("own/read", "own/cancelled.cancelled", "own/gigabyte.failed"):
            for path in (spool.result(name), *spool.result(name).iterdir()):
                assert path.stat().st_ino not in theirs, path
                assert path.stat().st_uid == 0, path
        assert spool.stop() == 0


def test_nothing_is_published_through_a_link_in_the_outbox(spool: Spool) -> None:
    """Consumers who may remove results may also create links in the outbox. Nothing is written through them; the
    results are published under other names.
    """
    elsewhere = spool.folder / "elsewhere"
    elsewhere.mkdir()
    DAEMON.owns(elsewhere, spool.outbox)
    spool.outbox.chmod(0o2775)
    with STRANGER.acting():
        (spool.outbox / "deep").mkdir()
        (spool.outbox / "deep").chmod(0o2775)
        for name in ("radio", "hello", "deep/er"):
            (spool.outbox / name).symlink_to(elsewhere)
        (spool.outbox / "dangling").symlink_to(elsewhere / "nowhere")
    spool.start()
    for name in ("radio", "deep", "deep/er", "dangling"):
        own_folder(spool, name)
    jobs = ("hello", "radio/hello", "deep/er/hello", "dangling/hello")
    for name in jobs:
        drop(spool, name, STRANGER if "/" in name else COLLEAGUE)
    until(lambda: len(spool.results()) == len(jobs), lambda: f"{spool.results()}\n{spool.log()}")
    assert list(elsewhere.iterdir()) == []
    was_never_on_hold(spool)
    assert spool.stop() == 0
