"""Signals for the daemon: SIGTERM or SIGINT stops it after the current chunk, a second one at once; SIGHUP reloads."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Signals:
    """Signals received so far; `fd` is readable after each."""

    stop: bool = False
    kill: bool = False
    reload: bool = False
    fd: int = -1
    _write: int = -1
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Signals:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._write)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        elif self.stop:
            self.kill = True
        else:
            self.stop = True

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
