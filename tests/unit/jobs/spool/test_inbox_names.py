"""Which names are jobs, and the temporary files of real clients that are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.spool.inbox_names import is_job_name, is_walked, why_ignored

JOBS = [
    "hello.yaml", "hello.YML", "hello.Json", "a b.yaml", "-rf.yaml", "index.html.yaml", "manifest.json", "4913.yaml",
    "hello~2.yaml", "hello.failed.yaml", "line\nbreak.yaml", "~hello.yaml", "#1.yaml", "my defaults.yaml",
    "defaults.json", "conflict.yaml", "part.yaml", "\udcff.yaml", "tmp.yaml",
]  # fmt: skip
LEFT_ALONE = [
    ".hello.yaml", "._hello.yaml", ".#hello.yaml", "#hello.yaml#", "~$hello.yaml", "hello.sync-conflict-20260101.yaml",
    "hello_conflict-20260101-120000.yaml", "hello (conflicted copy 2026-01-01).yaml", "hello.yaml___jb_tmp___",
    "hello.yaml___jb_old___", "4913", ".hello.yaml.Xy12Zw", "hello.yaml.partial", ".syncthing.hello.yaml.tmp",
    "~syncthing~hello.yaml.tmp", "hello.yaml.filepart", "hello.yaml.part", "hello.yaml.ocTransferId123.part",
    "hello.yaml.lftp-pget-status", "hello.yaml.crdownload", ".nfs0001", ".fuse_hidden0001", ".smbdelete0001",
    ".DS_Store", "Thumbs.db", "desktop.ini", "hello.yaml:Zone.Identifier", "hello.yaml~", "hello.yaml.swp",
    "defaults.yaml", "Defaults.YAML", "hello.txt", "hello", "yaml", "hello.yaml ", "hello.yaml\n",
    "x\n.sync-conflict-1.yaml", "#\nautosave#",
]  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_is_a_job(name: str) -> None:
    assert is_job_name(name)
    assert why_ignored(name) is None


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_is_left_alone_for_a_reason(name: str) -> None:
    assert not is_job_name(name)
    assert why_ignored(name)


@given(st.text(min_size=1))
def test_every_name_is_a_job_or_has_a_reason(name: str) -> None:
    assert is_job_name(name) != bool(why_ignored(name))


@pytest.mark.parametrize("name", ["radio", "hello.yaml", "Récent", "lost", "System"])
def test_is_walked(name: str) -> None:
    assert is_walked(name)


SYSTEM_FOLDERS = [
    ".voicespool", ".~tmp~", ".stfolder", ".Trash-1000", "@eaDir", "#recycle", "#snapshot", "lost+found",
    "$RECYCLE.BIN", "System Volume Information",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_is_not_walked(name: str) -> None:
    assert not is_walked(name)
