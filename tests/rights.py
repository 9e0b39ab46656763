"""Owners, modes and access control lists of files, read and written without running a program."""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
VERSION, NOBODY = 2, 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20


@dataclass(frozen=True)
class Rights:
    """Owner, group, mode and access control list of a file or folder."""

    owner: int
    group: int
    mode: str
    acl: bytes
    default_acl: bytes

    @classmethod
    def of(cls, path: Path) -> Rights:
        status = os.lstat(path)
        mode = oct(stat.S_IMODE(status.st_mode))
        return cls(status.st_uid, status.st_gid, mode, _attribute(path, ACCESS), _attribute(path, DEFAULT))


def _attribute(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return b""


def set_default_acl(folder: Path, reader: int) -> None:
    """Let user number `reader` read what is created in the folder. Skips if access control lists are not supported."""
    entries = [(USER_OBJ, 7, NOBODY), (USER, 5, reader), (GROUP_OBJ, 7, NOBODY), (MASK, 7, NOBODY), (OTHER, 0, NOBODY)]
    packed = struct.pack("<I", VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, DEFAULT, packed)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system has no access control lists")
