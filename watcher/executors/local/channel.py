"""The daemon's end of the socket to its worker: whole lines in, whole lines out, never waiting."""

from __future__ import annotations

import socket

from watcher.executors.local.messages import MAX_MESSAGE_BYTES, NotAMessage

READ_BYTES = 1 << 16


class WorkerChannel:
    """Buffers both ways.

    Args:
        channel: A connected, non-blocking stream socket; stays the caller's.

    Attributes:
        hung_up: Whether the other side has closed; nothing is sent or read any more then.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unsent = memoryview(b"")
        self._unread = bytearray()
        self._searched_bytes = 0
        self.hung_up = False

    @property
    def is_pending(self) -> bool:
        """Whether something waits for room on the socket."""
        return len(self._unsent) > 0 and not self.hung_up

    def send(self, line: bytes) -> None:
        """Send as much as there is room for; `flush` sends the rest."""
        self._unsent = memoryview(bytes(self._unsent) + line)
        self.flush()

    def flush(self) -> None:
        """Go on sending."""
        try:
            while self.is_pending:
                self._unsent = self._unsent[self._channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")  # the other side is gone; reading says when all it said is read

    def read(self, reads: int) -> list[bytes]:
        """Lines that have come, without their ends, after at most so many reads of 64 KiB.

        Raises:
            NotAMessage: More than `MAX_MESSAGE_BYTES` without a line end.
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
                raise NotAMessage(f"more than {MAX_MESSAGE_BYTES >> 20} MiB without a line end")
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
