"""Trouble in the worker before it is ready, in no other process. Python loads this when the folder is on PYTHONPATH.

START_FAULT=exit|kill|hang|import|rubbish  START_WHILE=FILE   while FILE exists, each worker breaks in this way
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _break(fault: str) -> None:
    if fault == "exit":
        sys.stderr.write("a library that the worker needs is damaged\n")
        sys.stderr.flush()
        os._exit(7)
    elif fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        threading.Event().wait()
    elif fault == "import":
        sys.modules["numpy"] = None  # type: ignore[assignment]
    elif fault == "rubbish":
        os.write(int(sys.orig_argv[-3]), b'{"say": "loaded", "job_id": "x", "load_s": 0}\n')


if "watcher.executors.local.main" in sys.orig_argv and os.path.exists(os.environ["START_WHILE"]):
    _break(os.environ["START_FAULT"])
