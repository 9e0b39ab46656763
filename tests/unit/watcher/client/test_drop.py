"""What is dropped can be taken by the spool, whatever the umask of the one who drops it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from watcher.client.drop import drop


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("inbox_mode", "folders"), [(0o2770, 0o2770), (0o3770, 0o2770), (0o1777, 0o777), (0o700, 0o700), (0o755, 0o755)]
)
def test_new_folders_have_the_mode_of_the_one_that_they_are_in(
    tmp_path: Path, umask: int, inbox_mode: int, folders: int
) -> None:
    """All on the way; without the sticky bit, by which the spool could not take another user's file out."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    inbox.chmod(inbox_mode)
    assert drop(inbox, "team/night/a", ".yaml", b"text: x\n") == "team/night/a.yaml"
    assert [mode(inbox / name) for name in ("team", "team/night")] == [folders, folders]
    wanted = 0o600 | (folders & 0o444) | (0o644 & ~umask)
    assert mode(inbox / "team/night/a.yaml") == wanted


def test_folders_that_were_there_and_a_file_that_is_there_keep_their_modes(tmp_path: Path, umask: int) -> None:
    (tmp_path / "inbox/team").mkdir(parents=True)
    (tmp_path / "inbox/team").chmod(0o750)
    (tmp_path / "inbox").chmod(0o2770)
    drop(tmp_path / "inbox", "team/a", ".yaml", b"text: x\n")
    assert mode(tmp_path / "inbox/team") == 0o750


def test_a_default_acl_decides_where_there_is_one(tmp_path: Path, umask: int) -> None:
    """The operator has said there what new things are."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    if shutil.which("setfacl") is None:
        pytest.skip("setfacl is not installed")
    done = subprocess.run(["setfacl", "-d", "-m", "u::rwx,g::rwx,o::---", inbox], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this file system has no ACLs")
    inbox.chmod(0o2777)
    drop(inbox, "team/a", ".yaml", b"text: x\n")
    assert mode(inbox / "team") == 0o2770
    assert mode(inbox / "team/a.yaml") == 0o660
