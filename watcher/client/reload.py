"""`voicespool reload`: asks the running daemon to read config.yaml again, and waits for its answer."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from files.printable import printable
from jobs.errors import SpoolError
from jobs.spool import lock
from watcher.client import status
from watcher.client.status import Settings
from watcher.config.settings import Config

ANSWER_S = 30.0
LOOK_S = 0.1


_ANOTHER_USERS = (
    "the daemon belongs to another user",
    "Run this as that user or as root, or use `systemctl reload voicespool`.",
)


class NotReloaded(SpoolError):
    """No daemon could be asked, or it did not answer."""

    code = "not_reloaded"
    exit_code = 1


def reload(config: Config, pause: Callable[[float], None] = time.sleep) -> Settings:
    """Ask the daemon of this inbox, and wait for its answer.

    Returns:
        `config` of its status.json, written after the reading.

    Raises:
        NotReloaded: None runs, it runs elsewhere or as another user, or it has not answered for half a minute.
    """
    try:
        holder = lock.holder(config.state_dir / "lock")
    except PermissionError:
        raise NotReloaded(*_ANOTHER_USERS) from None
    if holder is None:
        raise NotReloaded("no daemon is running for this inbox", "It reads config.yaml when it starts.")
    pid = _process(holder, config.state_dir / "lock")
    before = status.read(config.state_dir).config
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + ANSWER_S
    while (answer := status.read(config.state_dir).config) is None or (before and answer.read_at == before.read_at):
        if time.monotonic() > deadline:
            raise NotReloaded(
                f"the daemon (process {pid}) has not answered within {ANSWER_S:g} s",
                "Its log reports whether it read the file; `voicespool status` shows whether it is on hold.",
            )
        pause(LOOK_S)
    return answer


def _process(holder: Mapping[str, Any], path: Path) -> int:
    """The daemon's process. Its number comes from a file, so it must prove to be the daemon's: it has the lock open.

    Raises:
        NotReloaded: It is another machine's or another user's, or unknown.
    """
    pid, host = holder.get("pid"), holder.get("host")
    if host != socket.gethostname():
        raise NotReloaded(f"the daemon runs on {printable(host, 80)}", "Run this command there.")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid < 2:
        raise NotReloaded("the lock does not name the daemon's process", "Send SIGHUP to the daemon, or restart it.")
    try:
        if any(_is_same(f"/proc/{pid}/fd/{fd}", path) for fd in os.listdir(f"/proc/{pid}/fd")):
            return pid
    except PermissionError:
        raise NotReloaded(*_ANOTHER_USERS) from None
    except OSError:
        pass
    raise NotReloaded(
        f"process {pid} is not the daemon of this inbox; the daemon may run in a container",
        "Run this command where the daemon runs, or restart the daemon.",
    )


def _is_same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
