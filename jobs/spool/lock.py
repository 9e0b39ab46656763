"""One daemon per inbox: an advisory lock, which the kernel releases when its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from files.opens import opened_regular
from files.printable import printable
from jobs.errors import LockHeld, LockLost


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock of one inbox, held as long as its file is open.

    The file's content names the holder, for messages and for `check`. Only the kernel decides whether the lock is held,
    so a stale file or a reused process ID has no effect.
    """

    path: Path
    fd: int
    token: str

    @classmethod
    def acquire(cls, path: Path) -> Lock:
        """Take the lock.

        Raises:
            LockHeld: Another process has it; the message says which.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(fd)
            token = secrets.token_hex(8)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "token": token}
            holder["started_at"] = datetime.now(UTC).isoformat(timespec="seconds")
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(holder).encode(), 0)
        except BlockingIOError:
            words = _words(_read(path))
            os.close(fd)
            raise LockHeld(f"another daemon has this inbox: {words}") from None
        except BaseException:
            os.close(fd)  # releases the lock, for the next attempt
            raise
        return cls(path, fd, token)

    def check(self) -> None:
        """Check that this process still has the lock; locks on network file systems can expire.

        Raises:
            LockLost: The lock file was removed or replaced, or names another holder.
            OSError: The lock file can't be read.
        """
        # The file could be another one at the same path, with a lock of its own.
        holder: Any = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            if os.path.samestat(os.stat(self.path), os.fstat(self.fd)):
                holder = json.loads(os.pread(self.fd, 4096, 0))
        if not isinstance(holder, dict) or holder.get("token") != self.token:
            raise LockLost(f"this daemon lost its lock on the inbox: {_words(_read(self.path))}")

    def release(self) -> None:
        os.close(self.fd)


def _lock(fd: int) -> None:
    """Lock the file. Retries, because a call of `holder` takes a shared lock for some microseconds."""
    for _ in range(4):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.01)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(path: Path) -> Mapping[str, Any] | None:
    """The holder of the lock: pid, host, started_at; None if the lock is free.

    Raises:
        PermissionError: This user may not open the lock file.
    """
    try:
        with opened_regular(path) as (fd, _status):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except PermissionError:
        raise
    except BlockingIOError:
        return _read(path)
    except OSError:
        return None
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _words(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "the lock file does not name its holder"
    pid, host, since = (printable(holder.get(key, "?"), 80) for key in ("pid", "host", "started_at"))
    return f"process {pid} on {host}, since {since}"
