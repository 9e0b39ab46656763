"""Simulates a file system with another owner: `python refusing.py COMMAND…` runs a command whose attempts to set
permissions or times are all refused by the kernel (seccomp) with EPERM, as on many SMB mounts and FAT.

This applies to its children too. Needs only the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping, Sequence

# chmod, fchmod, fchmodat, fchmodat2; utime, utimes, futimesat, utimensat
CALLS: Mapping[str, Sequence[int]] = {
    "x86_64": (90, 91, 268, 452, 132, 235, 261, 280),
    "aarch64": (52, 53, 452, 88),
}
WORDS = (sys.executable, __file__)
"""To put before a command."""

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse(numbers: Sequence[int]) -> None:
    """Let the kernel answer these system calls of this process and its children with EPERM."""
    refused, allowed = _instruction(_RETURN, _ERROR | errno.EPERM), _instruction(_RETURN, _ALLOW)
    looks = [_instruction(_JUMP_IF_EQUAL, number, if_not=1) + refused for number in numbers]
    code = _instruction(_LOAD, 0) + b"".join(looks) + allowed
    program = _Program(len(code) // 8, code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "this system filters no calls")


def _instruction(code: int, value: int, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, 0, if_not, value)


if __name__ == "__main__":
    refuse(CALLS[platform.machine()])
    os.execvp(sys.argv[1], sys.argv[1:])
