"""What a stranger can only hope to do at the right moment, done at that moment: while another process is about to open
something, which waits meanwhile (permission events, `fanotify(7)`).
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
    """Call `act`, in a thread of its own, whenever somebody is about to open a file or folder, by whatever name. They
    wait until it returns. Skips where the system does not offer this.
    """
    group = _libc.fanotify_init(_CLASS_CONTENT | _CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
    mask = ctypes.c_uint64(_OPEN_PERM | _ON_FOLDERS)
    if group < 0 or _libc.fanotify_mark(group, _MARK_ADD, mask, _AT_FDCWD, os.fsencode(path)):
        pytest.skip(f"nobody can be stopped at opening a file here: {os.strerror(ctypes.get_errno())}")
    end, ended = os.pipe()
    thread = threading.Thread(target=_answer, args=(group, end, act))
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join(PATIENCE_S)
        os.close(group)  # whoever still waits may go on
        os.close(end)


def _answer(group: int, end: int, act: Callable[[], None]) -> None:
    """Until `end` is closed at its other end."""
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
