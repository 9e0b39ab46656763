"""The type of file system that a folder is on, from the kernel's list of mounts."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.davfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs", "fuse.smbnetfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
    "virtiofs", "vboxsf", "fuse.vmhgfs-fuse",
}  # fmt: skip


def kind(folder: Path) -> str:
    """Name of the file system's type, such as `ext4` or `nfs4`; "" if /proc is not available."""
    deepest, fs_type = "", ""
    path = os.path.realpath(folder)
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount_point = _unescaped(before.split(" ")[4])
        inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(deepest):  # >=: a later mount at the same path hides the earlier one
            deepest, fs_type = mount_point, after.split(" ")[0]
    return fs_type


def is_network(folder: Path) -> bool:
    """Whether other machines can change the folder without an inotify event (and with cached attributes)."""
    return kind(folder) in NETWORK


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def mount_of(fd: int) -> str:
    """ID of the mount that a descriptor was opened on; "" if the kernel does not report it."""
    words = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    return words[words.index("mnt_id:") + 1] if "mnt_id:" in words else ""
