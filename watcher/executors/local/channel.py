"""The two ends of the socket between the daemon and its worker."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import Any, NoReturn

from watcher.executors.local import lifeline, messages
from watcher.executors.local.messages import MAX_MESSAGE_BYTES, InvalidMessage

READ_BYTES = 1 << 16


class WorkerChannel:
    """The daemon's end: sends and receives whole lines without blocking, and buffers both directions.

    Args:
        channel: A connected, non-blocking stream socket; the caller closes it.

    Attributes:
        hung_up: Whether the worker has closed its end. Then nothing is sent or received any more.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unsent = memoryview(b"")
        self._unread = bytearray()
        self._searched_bytes = 0
        self.hung_up = False

    @property
    def is_pending(self) -> bool:
        """Whether bytes wait for room on the socket."""
        return len(self._unsent) > 0 and not self.hung_up

    def send(self, line: bytes) -> None:
        """Send what the socket has room for; `flush` sends the rest."""
        self._unsent = memoryview(bytes(self._unsent) + line)
        self.flush()

    def flush(self) -> None:
        """Send more of what is pending."""
        try:
            while self.is_pending:
                self._unsent = self._unsent[self._channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")  # the worker is gone; `read` sets `hung_up` after its last line

    def read(self, reads: int) -> list[bytes]:
        """Received lines without their line ends, after at most `reads` reads of 64 KiB.

        Raises:
            InvalidMessage: More than `MAX_MESSAGE_BYTES` without a line end.
        """
        for _ in range(reads):
            data = self._receive()
            if not data:
                break
            self._unread += data
        end = self._unread.rfind(b"\n", self._searched_bytes)
        if end < 0:
            self._searched_bytes = len(self._unread)
            if len(self._unread) > MAX_MESSAGE_BYTES:
                raise InvalidMessage(f"more than {MAX_MESSAGE_BYTES >> 20} MiB without a line end")
            return []
        lines = bytes(self._unread[:end]).split(b"\n")
        del self._unread[: end + 1]
        self._searched_bytes = 0
        return lines

    def _receive(self) -> bytes:
        if self.hung_up:
            return b""
        try:
            data = self._channel.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.hung_up = not data
        return data


class DaemonChannel:
    """The worker's end. When the daemon is gone, the process ends.

    Methods raise OSError (EBADF) if code of an engine has closed the socket.
    """

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
        except OSError as error:
            _end_unless_closed_here(error)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_open(self) -> bool:
        """Whether no code of an engine has closed the descriptor."""
        try:
            os.fstat(self.fileno())
        except OSError:
            return False
        return True

    def next(self) -> dict[str, Any] | None:
        """The next message; None if there is none now."""
        while b"\n" not in self._unread:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                _end_unless_closed_here(error)
            if not data:
                lifeline.end_group()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return messages.message_from(line)

    def _leave_if_forked(self) -> None:
        """End a process that an engine forked and that returned from the engine's code: it is not the worker."""
        if os.getpid() != self._pid:
            os._exit(1)


def _end_unless_closed_here(error: OSError) -> NoReturn:
    if error.errno == errno.EBADF:
        raise error
    lifeline.end_group()
