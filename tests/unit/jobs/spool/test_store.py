"""Claims on disk: what is taken, put back, split, and read back after a crash at any step."""

from __future__ import annotations

import errno
import json
import os
from itertools import count
from pathlib import Path

import pytest

from files import durable
from files.durable import alone
from jobs.errors import ConfigError, Hold, InboxGone
from jobs.spool.claim import Claim
from jobs.spool.store import Changed, Store
from tests.in_process import Desk, killed_at, through

LIMIT = 1000


@pytest.fixture
def store(at: Desk) -> Store:
    return at.opened.store


def claim(store: Store, source: str, content: bytes = b"text: hello\n") -> Claim:
    path = store.inbox / source
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return alone(store.claim(source, os.stat(path), LIMIT))[0]


def put(path: Path, kind: str) -> None:
    """Make something of a kind."""
    if kind == "file":
        path.write_bytes(b"text: hello\n")
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    if kind == "folder with files":
        (path / "b").touch()


def inside(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, calls: int = 1) -> None:
    """Let a system call fail from its n-th time on, for what is done in this test only."""
    module = durable if name == "rename_exclusively" else os
    real, seen = getattr(module, name), iter(range(1, 10_000))

    def call(*arguments: object, **keywords: object) -> object:
        if next(seen) >= calls:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, name, call)


# --- claim -----------------------------------------------------------------------------------------


def test_a_claim_is_the_spools_own_bytes_in_a_private_folder(store: Store) -> None:
    path = store.inbox / "radio" / "Hello.YAML"
    path.parent.mkdir()
    path.write_bytes(b"text: hello\n")
    made, data = alone(store.claim("radio/Hello.YAML", os.stat(path), LIMIT))
    assert data == made.job_file.read_bytes() == b"text: hello\n"
    assert (made.name, made.suffix, made.document) == ("radio/Hello", ".YAML", 0)
    assert not path.exists()
    assert (store.state / "claimed").stat().st_mode & 0o777 == 0o700
    assert made.folder.path.stat().st_mode & 0o777 == 0o700
    assert store.recover(made.job_id, LIMIT) == made


def test_a_writer_that_kept_the_file_open_changes_nothing(store: Store) -> None:
    """Where a lease does not tell of it (it was opened for reading and writing, and closed, after the claim)."""
    made = claim(store, "a.yaml")
    made.folder.original.write_bytes(b"text: something else\n")
    found = store.recover(made.job_id, LIMIT)
    assert found is not None
    assert found.job_file.read_bytes() == b"text: hello\n"


def test_a_file_that_is_open_for_writing_goes_back(store: Store) -> None:
    path = store.inbox / "a.yaml"
    path.write_bytes(b"text: hel")
    with path.open("ab") as writer:
        with pytest.raises(Changed):
            alone(store.claim("a.yaml", os.stat(path), LIMIT))
        writer.write(b"lo\n")
    assert path.read_bytes() == b"text: hello\n"
    assert inside(store.state / "claimed") == []


@pytest.mark.parametrize("kind", ["content", "file", "link", "pipe", "folder", "folder with files"])
def test_what_changed_between_look_and_claim_goes_back_as_it_is(store: Store, tmp_path: Path, kind: str) -> None:
    path = store.inbox / "a.yaml"
    path.write_bytes(b"text: hello\n")
    looked_at = os.stat(path)
    if kind == "content":
        path.write_bytes(b"text: goodbye\n")
    else:
        path.rename(tmp_path / "away")  # so that its inode is not used again
        put(path, kind)
    before = os.lstat(path)
    with pytest.raises(Changed):
        alone(store.claim("a.yaml", looked_at, LIMIT))
    assert os.lstat(path).st_ino == before.st_ino
    assert inside(store.state / "claimed") == []


