"""The memory of this process in bytes, as counted by the kernel (`proc_pid_status(5)`).

VmRSS is what is in memory now, anonymous pages and pages of mapped files; VmHWM is its maximum since the last reset,
so that no peak is missed. Both exclude the system's cache of files that were read and are not mapped, which the
system frees when memory is needed.
"""

from __future__ import annotations

import re
from pathlib import Path


def now() -> int:
    """Bytes of this process in memory."""
    return _said("VmRSS")


def most() -> int:
    """The maximum of `now` since `forget`."""
    return _said("VmHWM")


def forget() -> None:
    """Reset `most`."""
    Path("/proc/self/clear_refs").write_text("5")


def _said(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10
