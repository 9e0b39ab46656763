"""Faults at system calls, in the daemon only. Python loads this file when its folder is on PYTHONPATH.

    KILL_AT=17               kill this process before the 17th call that changes the disk; those for status.json, which
                             is written as often as time goes by, are not counted
    KILL_AT=rename:outbox/   ... before the first such call with this name and this text in its arguments
    KILL_COUNT=FILE          write the number of calls
    FAIL_AT=fsync:outbox/:EIO FAIL_WHILE=FILE   while FILE exists, such calls fail with this error
    CLOCK_FILE=FILE          add the seconds in FILE to the wall clock, read at each call

With a `+` after the number or text, the call is made first. The worker has other arguments and is not affected.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shutil  # noqa: F401 - looks at the calls of os when it is imported, and must see the real ones
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("rename", "fsync", "link", "mkdir", "unlink", "rmdir", "ftruncate", "pwrite")


class _Trouble:
    """The faults, and the calls at which they happen."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.kill_at = environ.get("KILL_AT", "0")
        self.fail_at, _, self.error = environ.get("FAIL_AT", "").rpartition(":")
        self.fail_while = environ.get("FAIL_WHILE", "")
        self.calls = 0

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            words = _words(arguments, keywords)
            is_counted = "status.json" not in words
            self.calls += is_counted
            kill = self._meant(self.kill_at, name, words) and (is_counted or ":" in self.kill_at)
            fail = self._meant(self.fail_at, name, words) and os.path.exists(self.fail_while)
            if kill and not self.kill_at.endswith("+"):
                os.kill(os.getpid(), signal.SIGKILL)
            if fail and not self.fail_at.endswith("+"):
                raise self._error()
            try:
                result = real(*arguments, **keywords)
            finally:
                if kill:
                    os.kill(os.getpid(), signal.SIGKILL)
            if fail:
                raise self._error()
            return result

        return call

    def _meant(self, which: str, name: str, words: str) -> bool:
        called, named, text = which.rstrip("+").partition(":")
        if not named:
            return self.calls == int(called or 0)
        return called == name and text in words

    def _error(self) -> OSError:
        number = getattr(errno, self.error)
        return OSError(number, os.strerror(number))


def _words(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    """The arguments of a call as text; names in an open folder get the folder's path."""
    folders = {0: keywords.get("src_dir_fd", keywords.get("dir_fd")), 1: keywords.get("dst_dir_fd")}
    shown = {at: _shown(fd) for at, fd in folders.items() if fd is not None}
    return " ".join(os.path.join(shown.get(at, ""), _shown(argument)) for at, argument in enumerate(arguments))


def _shown(argument: Any) -> str:
    """A path, the path of a descriptor, or bytes."""
    if isinstance(argument, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{argument}")
    return argument.decode(errors="replace") if isinstance(argument, bytes) else str(argument)


def _arm(environ: dict[str, str]) -> None:
    trouble = _Trouble(environ)
    for name in CALLS:
        setattr(os, name, trouble.around(name, getattr(os, name)))
    if count_file := environ.get("KILL_COUNT"):
        atexit.register(lambda: Path(count_file).write_text(str(trouble.calls)))


def _set_clock(file: Path) -> None:
    now, now_ns = time.time, time.time_ns

    def off_s() -> int:
        return int(file.read_text())

    time.time = lambda: now() + off_s()
    time.time_ns = lambda: now_ns() + off_s() * 10**9


if "run" in sys.orig_argv:
    if {"KILL_AT", "FAIL_AT", "KILL_COUNT"} & set(os.environ):
        _arm(dict(os.environ))
    if "CLOCK_FILE" in os.environ:
        _set_clock(Path(os.environ["CLOCK_FILE"]))
