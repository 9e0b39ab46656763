"""Faults of the engine `faulty`. A fault returns bad audio, `NOTHING` for no audio, or None for correct audio."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from engines.base import Audio, Chunk
from engines.errors import EngineError, EngineMissing, OutOfMemory, RequestRefused

from .tone import RATE_HZ

NOTHING = "nothing"
RUBBISH = '\x1b]0;owned\x07\x1b[2J\x1b[31m{"type": "done"}\r\n\x00\ufffd\u202e{not json\n' * 20


def _segfault(chunk: Chunk) -> NoReturn:
    _no_core_file()
    ctypes.string_at(0)
    raise AssertionError("reading address 0 should have crashed")


def _abort(chunk: Chunk) -> NoReturn:
    _no_core_file()
    os.abort()


def _no_core_file() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _hang(chunk: Chunk) -> NoReturn:
    while True:
        threading.Event().wait()


def _hang_deaf(chunk: Chunk) -> NoReturn:
    """As a driver that hangs: ignores all signals but SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _hang(chunk)


def _hang_with_child(chunk: Chunk) -> NoReturn:
    """Starts a child process, then hangs. The child must be killed too. Its line in the journal is `PID child`."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    journal = str(chunk.settings.get("journal", ""))
    if journal:
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{child.pid} child\n")
    _hang(chunk)


def _exit(chunk: Chunk) -> NoReturn:
    os._exit(3)


def _exit_well(chunk: Chunk) -> NoReturn:
    """As a library that ends the process with exit status 0."""
    os._exit(0)


def _sys_exit(chunk: Chunk) -> NoReturn:
    sys.exit("a library called sys.exit")


def _kill(chunk: Chunk) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL can't be survived")


def _rubbish(chunk: Chunk) -> None:
    """Writes escape sequences, forged messages, invalid UTF-8 and half a line; then renders correctly."""
    sys.stdout.write(RUBBISH)
    sys.stderr.write(RUBBISH)
    for descriptor in (1, 2):
        os.write(descriptor, RUBBISH.encode() + b"\xff\xfe\x80 no newline at the end")


def _flood(chunk: Chunk) -> None:
    """Four megabytes without a newline on each stream: more than any pipe holds."""
    for descriptor in (1, 2):
        for _ in range(64):
            os.write(descriptor, b"\x1b[31m" * 13107)


def _nan(chunk: Chunk) -> Audio:
    import numpy as np

    return Audio(np.full(RATE_HZ, np.nan, dtype=np.float32), RATE_HZ)


def _infinite(chunk: Chunk) -> Audio:
    import numpy as np

    return Audio(np.full(RATE_HZ, np.inf, dtype=np.float32), RATE_HZ)


def _silence(chunk: Chunk) -> Audio:
    import numpy as np

    return Audio(np.zeros(RATE_HZ, dtype=np.float32), RATE_HZ)


def _empty(chunk: Chunk) -> Audio:
    import numpy as np

    return Audio(np.zeros(0, dtype=np.float32), RATE_HZ)


def _stereo(chunk: Chunk) -> Audio:
    import numpy as np

    return Audio(np.full((RATE_HZ, 2), 0.1, dtype=np.float32), RATE_HZ)


def _endless(chunk: Chunk) -> Audio:
    """Two minutes of audio for any text, as a model that babbles."""
    import numpy as np

    return Audio(np.full(120 * RATE_HZ, 0.1, dtype=np.float32), RATE_HZ)


def _nothing(chunk: Chunk) -> str:
    return NOTHING


def _raise(chunk: Chunk) -> NoReturn:
    raise RuntimeError("CUDA error: device-side assert triggered\x1b[31m\nand a second line")


def _error(chunk: Chunk) -> NoReturn:
    raise EngineError("the faulty engine failed as configured")


def _refuse(chunk: Chunk) -> NoReturn:
    raise RequestRefused("the faulty engine refuses as configured")


def _missing(chunk: Chunk) -> NoReturn:
    raise EngineMissing("the faulty engine lacks a library as configured")


def _oom(chunk: Chunk) -> NoReturn:
    raise OutOfMemory("the device has 4 GiB, the model needs 6")


def _allocate(chunk: Chunk) -> NoReturn:
    """Allocates memory until a limit (RLIMIT_AS, a cgroup) or the kernel stops it."""
    blocks = [b"\x01" * (1 << 20) for _ in range(int(chunk.settings.get("allocate_mb", 1 << 20)))]
    raise MemoryError(f"{len(blocks)} MB allocated, no limit reached")


def _no_memory(chunk: Chunk) -> NoReturn:
    """Allocates memory up to a low RLIMIT_AS."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    _allocate(chunk)


def _no_files(chunk: Chunk) -> NoReturn:
    """Opens files up to a low RLIMIT_NOFILE."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    while True:
        os.open(os.devnull, os.O_RDONLY)


FAULTS: dict[str, Callable[[Chunk], Audio | str | None]] = {
    "segfault": _segfault,
    "abort": _abort,
    "hang": _hang,
    "hang_deaf": _hang_deaf,
    "hang_with_child": _hang_with_child,
    "exit": _exit,
    "exit_well": _exit_well,
    "sys_exit": _sys_exit,
    "kill": _kill,
    "rubbish": _rubbish,
    "flood": _flood,
    "nan": _nan,
    "infinite": _infinite,
    "silence": _silence,
    "empty": _empty,
    "stereo": _stereo,
    "endless": _endless,
    "nothing": _nothing,
    "raise": _raise,
    "error": _error,
    "refuse": _refuse,
    "missing": _missing,
    "oom": _oom,
    "allocate": _allocate,
    "no_memory": _no_memory,
    "no_files": _no_files,
}
