"""How the real daemon publishes: older results, and owner, group and mode of new ones."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.depriving import as_an_ordinary_user
from tests.mounting import mount_tmpfs, private_mounts
from tests.rights import Rights, set_default_acl
from tests.spooling import Spool, below, until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users and groups")


@pytest.fixture(params=["here", "another file system"])
def outbox_somewhere(request: pytest.FixtureRequest, spool: Spool) -> Iterator[Path]:
    """An outbox on the inbox's file system, or on another."""
    if request.param == "here":
        spool.outbox.mkdir()
        yield spool.outbox
        return
    with private_mounts():
        mount_tmpfs(spool.outbox)
        yield spool.outbox


def test_replace_moves_the_older_result_aside_and_leaves_other_things_alone(spool: Spool) -> None:
    """`results.on_existing: replace`: there is always one result of the name; a folder that is no result stays."""
    spool.config["results"] = {"on_existing": "replace"}
    spool.drop("a.yaml", "text: First.\n")
    assert spool.once().returncode == 0
    (spool.outbox / "b").mkdir()
    (spool.outbox / "b" / "notes.txt").write_text("mine")
    spool.drop("a.yaml", "text: Second.\n")
    spool.drop("b.yaml", "text: Beside.\n")
    assert spool.once().returncode == 0
    assert spool.manifest("a")["request"]["text"] == "Second."
    assert spool.results() == ["a", "b~2"]
    assert (spool.outbox / "b" / "notes.txt").read_text() == "mine"
    assert not below(spool.outbox / ".voicespool", "manifest.json")


def test_number_keeps_the_older_results(spool: Spool) -> None:
    """The default: the later folder gets a number, the files in it keep their names."""
    spool.start()
    for text, name in (("First.", "a"), ("Second.", "a~2"), ("Third.", "a~3")):
        spool.drop("a.yaml", f"text: {text}\n")
        spool.result(name)
    assert spool.results() == ["a", "a~2", "a~3"]
    assert spool.manifest("a")["request"]["text"] == "First."
    assert spool.manifest("a~3")["request"]["text"] == "Third."
    assert (spool.outbox / "a~3" / "a.wav").is_file()


def test_mode_and_group_of_all_that_is_published(spool: Spool) -> None:
    """`results.mode` and `results.group` of folders, files and subfolders, set before they are visible."""
    group = next((number for number in os.getgroups() if number != os.getegid()), os.getegid())
    if os.geteuid() == 0:
        group = 12345
    spool.config["results"] = {"mode": "2750", "group": group}
    spool.drop("radio/a.yaml")
    spool.drop("radio/bad.yaml", "txt: wrong key\n")
    assert spool.once().returncode == 1
    folders = [spool.outbox / "radio", spool.outbox / "radio" / "a", spool.outbox / "radio" / "bad.failed"]
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2750, folder
        assert folder.stat().st_gid == group
    files = [path for folder in folders[1:] for path in folder.iterdir()]
    assert len(files) == 6
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o640, file
        assert file.stat().st_gid == group


def test_without_mode_the_umask_decides(spool: Spool) -> None:
    spool.prefix = ("sh", "-c", 'umask 027 && exec "$@"', "sh")
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    assert stat.S_IMODE((spool.outbox / "a").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (spool.outbox / "a").iterdir()} == {0o640}


def test_a_group_that_is_not_ours_to_give_is_a_hold(spool: Spool) -> None:
    """An operator's mistake fails no job."""
    spool.prefix = as_an_ordinary_user()
    stranger = max(os.getgroups(), default=0) + 4321
    spool.config["results"] = {"group": stranger}
    spool.drop("a.yaml")
    ended = spool.once()
    assert ended.returncode == 75
    assert "Operation not permitted" in ended.stderr
    assert len(spool.claims()) == 1
    del spool.config["results"]
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]


# --- as any file that is made there ----------------------------------------------------------------------------------


def shared(folder: Path, group: int, reader: int) -> None:
    """A folder whose group the daemon may or may not be in, with another user who may read."""
    folder.mkdir(exist_ok=True)
    os.chown(folder, -1, group)
    folder.chmod(0o2775)
    set_default_acl(folder, reader)


def made_there(spool: Spool, folder: Path) -> tuple[Rights, Rights]:
    """The rights of a folder made by an ordinary program, and of a file in it."""
    script = 'mkdir "$1/.made" && : > "$1/.made/file"'
    subprocess.run([*spool.prefix, "sh", "-c", script, "sh", folder], check=True)
    return Rights.of(folder / ".made"), Rights.of(folder / ".made" / "file")


def assert_as_made_there(spool: Spool, *names: str) -> None:
    for name in names:
        as_folder, as_file = made_there(spool, (spool.outbox / name).parent)
        assert Rights.of(spool.outbox / name) == as_folder, name
        found = {path.name: Rights.of(path) for path in (spool.outbox / name).iterdir()}
        assert len(found) == 3
        assert found == dict.fromkeys(found, as_file), name
        subprocess.run(["rm", "-r", (spool.outbox / name).parent / ".made"], check=True)


