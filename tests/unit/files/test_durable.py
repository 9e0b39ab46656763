"""Files that survive, and files from strangers opened without a surprise: on real files, links and pipes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from files import durable, opens


def raising(code: int) -> object:
    def call(*_arguments: object, **_keywords: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def test_a_new_file_is_never_written_over_another(tmp_path: Path) -> None:
    durable.write_new(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        durable.write_new(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_durable", [True, False])
def test_replace_leaves_the_old_content_when_it_fails_and_works_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_durable: bool
) -> None:
    """Also with the scratch file of the failed one still there."""
    path = tmp_path / "a"
    durable.replace(path, b"old", durable=is_durable)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", raising(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            durable.replace(path, b"new", durable=is_durable)
    assert path.read_bytes() == b"old"
    durable.replace(path, b"newer", durable=is_durable, mode=0o644)
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["a"]


def test_names_that_are_not_utf8_survive_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xff.yaml")
    durable.write_new(tmp_path / "a", durable.to_json({"name": name}))
    assert durable.from_json(tmp_path / "a") == {"name": name}
    assert os.fsencode(durable.from_json(tmp_path / "a")["name"]) == b"caf\xe9/\xff.yaml"


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\0\0\0\0", b"\xff\xfe"])
def test_what_a_crash_left_half_written_reads_as_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert durable.from_json(tmp_path / "a") == {}
    assert durable.from_json(tmp_path / "not there") == {}


def test_links_pipes_and_folders_are_not_opened(tmp_path: Path) -> None:
    """A FIFO without a writer would keep an ordinary open waiting for ever."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OSError) as caught, opens.opened_regular(tmp_path / name):  # noqa: PT011
            pass
        assert caught.value.errno in {errno.EINVAL, errno.ELOOP}
    with opens.opened_regular(tmp_path / "file") as (fd, status):
        assert status.st_size == 1
        assert os.fstat(fd).st_ino == status.st_ino


@pytest.mark.parametrize("swapped_for", ["link", "pipe"])
def test_a_file_swapped_between_the_look_and_the_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped_for: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    before = os.lstat(tmp_path / "file")
    monkeypatch.setattr(os, "lstat", lambda *_args, **_keywords: before)
    with pytest.raises(OSError) as caught, opens.opened_regular(tmp_path / swapped_for):  # noqa: PT011
        pass
    assert caught.value.errno in {errno.EINVAL, errno.ELOOP}


def test_no_link_on_the_way_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.yaml").write_bytes(b"secret")
    (tmp_path / "inbox" / "x" / "y").mkdir(parents=True)
    (tmp_path / "inbox" / "x" / "y" / "a.yaml").write_bytes(b"mine")
    (tmp_path / "inbox" / "x" / "out").symlink_to(tmp_path / "outside")
    opened = os.listdir("/proc/self/fd")
    with (
        opens.opened_folder(tmp_path / "inbox", "x/y/a.yaml") as (folder, name),
        opens.opened_regular(name, folder) as (fd, _status),
    ):
        assert opens.read_at_most(fd, 100) == b"mine"
    for source in ("x/out/a.yaml", "x/y/a.yaml/b.yaml"):
        with pytest.raises(NotADirectoryError), opens.opened_folder(tmp_path / "inbox", source):
            pass
    with pytest.raises(FileNotFoundError), opens.opened_folder(tmp_path / "inbox", "x/gone/a.yaml"):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(opened)


def test_a_longer_file_can_be_told_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 40)
    with opens.opened_regular(path) as (fd, _status):
        assert len(opens.read_at_most(fd, 10)) == 11
        assert len(opens.read_at_most(fd, 3 * opens.BLOCK_BYTES)) == 3 * opens.BLOCK_BYTES + 1
    path.write_bytes(b"0123456789")
    with opens.opened_regular(path) as (fd, _status):
        assert opens.read_at_most(fd, 10) == b"0123456789"
        assert opens.read_at_most(fd, 100) == b"0123456789"


