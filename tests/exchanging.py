"""What a stranger does to their folder while a spool looks at it. A program, run as another user:

    exchanging.py FOLDER OTHER NAME TURNS    a new NAME.cancel in FOLDER, which then takes turns with OTHER

It needs only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
_nothing_happens = threading.Event()


def swap(path: Path, other: Path) -> None:
    """Exchange two names atomically, for instance a folder and a link."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


def cancel_and_exchange(folder: Path, other: Path, name: str, turns: int) -> None:
    for turn in range(turns):
        (folder / f"{name}.cancel").touch()
        pass_time(turn)
        swap(folder, other)
        pass_time(turn // 2)
        swap(folder, other)


def pass_time(turn: int) -> None:
    """Pause for up to two milliseconds, different each turn; without pauses nobody else could use the folder."""
    _nothing_happens.wait(turn * 7919 % 2000 / 1e6)


if __name__ == "__main__":
    cancel_and_exchange(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
