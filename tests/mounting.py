"""Private file systems for a test: real mounts that no other process sees, removed at the end."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000


@contextmanager
def private_mounts() -> Iterator[None]:
    """Give this thread, and the processes that it starts, private mounts. Skips if not permitted."""
    here = os.getcwd()
    try:
        with _apart("mnt", CLONE_NEWNS, "make mounts"):
            command("mount", "--make-rprivate", "/")
            yield
    finally:
        os.chdir(here)


@contextmanager
def private_network() -> Iterator[None]:
    """Give this thread, and the processes that it starts, a private network with only a loopback address:
    every port is free, and other processes can't reach it. Skips if not permitted.
    """
    with _apart("net", CLONE_NEWNET, "make a network"):
        command("ip", "link", "set", "lo", "up")
        yield


@contextmanager
def _apart(kind: str, flag: int, what: str) -> Iterator[None]:
    """Put this thread into a new namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(flag):
            pytest.skip(f"this user can't {what} here: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            if libc.setns(outside, flag):
                raise OSError(ctypes.get_errno(), f"the test can't come back from where it could {what}")
    finally:
        os.close(outside)


def command(*words: str | Path) -> None:
    """Run a program that must succeed."""
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(map(str, words))}: {ran.stderr}"


def mount_tmpfs(folder: Path, options: str = "size=4m,mode=755") -> None:
    """Mount an empty file system in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    command("mount", "-t", "tmpfs", "-o", options, "voicespool-test", folder)


def mount_again(share: Path, folder: Path) -> None:
    """Mount at `folder` what is mounted at `share`, as a share that is back."""
    folder.mkdir(parents=True, exist_ok=True)
    command("mount", "--bind", share, folder)


def unmount(folder: Path) -> None:
    """Unmount a file system even if it is in use, as if its server were switched off."""
    command("umount", "--lazy", folder)


def make_disk(image: Path, *options: str) -> None:
    """Make an ext4 file system of 20 MB in a file. Skips if not possible."""
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("mkfs.ext4 or loop devices are missing here")
    image.parent.mkdir(parents=True, exist_ok=True)
    command("truncate", "-s", "20M", image)
    command("mkfs.ext4", "-q", "-b", "1024", "-O", "^has_journal,^extents,^metadata_csum,^64bit", *options, image)


def mount_disk(image: Path, folder: Path) -> None:
    """Mount a file of `make_disk` through a loop device. Skips if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no loop device can be mounted here: {mounted.stderr.strip()}")


def make_disk_with_an_unreadable_file(image: Path, folder: Path, name: str) -> None:
    """Mount a disk at `folder` on which the content of one file is beyond the end of the device.

    No other file can be there, since those blocks are marked as bad.
    """
    bad_blocks = image.with_name("bad-blocks")
    bad_blocks.parent.mkdir(parents=True, exist_ok=True)
    bad_blocks.write_text("\n".join(map(str, range(12000, 20480))))
    make_disk(image, "-l", str(bad_blocks))
    mount_disk(image, folder)
    (folder / name).write_text("text: Lies where the disk ends.\n")
    command("umount", folder)
    command("debugfs", "-w", "-R", f"set_inode_field {name} block[0] 18000", image)
    mount_disk(image, folder)
    os.truncate(image, 10 << 20)