@as_root
@pytest.mark.parametrize(("umask", "ordinary"), [("002", True), ("022", False), ("077", True)])
def test_results_get_what_a_file_made_there_gets(
    spool: Spool, outbox_somewhere: Path, umask: str, ordinary: bool
) -> None:
    """The group of a setgid folder, its default ACL, the umask: in the outbox, in a subfolder with another group and
    ACL, in one with neither, and in one that the daemon makes. The ordinary user is a member of none of the groups.
    """
    spool.prefix = ("sh", "-c", f'umask {umask} && exec "$@"', "sh", *(as_an_ordinary_user() if ordinary else ()))
    shared(outbox_somewhere, group=65534, reader=4711)
    shared(outbox_somewhere / "news", group=4712, reader=4713)
    plain = outbox_somewhere / "plain"
    plain.mkdir()
    os.removexattr(plain, "system.posix_acl_default")
    os.chown(plain, -1, 0)
    plain.chmod(0o755)
    for name in ("a", "news/b", "plain/c", "radio/deep/d"):
        spool.drop(f"{name}.yaml")
    spool.drop("news/bad.yaml", "txt: wrong key\n")
    assert spool.once().returncode == 1
    assert_as_made_there(spool, "a", "news/b", "plain/c", "radio/deep/d", "news/bad.failed")
    as_folder, _ = made_there(spool, spool.outbox)
    assert Rights.of(spool.outbox / "radio") == as_folder
    assert Rights.of(spool.outbox / "radio" / "deep") == as_folder
    assert as_folder.group == 65534
    assert as_folder.default_acl


@as_root
def test_a_mode_of_three_digits_leaves_the_group_to_the_folder(spool: Spool) -> None:
    """`results.mode: "750"` in a setgid outbox, as chmod(1) has it; and nothing is shared with the state folder."""
    spool.outbox.mkdir()
    os.chown(spool.outbox, -1, 4712)
    spool.outbox.chmod(0o2775)
    spool.config["results"] = {"mode": "750"}
    spool.drop("radio/a.yaml")
    assert spool.once().returncode == 0
    for folder in ("radio", "radio/a"):
        status = (spool.outbox / folder).stat()
        assert (oct(stat.S_IMODE(status.st_mode)), status.st_gid) == ("0o2750", 4712)
    for file in (spool.outbox / "radio" / "a").iterdir():
        status = file.stat()
        assert (oct(stat.S_IMODE(status.st_mode)), status.st_gid, status.st_nlink) == ("0o640", 4712, 1)


# --- what belongs to somebody else -----------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "done"])
def test_a_strangers_file_behind_a_second_name_stays_as_it_is(spool: Spool, cancelled: bool) -> None:
    """A daemon of root gets a hard link to a private file, with and without a `.cancel`."""
    private = spool.folder / "private"
    private.write_text("text: Mine.\n")
    private.chmod(0o600)
    os.chown(private, 4711, 4712)
    os.link(private, spool.inbox / "a.yaml")
    if cancelled:
        (spool.inbox / "a.cancel").touch()
    before = os.stat(private)
    spool.once()
    after = os.stat(private)
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_gid) == (
        before.st_ino, before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert private.read_text() == "text: Mine.\n"
    assert spool.results() == (["a.cancelled"] if cancelled else ["a"])
    assert all(path.stat().st_nlink == 1 for path in below(spool.outbox) if path.is_file())
    assert all(not path.samefile(private) for path in below(spool.outbox))


def test_huge_files_of_nothing_take_no_space_in_the_outbox(spool: Spool) -> None:
    """Sparse files named like jobs: the first 4 KiB of each are kept, and the result says so."""
    for number in range(20):
        with (spool.inbox / f"huge-{number}.yaml").open("wb") as file:
            file.truncate(1 << 36)
    assert spool.once().returncode == 1
    assert len(spool.results()) == 20
    assert sum(path.stat().st_blocks * 512 for path in below(spool.outbox) if path.is_file()) < 1 << 20
    for number in range(20):
        folder = spool.outbox / f"huge-{number}.failed"
        assert (folder / f"huge-{number}.yaml").stat().st_size == 4096
        assert "Only the first 4 KiB" in (folder / "ERROR.txt").read_text()


def test_no_link_in_the_outbox_leads_a_result_elsewhere(spool: Spool) -> None:
    """Links in place of a folder for results, or of a result. The outbox itself may be a link."""
    elsewhere, real = spool.folder / "elsewhere", spool.folder / "real"
    elsewhere.mkdir()
    real.mkdir()
    spool.outbox.symlink_to(real)
    (real / "radio").symlink_to(elsewhere)
    (real / "a").symlink_to(elsewhere)
    (real / "news").write_text("a file")
    spool.config["results"] = {"on_existing": "replace"}
    for name in ("a", "radio/b", "news/c"):
        spool.drop(f"{name}.yaml")
    assert spool.once().returncode == 0
    assert not list(elsewhere.iterdir())
    assert sorted(str(path.parent.relative_to(real)) for path in below(real, "manifest.json")) == [
        "a~2", "news~2/c", "radio~2/b",
    ]  # fmt: skip


def test_a_spool_folder_that_others_may_write_to_is_a_hold_until_they_may_not(spool: Spool) -> None:
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    own = spool.outbox / ".voicespool"
    own.chmod(0o777)
    spool.start()
    spool.drop("b.yaml")
    until(lambda: f"others can write to {own}" in str(spool.status().get("holds")), "the hold says why")
    assert spool.results() == ["a"]
    own.chmod(0o755)
    spool.result("b")
    assert spool.stop(signal.SIGTERM) == 0
