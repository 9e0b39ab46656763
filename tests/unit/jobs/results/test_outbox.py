"""Results appear whole, under names that collide on no system, with the permissions asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from files.open_folder import OpenFolder
from jobs.errors import OutboxGone
from jobs.results.assembly import Assembly
from jobs.results.open_outbox import PublishPolicy
from jobs.results.outbox import Outbox
from tests.mounting import command, mount_again, mount_tmpfs, private_mounts

INBOX = "inbox-id"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def opened(folder: Path, policy: PublishPolicy | None = None, inbox_id: str = INBOX) -> Outbox:
    memory = folder.parent / f"{inbox_id}.json"
    return Outbox.open(folder, memory, inbox_id, lambda: policy or PublishPolicy())


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return opened(tmp_path / "outbox")


def publish(outbox: Outbox, name: str, status: str = "done", content: str = "{}") -> str:
    """Publish a result and say under which path."""
    assemble(outbox, name, lambda result: result.write("manifest.json", content.encode()))
    return str(place(outbox, name, status).relative_to(outbox.folder))


def assemble(outbox: Outbox, name: str, fill: Callable[[Assembly], None]) -> None:
    with outbox.opened() as at:
        at.assemble("job", name, fill)
        at.sync("job")
        at.sync_staging()


def place(outbox: Outbox, name: str, status: str = "done") -> Path:
    with outbox.opened() as at:
        placed = at.place("job", name, status)
        at.sync_places()
    return placed


def is_assembled(outbox: Outbox) -> bool:
    with outbox.opened() as at:
        return at.is_assembled("job")


def visible(outbox: Outbox) -> list[str]:
    return sorted(name for name in os.listdir(outbox.folder) if name != ".voicespool")


# --- whose outbox it is ----------------------------------------------------------------------------


def test_a_new_outbox_gets_an_id_and_is_known_again(tmp_path: Path) -> None:
    first = opened(tmp_path / "outbox")
    assert opened(tmp_path / "outbox").outbox_id == first.outbox_id
    assert (tmp_path / "outbox/.voicespool/id").stat().st_mode & 0o444 == 0o444
    assert opened(tmp_path / "outbox", inbox_id="another").outbox_id == first.outbox_id


def test_an_unmounted_share_is_an_empty_folder_and_no_fresh_start(tmp_path: Path) -> None:
    outbox = opened(tmp_path / "outbox")
    (tmp_path / "outbox").rename(tmp_path / "share")
    with pytest.raises(OutboxGone, match="is not there"):
        outbox.check()
    (tmp_path / "outbox").mkdir()
    for look in (outbox.check, lambda: opened(tmp_path / "outbox")):
        with pytest.raises(OutboxGone, match="is missing"):
            look()
    assert os.listdir(tmp_path / "outbox") == []
    opened(tmp_path / "other", inbox_id="another")
    (tmp_path / "other" / ".voicespool").rename(tmp_path / "outbox" / ".voicespool")
    with pytest.raises(OutboxGone, match="another spool"):
        outbox.check()


def test_another_folder_in_the_configuration_is_a_fresh_start(tmp_path: Path) -> None:
    first = opened(tmp_path / "outbox")
    second = opened(tmp_path / "elsewhere")
    assert first.outbox_id != second.outbox_id


def test_a_spool_folder_that_is_a_link_or_a_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "outbox"
    opened(elsewhere)
    before = sorted(path.stat().st_mtime_ns for path in elsewhere.rglob("*"))
    folder.mkdir()
    (folder / ".voicespool").symlink_to(elsewhere / ".voicespool")
    with pytest.raises(OutboxGone, match="is a link or a file"):
        opened(folder, inbox_id="another")
    assert sorted(path.stat().st_mtime_ns for path in elsewhere.rglob("*")) == before
    (folder / ".voicespool").unlink()
    (folder / ".voicespool").touch()
    with pytest.raises(OutboxGone, match="is a link or a file"):
        opened(folder)


@as_root
def test_a_spool_folder_of_another_user_is_refused_also_later(outbox: Outbox) -> None:
    os.chown(outbox.staging.parent, 4711, -1)
    for look in (outbox.check, lambda: opened(outbox.folder)):
        with pytest.raises(OutboxGone, match="belongs to user 4711"):
            look()
    os.chown(outbox.staging.parent, 0, -1)
    outbox.staging.chmod(0o770)
    with pytest.raises(OutboxGone, match="others can write"):
        opened(outbox.folder)


def test_a_file_system_where_everybody_owns_everything_is_no_trouble(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT and SMB show one owner and one mode for all that is there, also for what was made just now."""
    real = os.fstat

    def shown(fd: int) -> os.stat_result:
        values: list[Any] = list(real(fd))
        values[stat.ST_MODE] |= 0o777
        values[stat.ST_UID] = 4711
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", shown)
    again = opened(outbox.folder)
    assert publish(again, "radio/hello") == "radio/hello"
    assert os.listdir(outbox.staging) == []


