"""What a worker prints, made into log lines: bounded in length and number, whatever it prints.

Libraries print progress bars, warnings and tracebacks, a broken one gigabytes without a line end. None of it
may fill the log, hold the daemon up or forge a line; the last words before a death are kept in any case.
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
LAST_WORDS = 20


class OutputLog:
    """Cuts one stream's bytes into lines and hands them on.

    Args:
        say: Gets each line, safe to print.
        say_dropped: Gets the number of lines that were left out since the last call.
        clock: Seconds that only go up.

    Attributes:
        last_line: What was handed on last, safe to print.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        say_dropped: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._say_dropped, self._clock = say, say_dropped, clock
        self.last_line = ""
        self._partial = b""
        self._cut = False
        self._window_ends_at_s = clock() + WINDOW_S
        self._said = 0
        self._dropped = 0
        self._last_dropped: deque[bytes] = deque(maxlen=LAST_WORDS)

    def feed(self, data: bytes) -> None:
        """Take bytes as they come. A carriage return ends a line too: progress bars use nothing else."""
        *lines, rest = data.replace(b"\r", b"\n").split(b"\n")
        for line in self._thinned(lines):
            self._end_line(self._partial + line)
        self._partial += rest
        if len(self._partial) > LINE_BYTES:
            self._end_line(self._partial)
            self._cut = True  # what follows up to the next line end belongs to a line that was shown already

    def break_line(self) -> None:
        """A job has ended: what it printed last is a line, whether it ended it or not."""
        if self._partial:
            self._end_line(self._partial)

    def finish(self) -> None:
        """The stream has ended: show what is left, and the last of what was left out."""
        self.break_line()
        last_words = list(self._last_dropped)
        self._report_dropped(len(last_words))
        for line in last_words:
            self._show(line)

    def _thinned(self, lines: list[bytes]) -> list[bytes]:
        """Leave out at once what would be dropped one by one: a flood must not cost the daemon its time."""
        middle = lines[LINES_PER_WINDOW:-LAST_WORDS]
        if not middle:
            return lines
        self._dropped += len(middle) - middle.count(b"")
        return lines[:LINES_PER_WINDOW] + lines[-LAST_WORDS:]

    def _end_line(self, line: bytes) -> None:
        self._partial = b""
        was_cut, self._cut = self._cut, False
        if was_cut or not line.strip():
            return
        if self._clock() >= self._window_ends_at_s:
            self._report_dropped()
            self._window_ends_at_s, self._said = self._clock() + WINDOW_S, 0
        if self._said < LINES_PER_WINDOW:
            self._said += 1
            self._show(line)
        else:
            self._dropped += 1
            self._last_dropped.append(line[: LINE_BYTES + 1])

    def _report_dropped(self, shown_after_all: int = 0) -> None:
        if self._dropped > shown_after_all:
            self._say_dropped(self._dropped - shown_after_all)
        self._dropped = 0
        self._last_dropped.clear()

    def _show(self, line: bytes) -> None:
        self.last_line = printable(line[: LINE_BYTES + 1].decode("utf-8", "replace").rstrip(), LINE_CHARS)
        self._say(self.last_line)
