"""Ties a worker process to its daemon: it never outlives it, and neither does anything that it starts.

Three ties, since each alone has a hole. The kernel's parent-death signal ends the worker itself, but is not
inherited. A keeper, a tiny process in the worker's own group, waits for the daemon's end of a pipe to close
and then kills the whole group; it works while an engine hangs in C code. And the worker reads an end of file
on its socket as the end of its work.
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
    """Call first thing in the worker, while it has one thread.

    Args:
        daemon_pid: Who started this process.
        life_fd: Reading end of a pipe whose other end only the daemon has; taken over.

    Raises:
        OSError: There is no process left for the keeper.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_NAME, b"voicespool-work")
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon_pid:  # it died before the line above, so no signal will come
        os._exit(1)
    _start_keeper(life_fd, prctl)


def end_group() -> NoReturn:
    """The daemon is gone: end this process and everything that it started, at once."""
    try:
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def _start_keeper(life_fd: int, prctl: ctypes._NamedFuncPointer) -> None:
    """Fork twice, so that an engine which waits for its own children does not meet a stranger among them."""
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
