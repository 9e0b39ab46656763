"""Kill this process at the n-th call that changes the disk. Loaded by Python itself when this folder is on PYTHONPATH.

`KILL_AT=17` kills before the 17th call, `KILL_AT=17+` right after it; `KILL_COUNT=FILE` writes how many there were. Only
the daemon is meant: its worker is started with other arguments.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("rename", "fsync", "link", "mkdir", "unlink", "rmdir", "ftruncate")


def _arm(at: str, count_file: str | None) -> None:
    number, after = int(at.rstrip("+") or 0), at.endswith("+")
    seen = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal seen
            seen += 1
            mine = seen == number
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **keywords)
            finally:
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    if count_file is not None:
        atexit.register(lambda: Path(count_file).write_text(str(seen)))


if "KILL_AT" in os.environ and "run" in sys.orig_argv:
    _arm(os.environ["KILL_AT"], os.environ.get("KILL_COUNT"))
