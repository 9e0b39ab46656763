"""The worker process, `python -m watcher.executors.local.main`: renders orders, and keeps one engine loaded.

Only this process imports engines' libraries. Its output goes to the daemon's log, its messages over a socket (see
`messages`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from watcher.executors.local import lifeline, messages
from watcher.executors.local.channel import DaemonChannel
from watcher.executors.local.render_loop import RenderLoop

OOM_SCORE = 500


def main() -> None:
    """Arguments: the file descriptors of the socket and of the life line, and the daemon's pid."""
    socket_fd, life_fd, daemon_pid = map(int, sys.argv[1:4])
    lifeline.tie_to(daemon_pid, life_fd)
    _configure_process()
    os.set_inheritable(socket_fd, False)
    with socket.socket(fileno=socket_fd) as daemon_socket:
        channel = DaemonChannel(daemon_socket)
        _import_ahead()
        channel.send(messages.Ready())
        RenderLoop(channel).run()


def _configure_process() -> None:
    """No signals, no core files, and the first process to be killed when memory runs out.

    A service manager sends SIGTERM to all processes of a service; the daemon then lets the current chunk finish.
    Handlers that do nothing are used since programs that an engine starts would inherit ignored signals.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _import_ahead() -> None:
    """Import what every order needs before the first order arrives.

    An error here would fail every order. It ends the worker before it is ready, so no job fails.
    """
    import numpy  # noqa: F401
    import sentencex  # noqa: F401

    from engines import registry
    from jobs.render import stream  # noqa: F401

    registry.engines()


if __name__ == "__main__":
    main()
