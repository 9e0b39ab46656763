"""A process that reads job files for the daemon, `python -m watcher.readers.main`: whatever they hold costs a process.

Its argument is how nice it is to others; standard input and output are its line. First comes the configuration, then
one request after another, each answered by one frame of JSON; a frame is its length in 8 bytes, big-endian, and as many
bytes. A file that takes more processor time than it may ends the process with SIGPROF, which the daemon understands;
memory is bounded by the system.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")
MEMORY_BYTES = 1 << 30
TOO_MUCH_MEMORY = {"problems": [["reading this file takes more memory than a job file may", "", None]]}


def main() -> None:
    _behave()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a plugin prints is no answer
    configuration = _frame(requests)

    from jobs.errors import JobInvalid
    from jobs.spec.parse import parse
    from jobs.spool.reading import packed
    from watcher.config.job_rules import job_rules

    rules = job_rules(pickle.loads(configuration))  # noqa: S301 - from our own daemon, as are the requests
    _say(answers, {})
    while request := _frame(requests):
        suffix, read_s, data = pickle.loads(request)  # noqa: S301
        signal.setitimer(signal.ITIMER_PROF, read_s)
        try:
            _say(answers, packed(parse(data, suffix, rules)))
        except JobInvalid as invalid:
            _say(answers, packed(invalid))
        except MemoryError:
            _say(answers, TOO_MUCH_MEMORY | {"maybe_unfinished": False})
        signal.setitimer(signal.ITIMER_PROF, 0)


def _behave() -> None:
    """Signals are for the daemon, which closes the line when it is time to go. No core files, little memory."""
    os.nice(int(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _frame(line: BinaryIO) -> bytes:
    """The next frame; b"" at the end of the line."""
    head = line.read(LENGTH.size)
    return line.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""


def _say(line: BinaryIO, answer: dict[str, Any]) -> None:
    text = json.dumps(answer, separators=(",", ":")).encode()
    left = memoryview(LENGTH.pack(len(text)) + text)
    while left:
        left = left[line.write(left) :]


if __name__ == "__main__":
    main()
