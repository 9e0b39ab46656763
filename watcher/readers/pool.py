"""The daemon's handle on its readers: processes for job files that may take long, such as those that name a model.

One reader for small files and one for large files, so that small files never wait for large ones. A reader is started
when it is needed, ends when it has been idle, and is replaced when a file kills it or takes too long. No call blocks
for longer than `END_WAIT_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, cast

from files.tree import Problem
from jobs.errors import JobInvalid
from jobs.spool.reading import Reading, unpacked
from watcher.config.settings import Config
from watcher.executors.local.process import environment_of
from watcher.log import log
from watcher.readers.main import LENGTH

LARGE_BYTES = 64 << 10
MAX_SMALL, MAX_LARGE = 256, 16  # waiting files; at most about 16 MiB in each lane
IDLE_S = 60.0
START_AGAIN_S = 2.0
MAX_ANSWER_S = 600.0
END_WAIT_S = 0.5
READ_BYTES = 1 << 18
MAX_TRIES = 2
MAX_ANSWER_BYTES = 64 << 20


@dataclass(slots=True)
class _Request:
    data: bytes
    suffix: str
    reading: Reading
    tries: int = 0

    def refuse(self, sentence: str) -> None:
        self.reading.end(JobInvalid([Problem(sentence)]))


class Readers:
    """Both readers; see `jobs.spool.reading.Reader`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._epoll = select.epoll()
        self._small, self._large = _Lane(self, nice=0), _Lane(self, nice=10)

    def fileno(self) -> int:
        """A descriptor that is readable when `step` has something to do; also call `step` every few seconds."""
        return self._epoll.fileno()

    def ask(self, data: bytes, suffix: str) -> Reading:
        """Have a job file read. The reading ends in a later call of `step`."""
        request = _Request(data, suffix, Reading())
        lane = self._lane(len(data))
        lane.queue.append(request)
        lane.step()
        return request.reading

    def is_full(self, size_bytes: int) -> bool:
        """Whether no more files of this size should be added now."""
        lane = self._lane(size_bytes)
        return len(lane.queue) >= (MAX_LARGE if lane is self._large else MAX_SMALL)

    def _lane(self, size_bytes: int) -> _Lane:
        return self._large if size_bytes > LARGE_BYTES else self._small

    def step(self) -> None:
        """Send requests and receive answers, without blocking."""
        self._small.step()
        self._large.step()

    @property
    def trouble(self) -> str:
        """Why waiting files can't be read; "" when they can, or none waits."""
        return next((lane.trouble for lane in (self._small, self._large) if lane.queue and lane.trouble), "")

    def configure(self, config: Config) -> None:
        """Use another configuration. Files that are being read are read again."""
        self.config = config
        self._small.end()
        self._large.end()

    def close(self) -> None:
        self._small.end()
        self._large.end()
        self._epoll.close()

    def watch(self, descriptor: int, events: int) -> None:
        with contextlib.suppress(FileExistsError):
            self._epoll.register(descriptor, events)
        self._epoll.modify(descriptor, events)


