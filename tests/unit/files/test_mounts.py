"""What a folder lies on, from the kernel's own list and from lists of other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from files import mounts


def test_this_machines_folders() -> None:
    assert mounts.kind(Path("/proc/self")) == "proc"
    assert mounts.kind(Path("/")) != ""
    assert not mounts.is_network(Path("/proc"))


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /mnt rw - nfs4 server:/export rw
31 30 0:31 / /mnt/local rw - xfs /dev/sdb1 rw
32 22 0:32 / /mnt2 rw - ext4 /dev/sdc1 rw
33 22 0:33 / /with\040space rw - cifs //server/share rw
34 22 0:34 / /twice rw - ext4 /dev/sdd1 rw
35 34 0:35 / /twice rw master:5 propagate_from:2 - fuse.sshfs user@host: rw
36 22 0:36 / /café\134x rw - 9p share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind", "network"),
    [
        ("/home", "ext4", False),
        ("/mnt", "nfs4", True),
        ("/mnt/inbox", "nfs4", True),
        ("/mnt/local/inbox", "xfs", False),
        ("/mnt2", "ext4", False),
        ("/with space/inbox", "cifs", True),
        ("/twice", "fuse.sshfs", True),
        ("/café\\x/inbox", "9p", True),
    ],
)
def test_other_machines_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str, network: bool
) -> None:
    """The innermost mount counts, and of two in one place the later."""
    (tmp_path / "mountinfo").write_text(MOUNTS.strip() + "\n", encoding="utf-8")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr("os.path.realpath", str)
    assert mounts.kind(Path(folder)) == kind
    assert mounts.is_network(Path(folder)) is network


def test_a_link_is_on_the_file_system_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert mounts.kind(tmp_path / "link") == "proc"


def test_a_kernel_that_does_not_say_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "gone")
    assert mounts.kind(tmp_path) == ""
    assert not mounts.is_network(tmp_path)