def test_a_change_during_the_copy_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By somebody whom no lease betrays: the file is the same, its content and times are not."""
    path, real = store.inbox / "a.yaml", os.pread
    path.write_bytes(b"text: hello\n")
    looked_at = os.stat(path)

    def meanwhile(fd: int, size: int, offset: int) -> bytes:
        data = real(fd, size, offset)
        os.utime(f"/proc/self/fd/{fd}")
        return data

    monkeypatch.setattr(os, "pread", meanwhile)
    with pytest.raises(Changed):
        alone(store.claim("a.yaml", looked_at, LIMIT))
    assert path.read_bytes() == b"text: hello\n"
    assert inside(store.state / "claimed") == []


def test_a_file_that_is_gone_leaves_nothing_behind(store: Store) -> None:
    path = store.inbox / "a.yaml"
    path.touch()
    looked_at = os.stat(path)
    path.unlink()
    for source in ("a.yaml", "no/folder/a.yaml"):
        with pytest.raises(FileNotFoundError):
            alone(store.claim(source, looked_at, LIMIT))
        with pytest.raises(FileNotFoundError):
            store.set_aside(source, "why")
    assert inside(store.state / "claimed") == []


def test_a_folder_swapped_for_a_link_gives_nothing_away(store: Store, tmp_path: Path) -> None:
    """Not even to a claim that is to fail."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.yaml").write_bytes(b"secret: 1\n")
    (store.inbox / "x").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        alone(store.claim("x/a.yaml", os.stat(outside / "a.yaml"), LIMIT))
    with pytest.raises(NotADirectoryError):
        store.set_aside("x/a.yaml", "why")
    assert inside(outside) == ["a.yaml"]


def test_a_rename_that_reports_an_error_although_it_worked_is_a_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated request over NFS can answer that the file is not there."""
    real = os.rename

    def twice(source: str, target: Path, **keywords: int) -> None:
        real(source, target, **keywords)
        if str(target).endswith("/original"):
            real(source, target, **keywords)

    monkeypatch.setattr(os, "rename", twice)
    assert claim(store, "a.yaml").sha256


def test_a_file_too_large_is_taken_and_never_read(store: Store) -> None:
    path = store.inbox / "a.yaml"
    path.touch()
    os.truncate(path, 1 << 40)
    made, data = alone(store.claim("a.yaml", os.stat(path), LIMIT))
    assert data == b""
    assert "larger than limits.job_file_bytes (1000 bytes)" in made.set_aside
    assert made.never_read
    assert made.job_file == made.folder.original
    assert store.recover(made.job_id, LIMIT) == made


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_set_aside(store: Store, kind: str) -> None:
    """Publishing it would follow the link or wait for the pipe."""
    path = store.inbox / "a.yaml"
    put(path, kind)
    with pytest.raises(FileNotFoundError):
        store.set_aside("a.yaml", "too large")
    assert os.path.lexists(path)
    assert inside(store.state / "claimed") == []


def test_two_claims_in_one_moment_have_two_ids(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_790_000_000_000_000_000)
    ids = [claim(store, f"{name}.yaml").job_id for name in "abc"]
    assert ids == sorted(set(ids))


def test_names_that_are_not_utf8_or_hold_line_breaks_come_back(store: Store) -> None:
    source = os.fsdecode(b"caf\xe9\n/\xff.yaml")
    made = claim(store, source)
    found = store.recover(made.job_id, LIMIT)
    assert found is not None
    assert os.fsencode(found.source) == b"caf\xe9\n/\xff.yaml"


# --- put back --------------------------------------------------------------------------------------


def changing(store: Store, source: str) -> os.stat_result:
    """A file that will turn out to be another one when it is claimed."""
    path = store.inbox / source
    path.write_bytes(b"text: hello\n")
    looked_at = os.stat(path)
    path.write_bytes(b"text: hello again\n")
    return looked_at


def when_claimed(monkeypatch: pytest.MonkeyPatch, then: object) -> None:
    """Do something right after the rename that claims."""
    real = os.rename

    def call(source: object, target: object, **keywords: int) -> None:
        real(source, target, **keywords)  # type: ignore[arg-type]
        if str(target).endswith("/original"):
            monkeypatch.setattr(os, "rename", real)
            then()  # type: ignore[operator]

    monkeypatch.setattr(os, "rename", call)


@pytest.mark.parametrize("name", ["a.yaml", "x" * 250 + ".yaml"])
def test_a_name_that_is_taken_meanwhile_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    looked_at = changing(store, name)
    when_claimed(monkeypatch, lambda: (store.inbox / name).write_bytes(b"text: new\n"))
    with pytest.raises(Changed):
        alone(store.claim(name, looked_at, LIMIT))
    assert (store.inbox / name).read_bytes() == b"text: new\n"
    (other,) = set(inside(store.inbox)) - {name, ".voicespool"}
    assert (store.inbox / other).read_bytes() == b"text: hello again\n"
    assert other.endswith(" (2).yaml")


def test_a_file_whose_folder_is_gone_returns_to_the_inbox(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.inbox / "radio").mkdir()
    looked_at = changing(store, "radio/a.yaml")
    when_claimed(monkeypatch, (store.inbox / "radio").rmdir)
    with pytest.raises(Changed):
        alone(store.claim("radio/a.yaml", looked_at, LIMIT))
    assert (store.inbox / "a.yaml").read_bytes() == b"text: hello again\n"
    assert inside(store.state / "claimed") == []


@pytest.mark.parametrize("step", range(1, 6))
def test_a_full_disk_at_any_step_of_a_claim_leaves_the_file_in_the_inbox(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Also at the last one, when all that is missing is the word that the copy is whole."""
    path = store.inbox / "a.yaml"
    path.write_bytes(b"text: hello\n")
    with monkeypatch.context() as patch:
        refusing(patch, "fsync", errno.ENOSPC, calls=step)
        if step == 5:
            alone(store.claim("a.yaml", os.stat(path), LIMIT))
            return
        with pytest.raises(OSError, match="No space"):
            alone(store.claim("a.yaml", os.stat(path), LIMIT))
    assert path.read_bytes() == b"text: hello\n"
    assert inside(store.state / "claimed") == []