# --- assembling ------------------------------------------------------------------------------------


def test_nothing_is_visible_before_it_is_placed_and_all_of_it_after(outbox: Outbox) -> None:
    assemble(outbox, "hello", lambda result: result.write("a.wav", b""))
    assert visible(outbox) == []
    assert is_assembled(outbox)
    placed = place(outbox, "hello")
    assert not is_assembled(outbox)
    assert os.listdir(placed) == ["a.wav"]


def test_what_was_half_assembled_is_begun_anew(outbox: Outbox) -> None:
    half = outbox.staging / "job"
    half.mkdir()
    (half / "left.wav").touch()
    assert publish(outbox, "hello") == "hello"
    assert os.listdir(outbox.folder / "hello") == ["manifest.json"]


def test_all_is_on_disk_before_it_is_seen(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file, the folder, and the folder that it is in; the rename; then the folder it is in now."""
    log: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        log.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(outbox.folder)))
        real_fsync(fd)

    def rename(source: str, target: str, **folders: int) -> None:
        log.append(f"{source} -> {target}")
        real_rename(source, target, **folders)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    publish(outbox, "radio/hello")
    staging = f"/.voicespool/{INBOX}"
    made = ["", ".voicespool-job -> job"]
    assembled = [f"{staging}/job/manifest.json", f"{staging}/job", staging]
    assert log == [*made, *assembled, "job -> hello", "/radio"]


def test_cleaning_keeps_to_its_own_inbox_and_to_what_is_not_wanted(tmp_path: Path, outbox: Outbox) -> None:
    other = opened(tmp_path / "outbox", inbox_id="another")
    for folder in (outbox.staging / "wanted", outbox.staging / "left", other.staging / "theirs"):
        folder.mkdir()
        (folder / "file").touch()
    outbox.clean(keep=lambda job_id: job_id == "wanted")
    assert os.listdir(outbox.staging) == ["wanted"]
    assert os.listdir(other.staging) == ["theirs"]


def test_what_could_not_be_assembled_takes_no_space(outbox: Outbox) -> None:
    def fails(result: Assembly) -> None:
        result.write("a.wav", b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        assemble(outbox, "radio/hello", fails)
    assert os.listdir(outbox.staging) == []
    assert os.listdir(outbox.folder / "radio") == []


def test_a_copy_for_which_there_is_no_space_is_not_begun(tmp_path: Path) -> None:
    with private_mounts():
        mount_tmpfs(tmp_path / "outbox", "size=1m,mode=755")
        outbox = opened(tmp_path / "outbox")
        with (tmp_path / "long.wav").open("wb") as file:
            file.truncate(2 << 20)
        breaths: list[int] = []
        with pytest.raises(OSError, match="No space left") as refused:
            assemble(
                outbox, "hello", lambda result: result.copy(tmp_path / "long.wav", "a.wav", lambda: breaths.append(1))
            )
        assert str(refused.value.filename).endswith("/job/a.wav")
        assert not breaths


@pytest.mark.parametrize("left", ["folder", "link", "full folder"])
def test_what_a_crash_left_under_the_hidden_name_is_removed(outbox: Outbox, tmp_path: Path, left: str) -> None:
    """Between making the folder and moving it out of sight; a link that was planted there is not followed."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    hidden = outbox.folder / "radio" / ".voicespool-job"
    hidden.parent.mkdir()
    if left == "link":
        hidden.symlink_to(tmp_path / "precious")
    else:
        hidden.mkdir()
        if left == "full folder":
            (hidden / "manifest.json").touch()
    assert publish(outbox, "radio/hello") == "radio/hello"
    assert os.listdir(hidden.parent) == ["hello"]
    assert os.listdir(tmp_path / "precious") == ["file"]


@as_root
def test_a_folder_that_somebody_puts_in_place_of_the_new_one_is_not_filled(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def swapped(source: str, target: str, **folders: int) -> None:
        real(source, target, **folders)
        os.chown(target, 4711, -1, dir_fd=folders["dst_dir_fd"])

    monkeypatch.setattr(os, "rename", swapped)
    with pytest.raises(PermissionError, match="replaced by another user"):
        publish(outbox, "hello")
    assert visible(outbox) == []


# --- whose trouble it is ---------------------------------------------------------------------------


def test_trouble_with_one_folder_is_told_from_trouble_with_the_outbox(tmp_path: Path) -> None:
    """A subfolder that takes nothing, then the whole; errors name the place."""
    with private_mounts():
        mount_tmpfs(tmp_path / "outbox", "size=1m,mode=755")
        outbox, radio = opened(tmp_path / "outbox"), tmp_path / "outbox" / "radio"
        mount_again(tmp_path, radio)
        command("mount", "-o", "remount,bind,ro", radio)
        with pytest.raises(OSError, match="Read-only") as refused:
            publish(outbox, "radio/hello")
        assert str(refused.value.filename).startswith(str(radio))
        assert outbox.refuses() is None
        assert publish(outbox, "hello") == "hello"
        with (tmp_path / "outbox" / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert refusal(outbox) == errno.ENOSPC
        (tmp_path / "outbox" / "filler").unlink()
        assert outbox.refuses() is None
        command("mount", "-o", "remount,ro", tmp_path / "outbox")
        assert refusal(outbox) == errno.EROFS
        command("mount", "-o", "remount,rw", tmp_path / "outbox")
        assert outbox.refuses() is None
        assert os.listdir(outbox.staging) == []
        assert visible(outbox) == ["hello", "radio"]


def test_a_subfolder_on_another_file_system_is_named_and_left_clean(tmp_path: Path) -> None:
    """Nothing can be moved there by one rename."""
    with private_mounts():
        outbox = opened(tmp_path / "outbox")
        mount_tmpfs(outbox.folder / "radio")
        with pytest.raises(OSError, match="cross-device"):
            publish(outbox, "radio/hello")
        assert os.listdir(outbox.folder / "radio") == []
        assert outbox.refuses() is None


def test_an_outbox_that_is_gone_or_gives_no_group_refuses_all(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    outbox.policy = lambda: PublishPolicy(group=os.getegid())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refused)
        assert refusal(outbox) == errno.EPERM
    assert outbox.refuses() is None
    outbox.folder.rename(outbox.folder.with_name("away"))
    error = outbox.refuses()
    assert isinstance(error, FileNotFoundError)
    assert error.strerror == f"the outbox {outbox.folder} is not there"


def test_a_folder_that_refuses_is_not_left_open(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job is tried again every minute, so that one descriptor each time would end the daemon within hours. Nor is a
    new folder left behind that could not get its group.
    """

    def refused(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    before = len(os.listdir("/proc/self/fd"))
    outbox.policy = lambda: PublishPolicy(group=os.getegid())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refused)
        with pytest.raises(PermissionError):
            publish(outbox, "radio/hello")
    assert visible(outbox) == []
    (outbox.folder / "radio").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(OpenFolder, "has", refused)
        with pytest.raises(PermissionError):
            publish(outbox, "radio/hello")
    assert len(os.listdir("/proc/self/fd")) == before
    assert publish(outbox, "radio/hello") == "radio/hello"


def refusal(outbox: Outbox) -> int | None:
    error = outbox.refuses()
    return error.errno if error else None


# --- names -----------------------------------------------------------------------------------------


def test_later_ones_take_numbers(outbox: Outbox) -> None:
    assert [publish(outbox, "hello") for _ in range(3)] == ["hello", "hello~2", "hello~3"]
    assert [publish(outbox, "hello", "failed") for _ in range(2)] == ["hello.failed", "hello.failed~2"]
    assert publish(outbox, "hello", "cancelled") == "hello.cancelled"


def test_a_name_that_was_taken_away_is_free_again(outbox: Outbox) -> None:
    publish(outbox, "hello")
    (outbox.folder / "hello").rename(outbox.folder.parent / "consumed")
    assert publish(outbox, "hello") == "hello"


@pytest.mark.parametrize(
    ("one", "two"), [("Hello", "hello"), ("olá", "ola\u0301"), ("straße", "STRASSE"), ("ΣΑΣ", "σας")]
)
def test_names_that_are_one_on_other_systems_are_told_apart(outbox: Outbox, one: str, two: str) -> None:
    """As jobs, and as folders of jobs."""
    assert publish(outbox, one) == one
    assert publish(outbox, two) == f"{two}~2"
    assert publish(outbox, f"x{one}/job") == f"x{one}/job"
    assert publish(outbox, f"x{two}/job") == f"x{two}~2/job"
    assert publish(outbox, f"x{two}/other") == f"x{two}~2/other"
    assert publish(outbox, f"X{one}".swapcase()).endswith("~3")


def test_jobs_with_names_like_the_spools_own(outbox: Outbox) -> None:
    names = ["hello", "hello.failed", "hello~2", "hello.failed~2", "manifest", ".voicespool", "..", "con", "a.", "a"]
    made = [publish(outbox, name) for name in names] + [publish(outbox, "hello", "failed")]
    assert len(set(made)) == len(made)
    assert made[0] == "hello"
    assert made[-1] == "hello.failed"
    assert not any(name.startswith(".") for name in made)


@pytest.mark.parametrize("first", ["radio", "radio/hello"])
def test_a_result_never_contains_another(outbox: Outbox, first: str) -> None:
    """A job `radio.yaml` beside a folder `radio/`, whichever comes first."""
    names = ["radio", "radio/hello"] if first == "radio" else ["radio/hello", "radio"]
    made = [publish(outbox, name) for name in [*names, *names]]
    for folder, folders, files in os.walk(outbox.folder):
        assert ".voicespool" in folder or not (folders and files)
    assert len(set(made)) == 4


def test_a_file_of_somebody_else_is_left_alone(outbox: Outbox) -> None:
    (outbox.folder / "hello").write_text("notes")
    (outbox.folder / "radio").write_text("notes")
    (outbox.folder / "link").symlink_to("nowhere")
    (outbox.folder / "empty").mkdir()
    assert publish(outbox, "hello") == "hello~2"
    assert publish(outbox, "radio/hello") == "radio~2/hello"
    assert publish(outbox, "link") == "link~2"
    assert publish(outbox, "empty") == "empty~2"
    assert (outbox.folder / "hello").read_text() == "notes"


@pytest.mark.parametrize("policy", [PublishPolicy(), PublishPolicy(replace=True)])
def test_a_link_to_a_folder_or_to_a_result_is_a_taken_name(
    outbox: Outbox, tmp_path: Path, policy: PublishPolicy
) -> None:
    outbox.policy = lambda: policy
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "hello").mkdir(parents=True)
    (elsewhere / "hello" / "manifest.json").write_text("theirs")
    (outbox.folder / "radio").symlink_to(elsewhere)
    (outbox.folder / "hello").symlink_to(elsewhere / "hello")
    assert publish(outbox, "radio/hello") == "radio~2/hello"
    assert publish(outbox, "hello") == "hello~2"
    assert (outbox.folder / "hello").is_symlink()
    assert os.listdir(elsewhere) == ["hello"]
    assert (elsewhere / "hello" / "manifest.json").read_text() == "theirs"


def test_deep_folders_of_strange_names_can_not_stop_the_outbox(outbox: Outbox) -> None:
    """In the inbox such a path is short enough; escaped, it would be too long for any system call."""
    name = "/".join(["|" * 70] * 50 + ["hello"])
    made = publish(outbox, name)
    assert made.endswith("/hello")
    assert publish(outbox, name) == f"{made}~2"
    assert publish(outbox, name.replace("|" * 70, "?" * 70)) not in {made, f"{made}~2"}


def test_another_spool_that_is_quicker_gets_the_name(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the rename: the kernel refuses to replace a folder with files in it."""
    other, real = opened(tmp_path / "outbox", inbox_id="another"), os.rename

    def late(source: str, target: str, **folders: int) -> None:
        if target == "hello":
            monkeypatch.setattr(os, "rename", real)
            publish(other, "hello", content="theirs")
        real(source, target, **folders)

    monkeypatch.setattr(os, "rename", late)
    assert publish(outbox, "hello", content="ours") == "hello~2"
    assert (outbox.folder / "hello/manifest.json").read_text() == "theirs"
    assert (outbox.folder / "hello~2/manifest.json").read_text() == "ours"


def test_what_is_kept_in_mind_of_names_is_bounded(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.results.open_outbox.MAX_NAMES", 5)
    for number in range(20):
        publish(outbox, f"job-{number}")
        (outbox.folder / f"job-{number}").rename(outbox.folder.parent / f"taken-{number}")
        assert sum(map(len, outbox.names.values())) <= 6


# --- replace ---------------------------------------------------------------------------------------


def test_replace_puts_the_new_result_in_the_place_of_the_old(tmp_path: Path) -> None:
    outbox = opened(tmp_path / "outbox", PublishPolicy(replace=True))
    assert [publish(outbox, "hello", content=content) for content in "abc"] == ["hello"] * 3
    assert (outbox.folder / "hello/manifest.json").read_text() == "c"
    assert publish(outbox, "hello", "failed") == "hello.failed"
    assert os.listdir(outbox.staging) == []
    assert publish(outbox, "Hello") == "Hello~2", "it knows all names, not only those that it replaced"


def test_replace_does_not_touch_what_is_no_result(tmp_path: Path) -> None:
    outbox = opened(tmp_path / "outbox", PublishPolicy(replace=True))
    (outbox.folder / "hello").mkdir()
    (outbox.folder / "hello" / "precious.txt").touch()
    assert [publish(outbox, "hello") for _ in range(2)] == ["hello~2"] * 2
    assert os.listdir(outbox.folder / "hello") == ["precious.txt"]


def test_the_old_result_comes_back_if_the_new_one_can_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the rename that publishes is refused; the consumer still sees what was there."""
    outbox = opened(tmp_path / "outbox", PublishPolicy(replace=True))
    publish(outbox, "hello", content="old")
    real = os.rename

    def refused(source: str, target: str, **folders: int) -> None:
        if target == "hello" and not source.startswith("replaced-"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target, **folders)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(PermissionError):
        publish(outbox, "hello", content="new")
    assert (outbox.folder / "hello/manifest.json").read_text() == "old"


def test_the_old_result_is_kept_until_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = opened(tmp_path / "outbox", PublishPolicy(replace=True))
    publish(outbox, "hello", content="old")
    real = os.rename

    def refused(source: str, target: str, **folders: int) -> None:
        if target == "hello":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(PermissionError):
            publish(outbox, "hello", content="new")
    (aside,) = outbox.staging.glob("replaced-*")
    assert (aside / "manifest.json").read_text() == "old"
    outbox.clean(keep=lambda _name: False)
    assert os.listdir(outbox.staging) == []


# --- permissions -----------------------------------------------------------------------------------


def modes(outbox: Outbox, *names: str) -> list[str]:
    return [oct(stat.S_IMODE((outbox.folder / name).stat().st_mode)) for name in names]


def test_results_are_as_readable_as_the_umask_says_whatever_went_into_them(outbox: Outbox, tmp_path: Path) -> None:
    """What the worker made is private, its copy in a result is not."""
    (tmp_path / "private").touch(mode=0o600)
    assemble(outbox, "radio/hello", lambda result: result.copy(tmp_path / "private", "hello.wav"))
    place(outbox, "radio/hello")
    mask = os.umask(0)
    os.umask(mask)
    folders, files = oct(0o777 & ~mask), oct(0o666 & ~mask)
    assert modes(outbox, "radio", "radio/hello", "radio/hello/hello.wav") == [folders, folders, files]


@pytest.mark.parametrize(("mode", "files"), [(0o750, 0o640), (0o2775, 0o664), (0o700, 0o600)])
def test_results_get_the_mode_that_is_asked_for(tmp_path: Path, mode: int, files: int) -> None:
    outbox = opened(tmp_path / "outbox", PublishPolicy(folder_mode=mode))
    publish(outbox, "radio/hello")
    expected = [oct(mode), oct(mode), oct(files)]
    assert modes(outbox, "radio", "radio/hello", "radio/hello/manifest.json") == expected


@pytest.mark.skipif(os.geteuid() != 0 and len(os.getgroups()) < 2, reason="this user is in no second group")
def test_results_get_the_group_that_is_asked_for(tmp_path: Path) -> None:
    group = 12345 if os.geteuid() == 0 else next(group for group in os.getgroups() if group != os.getegid())
    outbox = opened(tmp_path / "outbox", PublishPolicy(folder_mode=0o2770, group=group))
    publish(outbox, "radio/hello")
    for name in ("radio", "radio/hello", "radio/hello/manifest.json"):
        assert (outbox.folder / name).stat().st_gid == group
    assert modes(outbox, "radio/hello") == ["0o2770"]


def test_an_outbox_without_permissions_of_its_own_is_no_trouble(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT and many SMB mounts refuse chmod."""

    def refused(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refused)
    outbox.policy = lambda: PublishPolicy(folder_mode=0o700)
    assert publish(outbox, "radio/hello") == "radio/hello"
