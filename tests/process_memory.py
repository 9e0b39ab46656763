"""How much memory this process takes, in bytes, as the kernel counts it (`proc_pid_status(5)`).

VmRSS is what is in memory now, anonymous pages and those of mapped files alike; VmHWM is the most that it was since
somebody set it back, so that no peak falls between two looks. What is not in it is the system's cache of files that
were read and are not mapped: it is given up as soon as anybody needs memory.
"""

from __future__ import annotations

import re
from pathlib import Path


def now() -> int:
    """Bytes of this process in memory."""
    return _said("VmRSS")


def most() -> int:
    """The highest that `now` has been since `forget`."""
    return _said("VmHWM")


def forget() -> None:
    """Let `most` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _said(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10
