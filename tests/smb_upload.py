"""Writes a file on a share through libsmbclient, as file managers do: each line of stdin when it is read.

Usage: smb_upload.py smb://USER:PASSWORD@SERVER/SHARE/FILE
"""

from __future__ import annotations

import ctypes
import os
import sys

LIBRARY = "libsmbclient.so.0"
NO_QUESTION = ctypes.CFUNCTYPE(None)(lambda: None)
"""Instead of a function that asks for a password: the address has it."""


def upload(url: str) -> None:
    """Write stdin to the file, which stays open until stdin ends."""
    library = ctypes.CDLL(LIBRARY)
    assert library.smbc_init(NO_QUESTION, 0) == 0
    file = library.smbc_open(url.encode(), os.O_WRONLY | os.O_CREAT, 0o644)
    assert file >= 0
    for line in sys.stdin.buffer:
        assert library.smbc_write(file, line, ctypes.c_size_t(len(line))) == len(line)
    assert library.smbc_close(file) == 0


if __name__ == "__main__":
    upload(sys.argv[1])