def test_a_lease_tells_whether_somebody_writes_in_this_process_or_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with opens.opened_regular(path) as (fd, _status):
        if opens.is_being_written(fd) is None:
            pytest.skip("this file system grants no leases")
        assert opens.is_being_written(fd) is False
        with path.open("ab"):
            assert opens.is_being_written(fd) is True
        assert opens.is_being_written(fd) is False
        code = "import sys; f = open(sys.argv[1], 'ab'); print('open', flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            assert opens.is_being_written(fd) is True
            writer.communicate()
        assert opens.is_being_written(fd) is False


def test_where_there_are_no_leases_nobody_knows_who_writes() -> None:
    reading, writing = os.pipe()
    assert opens.is_being_written(reading) is None
    os.close(reading)
    os.close(writing)


def test_identity_notices_a_change_that_keeps_size_and_mtime(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = os.stat(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opens.identity(os.stat(path)) != opens.identity(before)


def test_a_second_name_where_that_can_be_and_a_copy_elsewhere(tmp_path: Path, other_file_system: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    durable.link_or_copy(source, tmp_path / "here")
    assert (tmp_path / "here").samefile(source)
    durable.link_or_copy(source, other_file_system / "there")
    assert (other_file_system / "there").read_bytes() == source.read_bytes()
    for taken in (tmp_path / "here", other_file_system / "there"):
        with pytest.raises(FileExistsError):
            durable.link_or_copy(source, taken)


@pytest.mark.parametrize("where", ["here", "another file system"])
def test_a_long_copy_breathes_and_waits_for_the_disk_on_the_way(
    tmp_path: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Once for each 8 MiB, in the kernel or through memory; and it holds nothing back for the last fsync."""
    source, folder = tmp_path / "source", tmp_path if where == "here" else other_file_system
    source.write_bytes(b"".join(number.to_bytes(4, "big") * (1 << 18) for number in range(65)) + b"end")
    breaths: list[int] = []
    waits: list[int] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        waits.append(os.fstat(fd).st_size)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with source.open("rb") as reader, (folder / "copy").open("xb") as writer:
        target = writer.fileno()
        durable.copy_slices(
            reader.fileno(), target, source.stat().st_size, lambda: breaths.append(os.fstat(target).st_size)
        )
    assert breaths == [number << 23 for number in range(1, 9)]
    assert waits == [1 << 25, 1 << 26]
    assert (folder / "copy").read_bytes() == source.read_bytes()


def test_a_file_that_becomes_shorter_while_it_is_copied_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"short")
    with (
        (tmp_path / "source").open("rb") as reader,
        (tmp_path / "copy").open("xb") as writer,
        pytest.raises(OSError, match="became shorter"),
    ):
        durable.copy_slices(reader.fileno(), writer.fileno(), 6)


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    durable.remove_tree(tmp_path / "link")
    durable.remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_renamed_only_to_a_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Also on file systems without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", raising(errno.EPERM))
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "taken").write_bytes(b"theirs")
    with opens.opened_folder(tmp_path, "x") as (folder, _name):
        assert not durable.rename_to_free_name(tmp_path / "mine", "taken", folder)
        assert durable.rename_to_free_name(tmp_path / "mine", "free", folder)
    assert (tmp_path / "taken").read_bytes() == b"theirs"
    assert (tmp_path / "free").read_bytes() == b"mine"
    assert not (tmp_path / "mine").exists()


def test_a_tree_that_is_gone_already_is_no_trouble_and_links_in_it_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    durable.remove_tree(tmp_path / "tree")
    durable.remove_tree(tmp_path / "tree")
    assert (tmp_path / "kept" / "file").exists()
    assert not (tmp_path / "tree").exists()


def test_a_tree_that_can_not_be_removed_is_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    monkeypatch.setattr(os, "rmdir", raising(errno.EROFS))
    with pytest.raises(OSError, match="Read-only"):
        durable.remove_tree(tmp_path / "tree")
