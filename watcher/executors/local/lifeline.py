"""Ends a worker process, and everything that it started, when its daemon ends.

Three mechanisms, since each alone has a gap. The kernel's parent-death signal kills the worker, but not its children. A
keeper, a tiny process in the worker's group, waits until the daemon's end of a pipe closes, then kills the group; this
works even while an engine hangs in C code. And the worker ends when its socket is at the end of file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_HIGHEST_FD_AT_START = 64


def tie_to(daemon_pid: int, life_fd: int) -> None:
    """Call this first in the worker, while it has one thread.

    Args:
        daemon_pid: The process that started this one.
        life_fd: Reading end of a pipe whose other end only the daemon has; closed here.

    Raises:
        OSError: The keeper can't be started.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_NAME, b"voicespool-work")
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon_pid:  # it died before the line above, so there will be no signal
        os._exit(1)
    _start_keeper(life_fd, prctl)


def end_group() -> NoReturn:
    """Kill this process and everything that it started, since the daemon is gone."""
    try:
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def _start_keeper(life_fd: int, prctl: ctypes._NamedFuncPointer) -> None:
    """Fork twice, so that the keeper is not a child of the worker: an engine may wait for all its children."""
    middle = os.fork()
    if middle:
        os.close(life_fd)
        if os.waitpid(middle, 0)[1]:
            raise OSError(errno.EAGAIN, "no process is left for the keeper of the worker")
        return
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    try:
        prctl(_PR_SET_NAME, b"voicespool-keep")
        os.closerange(0, life_fd)
        os.closerange(life_fd + 1, _HIGHEST_FD_AT_START)
        os.read(life_fd, 1)  # returns when the daemon closes its end or dies
    finally:
        end_group()