def test_nobody_can_take_all_names_that_a_file_is_put_back_by(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders do for that; a file that finds no name would hold all others up."""
    looked_at = changing(store, "a.yaml")
    for number in range(2, 1001):
        (store.inbox / f"a ({number}).yaml").mkdir()
    when_claimed(monkeypatch, (store.inbox / "a.yaml").mkdir)
    with pytest.raises(Changed):
        alone(store.claim("a.yaml", looked_at, LIMIT))
    (back,) = (path for path in store.inbox.iterdir() if path.is_file())
    assert back.read_bytes() == b"text: hello again\n"


def test_a_put_back_that_is_refused_is_a_hold_and_recovery_finds_the_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = changing(store, "a.yaml")
    with monkeypatch.context() as patch:
        refusing(patch, "rename_exclusively", errno.EROFS)
        with pytest.raises(Hold, match="can't be put back"):
            alone(store.claim("a.yaml", looked_at, LIMIT))
    (job_id,) = store.claimed_ids()
    found = store.recover(job_id, LIMIT)
    assert found is not None
    assert found.job_file.read_bytes() == b"text: hello again\n"


@pytest.mark.parametrize("taken", [False, True])
def test_a_put_back_that_a_crash_cuts_in_two_is_one_file(
    store: Store, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Both names are there: only the one in the inbox counts."""
    looked_at = changing(store, "a.yaml")
    with monkeypatch.context() as patch:
        if taken:
            when_claimed(patch, lambda: (store.inbox / "a.yaml").write_bytes(b"text: new\n"))
        real = os.unlink

        def killed(path: object, **keywords: int) -> None:
            if str(path).endswith("/original"):
                raise KeyboardInterrupt
            real(path, **keywords)  # type: ignore[arg-type]

        patch.setattr(os, "unlink", killed)
        refusing(patch, "rename_exclusively", errno.ENOSYS)  # as where the kernel or the file system does not have it
        with pytest.raises(KeyboardInterrupt):
            alone(store.claim("a.yaml", looked_at, LIMIT))
    (job_id,) = store.claimed_ids()
    assert store.recover(job_id, LIMIT) is None
    assert inside(store.state / "claimed") == []
    contents = [(store.inbox / name).read_bytes() for name in inside(store.inbox) if name != ".voicespool"]
    assert sorted(contents) == [b"text: hello again\n", b"text: new\n"][: 1 + taken]


# --- split -----------------------------------------------------------------------------------------

THREE = [b"text: one\n", b"text: two\n", b"text: three\n"]


def test_documents_become_jobs_of_their_own(store: Store) -> None:
    parent = claim(store, "radio/a.yaml")
    children = through(store.split(parent, THREE))
    assert [child.name for child in children] == ["radio/a-1", "radio/a-2", "radio/a-3"]
    assert [child.job_file.read_bytes() for child in children] == THREE
    assert [store.recover(job_id, LIMIT) for job_id in store.claimed_ids()] == children
    assert inside(store.state / "trash") == []


def test_a_split_is_all_or_nothing_at_every_step(tmp_path: Path) -> None:
    """Killed at each call that changes the disk, and read back: the file as it was, or all of its documents."""
    for number in count(1):
        at = Desk(tmp_path / str(number))
        at.drop("a.yaml", b"\n---\n".join(THREE))
        store = at.opened.store
        with killed_at(number) as calls:
            through(store.split(alone(store.claim("a.yaml", os.stat(at.inbox / "a.yaml"), LIMIT))[0], THREE))
        at.close()
        store = at.opened.store
        found = [claim for job_id in store.claimed_ids() if (claim := store.recover(job_id, LIMIT))]
        at.close()
        documents = [claim.document for claim in found]
        assert (at.inbox / "a.yaml").exists() == (documents == [])
        assert documents in ([], [0], [1, 2, 3])
        assert sorted(claim.job_id for claim in found) == at.claimed()
        if len(calls) < number:
            assert documents == [1, 2, 3]
            break


# --- recover ---------------------------------------------------------------------------------------


def test_a_claim_without_its_file_never_was(store: Store) -> None:
    (store.state / "claimed" / "20260101T000000.000000000").mkdir()
    assert store.recover("20260101T000000.000000000", LIMIT) is None
    assert inside(store.state / "claimed") == []


@pytest.mark.parametrize("left", [b"", b'{"source": "a.y'])
def test_a_claim_that_forgot_its_name_is_still_a_job(store: Store, left: bytes) -> None:
    made = claim(store, "a.yaml")
    made.record.path.write_bytes(left)
    found = store.recover(made.job_id, LIMIT)
    assert found is not None
    assert found.name == f"recovered-{made.job_id}"
    assert found.job_file.read_bytes() == b"text: hello\n"


def test_a_document_that_forgot_its_name_is_still_a_job(store: Store) -> None:
    """It has no original: that was its file's, which is split."""
    *_, last = through(store.split(claim(store, "a.yaml"), THREE))
    last.record.path.write_bytes(b"")
    found = store.recover(last.job_id, LIMIT)
    assert found is not None
    assert (found.name, found.document) == (f"recovered-{last.job_id}-3", 3)
    assert found.job_file.read_bytes() == THREE[-1]


def unsealed(store: Store, name: str = "a.yaml") -> Claim:
    """What a kill between the claim's rename and its seal leaves."""
    made = claim(store, name)
    made.record.path.write_text(json.dumps(made.record.merged() | {"sha256": ""}))
    made.job_file.write_bytes(b"half of it")
    return made


def test_an_unsealed_claim_is_sealed_anew(store: Store) -> None:
    made = unsealed(store)
    assert store.recover(made.job_id, LIMIT) == made
    assert made.job_file.read_bytes() == b"text: hello\n"


def test_an_unsealed_claim_that_somebody_writes_goes_back(store: Store) -> None:
    made = unsealed(store)
    with made.folder.original.open("ab"):
        assert store.recover(made.job_id, LIMIT) is None
    assert (store.inbox / "a.yaml").read_bytes() == b"text: hello\n"


def test_an_unsealed_claim_of_no_file_goes_back(store: Store) -> None:
    made = unsealed(store)
    made.folder.original.unlink()
    os.mkfifo(made.folder.original)
    assert store.recover(made.job_id, LIMIT) is None
    assert (store.inbox / "a.yaml").is_fifo()


def test_an_unsealed_claim_too_large_is_set_aside(store: Store) -> None:
    made = unsealed(store)
    os.truncate(made.folder.original, 1 << 40)
    found = store.recover(made.job_id, LIMIT)
    assert found is not None
    assert "larger" in found.set_aside


def test_a_file_with_another_name_is_judged_anew_in_the_inbox_after_a_crash(store: Store) -> None:
    """It may be somebody else's by now, and only its folder tells."""
    made = unsealed(store)
    os.link(made.folder.original, store.inbox / "elsewhere.txt")
    assert store.recover(made.job_id, LIMIT) is None
    assert (store.inbox / made.source).samefile(store.inbox / "elsewhere.txt")


def test_recovery_is_oldest_first(store: Store) -> None:
    made = [claim(store, f"{name}.yaml").job_id for name in "cab"]
    assert store.claimed_ids() == made


# --- what kills the daemon -------------------------------------------------------------------------


def test_deaths_while_reading_are_counted_in_a_row(at: Desk) -> None:
    def die_while_reading(source: str) -> None:
        store = at.opened.store
        with killed_at(2), store.reading(source):
            (at.folder / "never").mkdir()
        at.close()

    for deaths in (1, 2):
        die_while_reading("evil.yaml")
        assert at.opened.store.deaths("evil.yaml") == deaths
    assert at.opened.store.deaths("other.yaml") == 0
    with at.opened.store.reading("evil.yaml"):
        pass
    at.close()
    assert at.opened.store.deaths("evil.yaml") == 0, "a daemon that lived through it begins anew"
    at.close()
    die_while_reading("evil.yaml")
    die_while_reading("other.yaml")
    assert at.opened.store.deaths("other.yaml") == 1, "only deaths in a row count"
    assert at.opened.store.deaths("evil.yaml") == 0


def test_a_file_put_aside_for_its_deaths_may_come_again_mended(store: Store) -> None:
    store._deaths["a.yaml"] = 10
    (store.inbox / "a.yaml").write_bytes(b"text: hello\n")
    store.set_aside("a.yaml", "it kills")
    assert store.deaths("a.yaml") == 0


# --- attempts --------------------------------------------------------------------------------------


def test_the_record_has_what_became_of_a_job(store: Store) -> None:
    made = claim(store, "a.yaml")
    assert not made.record.failed_attempts()
    assert not made.record.is_attempt_open
    made.record.add(started_at="t1")
    made.record.add(outcome={"code": "x"})
    assert not made.folder.record().is_attempt_open
    made.record.add(started_at="t2", durable=False)
    made.record.add(cancelled=True)
    for record in (made.record, made.folder.record()):
        assert record.failed_attempts() == [{"code": "x"}]
        assert (record.is_attempt_open, record.is_cancelled, record.is_alone, record.intent) == (True, True, False, {})
    again = Claim.read(made.folder)
    assert again == made


def test_a_change_that_a_power_failure_cut_did_not_happen(store: Store) -> None:
    made = claim(store, "a.yaml")
    with made.record.path.open("ab") as file:
        file.write(b'\n{"outcome": {"co')
    made.folder.record().add(alone=True)
    record = made.folder.record()
    assert (record.failed_attempts(), record.is_alone) == ([], True)
    assert Claim.read(made.folder) == made


def test_claims_of_an_earlier_version_are_read(at: Desk) -> None:
    """They had a file for each thing that became of a job."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    folder = at.opened.store.folder_of(ticket.job_id)
    (folder.path / "attempts").write_text(
        '{"started_at":"t1"}\n{"outcome":{"code":"x","message":"m","hint":"h","retryable":true}}\n{"started_at":"t2"}\n{"fallback":{"wanted":"a","reason":"b"}}\n{"out'
    )
    (folder.path / "alone").touch()
    (folder.path / "intent.json").write_text('{"status":"done","outbox":"another"}')
    at.close()
    for _ in range(2):  # a crash may come before the format is written
        (at.state / "format").write_text("1\n")
        at.open()
        record = folder.record()
        assert [outcome["code"] for outcome in record.failed_attempts()] == ["x"]
        assert (record.is_attempt_open, record.is_alone, record.is_cancelled) == (True, True, False)
        assert (record.last("fallback")["reason"], record.intent["status"]) == ("b", "done")
        assert sorted(path.name for path in folder.path.iterdir()) == ["claim.json", "job.yaml", "original"]
        at.close()
    assert (at.state / "format").read_text() == "2\n"
    (ticket,) = at.resume()
    outcome = at.process(ticket)
    assert outcome is not None
    assert outcome.status == "done"


# --- the state folder ------------------------------------------------------------------------------


def test_the_state_of_a_newer_version_is_left_alone(at: Desk) -> None:
    at.open()
    at.close()
    (at.state / "format").write_text("3\n")
    with pytest.raises(ConfigError, match="format '3'"):
        at.open()


def test_an_inbox_that_goes_away_or_is_another_one_is_noticed(store: Store, tmp_path: Path) -> None:
    store.check()
    store.inbox.rename(tmp_path / "away")
    with pytest.raises(InboxGone):
        store.check()
    store.inbox.mkdir()
    with pytest.raises(InboxGone):
        store.check()
    store.folder.real.mkdir()
    for content in ("another\n", f"{store.inbox_id}\n"):  # its id can be copied, the folder itself can't
        (store.folder.real / "id").write_text(content)
        with pytest.raises(InboxGone):
            store.check()
    (store.folder.real / "id").unlink()
    store.folder.real.rmdir()
    store.inbox.rmdir()
    (tmp_path / "away").rename(store.inbox)
    store.check()


def test_what_is_left_of_released_jobs_goes_at_the_next_start(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = claim(at.opened.store, "a.yaml")
    with monkeypatch.context() as patch:
        refusing(patch, "unlink", errno.EIO)
        at.opened.store.release(made)
    assert inside(at.state / "trash") == [made.job_id]
    assert at.opened.store.claimed_ids() == []
    at.close()
    at.open()
    assert inside(at.state / "trash") == []


def test_the_folder_of_a_released_claim_is_used_again_with_nothing_of_the_old_job_in_it(at: Desk) -> None:
    store = at.opened.store
    first = claim(store, "a.yaml", b"text: The first one, which is longer.\n")
    (first.folder.attempt(1)).mkdir()
    (first.folder.attempt(1) / "a.wav").write_bytes(b"sound")
    first.folder.chunks.mkdir()
    first.record.add(outcome={"code": "x"}, alone=True)
    inode = first.folder.path.stat().st_ino
    store.release(first)
    again = claim(store, "b.yaml")
    assert again.folder.path.stat().st_ino == inode
    assert inside(again.folder.path) == ["attempt-1", "claim.json", "job.yaml", "original"]
    assert inside(again.folder.attempt(1)) == []
    assert again.job_file.read_bytes() == b"text: hello\n"
    assert (again.record.failed_attempts(), again.record.is_alone) == ([], False)
    assert store.recover(again.job_id, LIMIT) == again
    other = claim(store, "c.json", b'{"text": "hello"}')
    assert inside(other.folder.path) == ["claim.json", "job.json", "original"]


def test_a_released_folder_whose_moves_were_lost_is_no_job(at: Desk) -> None:
    """After a power failure on Btrfs: a claim again, with the file of the old job and the description of the next."""
    store = at.opened.store
    old = claim(store, "a.yaml")
    later = Claim(old.folder, old.record, "b.yaml", old.claimed_ns + 5_000_000)
    os.close(later.write())
    assert store.recover(old.job_id, LIMIT) is None
    assert not old.folder.path.exists()


def test_a_damaged_description_is_written_again(store: Store) -> None:
    made = claim(store, "a.yaml")
    made.record.path.write_bytes(b"{")
    found = store.recover(made.job_id, LIMIT)
    assert found is not None
    found.changed(set_aside="it kills")
    again = Claim.read(made.folder)
    assert again is not None
    assert (again.name, again.set_aside) == (found.name, "it kills")


@pytest.mark.parametrize("damage", [b"", bytes(300), b'{"source": 1, "claimed_ns": 2}', b"[" * 200_000])
def test_a_recovered_job_survives_every_later_start(at: Desk, damage: bytes) -> None:
    """Its description is gone, so it has the time of its folder."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.opened.store.folder_of(ticket.job_id).record().path.write_bytes(damage)
    for _ in range(3):
        at.close()
        (ticket,) = at.resume()
        assert ticket.name.startswith("recovered-")
    outcome = at.process(ticket)
    assert outcome is not None
    assert outcome.status == "done"


def test_a_look_whether_the_folders_take_anything_leaves_nothing(store: Store) -> None:
    before = inside(store.state)
    assert store.refuses() is None
    assert inside(store.state) == before
