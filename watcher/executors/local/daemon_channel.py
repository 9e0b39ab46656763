"""The worker's end of the socket to the daemon."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from watcher.executors.local import lifeline, messages


class DaemonChannel:
    """The worker's end of the socket."""

    def __init__(self, daemon_socket: socket.socket) -> None:
        self._socket = daemon_socket
        self._sending = threading.Lock()
        self._unread = b""
        self._pid = os.getpid()

    def send(self, event: messages.Message) -> None:
        """Wait until the message is sent; from any thread. Raises ValueError for NaN and infinity."""
        line = messages.event_line(event)
        self._leave_if_forked()
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError:
            lifeline.end_group()

    def fileno(self) -> int:
        return self._socket.fileno()

    def next(self) -> dict[str, Any] | None:
        """The next message; None if there is none now. Ends the process when the daemon is gone."""
        while b"\n" not in self._unread:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                lifeline.end_group()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return messages.message_from(line)

    def _leave_if_forked(self) -> None:
        """End a process that an engine forked and that returned from the engine's code: it is not the worker."""
        if os.getpid() != self._pid:
            os._exit(1)
