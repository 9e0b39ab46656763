"""Acts exactly while another process is about to open something, where a stranger would need luck. The process waits
until the act is done (permission events, `fanotify(7)`).
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.spooling import PATIENCE_S

_CLASS_CONTENT, _CLOEXEC = 0x4, 0x1
_MARK_ADD = 0x1
_OPEN_PERM, _ON_FOLDERS = 0x10000, 0x40000000
_ALLOW = 1
_AT_FDCWD = -100
_EVENT = struct.Struct("<IBBHQii")
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def before_each_opening(path: Path, act: Callable[[], None]) -> Iterator[None]:
    """Call `act`, in another thread, whenever a process is about to open this file or folder, by any name. The process
    waits until `act` returns. Skips if the system does not support this.
    """
    group = _libc.fanotify_init(_CLASS_CONTENT | _CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
    mask = ctypes.c_uint64(_OPEN_PERM | _ON_FOLDERS)
    if group < 0 or _libc.fanotify_mark(group, _MARK_ADD, mask, _AT_FDCWD, os.fsencode(path)):
        pytest.skip(f"this system can't suspend processes that open a file: {os.strerror(ctypes.get_errno())}")
    end, ended = os.pipe()
    thread = threading.Thread(target=_answer, args=(group, end, act))
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join(PATIENCE_S)
        os.close(group)  # lets waiting processes continue
        os.close(end)


def _answer(group: int, end: int, act: Callable[[], None]) -> None:
    """Answer events until the other end of `end` is closed."""
    while end not in (ready := select.select([group, end], [], [])[0]):
        assert group in ready
        data = os.read(group, 4096)
        for place in range(0, len(data), _EVENT.size):
            opened = _EVENT.unpack_from(data, place)[5]
            try:
                act()
            finally:
                os.write(group, struct.pack("<iI", opened, _ALLOW))
                os.close(opened)