@dataclass(slots=True)
class _Process:
    """One reader, with buffers for both directions.

    Attributes:
        is_ready: Whether it has read the configuration.
    """

    popen: subprocess.Popen[bytes]
    unsent: bytearray = field(default_factory=bytearray)
    unread: bytearray = field(default_factory=bytearray)
    is_ready: bool = False

    @classmethod
    def start(cls, nice: int, config: Config) -> _Process:
        """Raises OSError when a process can't be started now."""
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "watcher.readers.main", str(nice)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            start_new_session=True, env=environment_of(os.environ),
        )  # fmt: skip
        started = cls(popen)
        os.set_blocking(started.stdin, False)
        os.set_blocking(started.stdout, False)
        started.send(pickle.dumps(config))
        return started

    @property
    def stdin(self) -> int:
        return cast(IO[bytes], self.popen.stdin).fileno()

    @property
    def stdout(self) -> int:
        return cast(IO[bytes], self.popen.stdout).fileno()

    def send(self, frame: bytes) -> None:
        self.unsent += LENGTH.pack(len(frame)) + frame

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # `receive` notices the end of the process
            while self.unsent:
                del self.unsent[: os.write(self.stdin, self.unsent[:READ_BYTES])]

    def receive(self) -> bool:
        """Read what is there; False at the end of the file."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.stdout, READ_BYTES):
                self.unread += data
            return False
        return True

    def frames(self) -> Iterator[bytes]:
        while len(self.unread) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self.unread)[0]
            if len(self.unread) < end:
                return
            frame = bytes(self.unread[LENGTH.size : end])
            del self.unread[:end]
            yield frame

    def end(self) -> int | None:
        """Kill and reap it.

        Returns:
            Its exit code, or minus the signal's number; None while the kernel keeps it, usually because a disk does not
            respond. It must then be reaped later.
        """
        self.popen.kill()
        for stream in (self.popen.stdin, self.popen.stdout):
            cast(IO[bytes], stream).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.popen.wait(END_WAIT_S)
        return None


@dataclass(slots=True)
class _Lane:
    """Requests that one reader answers, in order.

    Attributes:
        since_s: When the reader was started, got its current request or gave its last answer, monotonic.
        start_at_s: When the next reader may be started, monotonic.
        lingering: Killed readers that the kernel still keeps.
        trouble: Why no reader can be started; "" otherwise.
    """

    readers: Readers
    nice: int
    queue: deque[_Request] = field(default_factory=deque)
    current: _Request | None = None
    process: _Process | None = None
    since_s: float = 0.0
    start_at_s: float = 0.0
    lingering: list[subprocess.Popen[bytes]] = field(default_factory=list)
    trouble: str = ""

    def step(self) -> None:
        now_s = time.monotonic()
        self.lingering = [popen for popen in self.lingering if popen.poll() is None]
        if self.process is None and (not self.queue or now_s < self.start_at_s or not self._start(now_s)):
            return
        assert self.process is not None  # noqa: S101 - started above
        if self.process.is_ready and self.current is None and self.queue:
            self._send(self.queue.popleft(), now_s)
        self.process.flush()
        is_open = self.process.receive()
        for frame in self.process.frames():
            self._accept(frame, now_s)
        limit_s = MAX_ANSWER_S if self.current else IDLE_S
        if not is_open:
            self._clean_up(now_s)
        elif len(self.process.unread) > MAX_ANSWER_BYTES or now_s - self.since_s > limit_s:
            self._give_up()
        else:
            self.readers.watch(self.process.stdin, select.EPOLLOUT if self.process.unsent else 0)

    def end(self) -> int | None:
        """End the reader; the next one reads its current file again."""
        if self.current is not None:
            self.queue.appendleft(self.current)
            self.current = None
        process, self.process = self.process, None
        if process is None:
            return None
        if (code := process.end()) is None:
            self.lingering.append(process.popen)
        return code

    def _start(self, now_s: float) -> bool:
        self.since_s, self.start_at_s = now_s, now_s + START_AGAIN_S
        try:
            self.process = _Process.start(self.nice, self.readers.config)
            self.readers.watch(self.process.stdout, select.EPOLLIN)
        except OSError as error:
            self._set_trouble(f"the process that reads job files can't be started: {error.strerror}")
            self.end()
            return False
        return True

    def _set_trouble(self, reason: str) -> None:
        if reason != self.trouble:
            log.warning("large job files and those that name a model have to wait", action="reader", reason=reason)
        self.trouble = reason

    def _send(self, request: _Request, now_s: float) -> None:
        assert self.process is not None  # noqa: S101 - the caller has checked
        self.current, self.since_s = request, now_s
        frame = (request.suffix, self.readers.config.limits.read_s, request.data)
        self.process.send(pickle.dumps(frame))

    def _accept(self, frame: bytes, now_s: float) -> None:
        """End the current reading with the answer in a frame, and send the next request."""
        assert self.process is not None  # noqa: S101 - the frame is from it
        self.since_s, self.process.is_ready, self.trouble = now_s, True, ""
        if self.current is not None:
            request, self.current = self.current, None
            try:
                request.reading.end(unpacked(json.loads(frame), request.data))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                request.refuse("the process that read this file gave an invalid answer")
        if self.queue:
            self._send(self.queue.popleft(), now_s)
            self.process.flush()

    def _clean_up(self, now_s: float) -> None:
        """The reader ended by itself. The cause is the file that it was reading, if any."""
        assert self.process is not None  # noqa: S101 - the caller has checked
        request, self.current, was_ready = self.current, None, self.process.is_ready
        code = self.end()
        if request is None:
            if not was_ready:
                self.start_at_s = now_s + START_AGAIN_S
                self._set_trouble(f"the process that reads job files ends at its start ({_exit_cause(code)})")
            return
        self.start_at_s = now_s
        request.tries += 1
        if code == -signal.SIGPROF:
            limit_s = self.readers.config.limits.read_s
            request.refuse(f"reading this file takes longer than limits.read_s ({limit_s:g} s); make it smaller")
        elif request.tries >= MAX_TRIES:
            request.refuse(f"reading this file ends the process that reads it ({_exit_cause(code)})")
        else:
            self.queue.appendleft(request)

    def _give_up(self) -> None:
        """End a reader that is idle, answers too much or does not answer, usually because a disk does not respond."""
        request, self.current = self.current, None
        self.end()
        if request is not None:
            request.refuse("reading this file, or a model that it names, takes too long")


def _exit_cause(code: int | None) -> str:
    if code is None:
        return "it closed its output"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"
