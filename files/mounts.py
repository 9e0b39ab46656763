"""What kind of file system a folder lies on, as the kernel's list of mounts tells."""

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
    """Name of the file system's type, such as `ext4` or `nfs4`; "" where the kernel does not say."""
    best, found = "", ""
    path = os.path.realpath(folder)
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount_point = _unescaped(before.split(" ")[4])
        inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):  # of two mounts in one place the later is seen
            best, found = mount_point, after.split(" ")[0]
    return found


def is_network(folder: Path) -> bool:
    """Whether other machines may change the folder unseen: no events, attributes cached."""
    return kind(folder) in NETWORK


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def mount_of(fd: int) -> str:
    """The number of the mount that a descriptor was opened on; "" where the system tells none."""
    told = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    return told[told.index("mnt_id:") + 1] if "mnt_id:" in told else ""
