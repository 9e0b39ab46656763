"""Turns a worker's output into log lines, bounded in length and number.

Libraries print progress bars, warnings and tracebacks; a broken one may print gigabytes without a line end. Output must
not fill the log, delay the daemon or forge a log line. The last lines before the worker's death are always kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from files.printable import printable

LINE_CHARS = 1000
LINE_BYTES = 4 * LINE_CHARS
WINDOW_S = 10.0
LINES_PER_WINDOW = 100
LAST_LINES = 20


class OutputLog:
    """Divides the bytes of one stream into lines.

    Args:
        write: Called with each line, printable.
        write_dropped: Called with the number of lines dropped since the last call.
        clock: Monotonic seconds.

    Attributes:
        last_line: The last line that was written, printable.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        write_dropped: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._write_dropped, self._clock = write, write_dropped, clock
        self.last_line = ""
        self._partial = b""
        self._cut = False
        self._window_ends_at_s = clock() + WINDOW_S
        self._written = 0
        self._dropped = 0
        self._last_dropped: deque[bytes] = deque(maxlen=LAST_LINES)

    def feed(self, data: bytes) -> None:
        """Process bytes. A carriage return ends a line too, as in progress bars."""
        *lines, rest = data.replace(b"\r", b"\n").split(b"\n")
        for line in self._thinned(lines):
            self._end_line(self._partial + line)
        self._partial += rest
        if len(self._partial) > LINE_BYTES:
            self._end_line(self._partial)
            self._cut = True  # the rest of this line, up to its end, is not written

    def break_line(self) -> None:
        """End the current line, since the job that printed it has ended."""
        if self._partial:
            self._end_line(self._partial)

    def finish(self) -> None:
        """End the stream: write what is left, and the last dropped lines."""
        self.break_line()
        last_lines = list(self._last_dropped)
        self._report_dropped(len(last_lines))
        for line in last_lines:
            self._write_line(line)

    def _thinned(self, lines: list[bytes]) -> list[bytes]:
        """Drop the middle of many lines at once, which takes less time than one by one."""
        middle = lines[LINES_PER_WINDOW:-LAST_LINES]
        if not middle:
            return lines
        self._dropped += len(middle) - middle.count(b"")
        return lines[:LINES_PER_WINDOW] + lines[-LAST_LINES:]

    def _end_line(self, line: bytes) -> None:
        self._partial = b""
        was_cut, self._cut = self._cut, False
        if was_cut or not line.strip():
            return
        if self._clock() >= self._window_ends_at_s:
            self._report_dropped()
            self._window_ends_at_s, self._written = self._clock() + WINDOW_S, 0
        if self._written < LINES_PER_WINDOW:
            self._written += 1
            self._write_line(line)
        else:
            self._dropped += 1
            self._last_dropped.append(line[: LINE_BYTES + 1])

    def _report_dropped(self, still_written: int = 0) -> None:
        if self._dropped > still_written:
            self._write_dropped(self._dropped - still_written)
        self._dropped = 0
        self._last_dropped.clear()

    def _write_line(self, line: bytes) -> None:
        self.last_line = printable(line[: LINE_BYTES + 1].decode("utf-8", "replace").rstrip(), LINE_CHARS)
        self._write(self.last_line)
