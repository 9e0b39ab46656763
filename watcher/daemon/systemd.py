"""Notifications to systemd over its datagram socket; see sd_notify(3) and sd_watchdog_enabled(3).

Without systemd (`$NOTIFY_SOCKET` unset) nothing is sent and nothing fails.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from files.printable import printable

SEND_TIMEOUT_S = 1.0
"""systemd reads at once; the daemon must not block on a socket that nobody reads."""

STATUS_CHARS = 200


def ready(status: str = "") -> bool:
    """Notify that start or reload is finished."""
    return _notify("READY=1", *_status_line(status))


def reloading() -> bool:
    """Notify that the configuration is being read again; `ready()` must follow."""
    return _notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str = "") -> bool:
    """Notify that the daemon is stopping."""
    return _notify("STOPPING=1", *_status_line(status))


def watchdog() -> bool:
    """Notify that the loop is alive."""
    return _notify("WATCHDOG=1")


def status(text: str) -> bool:
    """Set the line that `systemctl status` shows."""
    return _notify(*_status_line(text))


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to call `watchdog()`: half of what systemd allows; None without a watchdog for this process."""
    try:
        allowed_us = int(environ["WATCHDOG_USEC"])
        watched_pid = int(environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return allowed_us / 2e6 if allowed_us > 0 and watched_pid == os.getpid() else None


def _status_line(text: str) -> tuple[str, ...]:
    """One `STATUS=` line. A line end in the text would start another variable, hence `printable`."""
    return (f"STATUS={printable(text, STATUS_CHARS)}",) if text else ()


def _notify(*lines: str) -> bool:
    """Send lines to `$NOTIFY_SOCKET`; True when they were sent."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not lines or address[:1] not in {"/", "@"}:
        return False
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(SEND_TIMEOUT_S)
            channel.sendto("\n".join(lines).encode("utf-8", "replace"), address)
    except (OSError, ValueError):
        return False
    return True
