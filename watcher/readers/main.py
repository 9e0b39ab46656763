"""A reader, `python -m watcher.readers.main NICE`: reads job files for the daemon. A bad file only ends this process.

It gets frames on standard input: the configuration, then requests. It answers each with one frame of JSON on standard
output. A frame is its length in 8 bytes, big-endian, then that many bytes. A file that takes more than the allowed
processor time ends the process with SIGPROF; RLIMIT_AS limits memory.
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
TOO_MUCH_MEMORY = {"problems": [[f"reading this file takes more than {MEMORY_BYTES >> 30} GiB of memory", "", None]]}


def main() -> None:
    _configure_process()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # plugins that print must not disturb the answers
    configuration = _next_frame(requests)

    from jobs.errors import JobInvalid
    from jobs.spec.parse import parse
    from jobs.spool.reading import packed
    from watcher.config.job_rules import job_rules

    rules = job_rules(pickle.loads(configuration))  # noqa: S301 - from our own daemon, as are the requests
    _send(answers, {})
    while request := _next_frame(requests):
        suffix, read_s, data = pickle.loads(request)  # noqa: S301
        signal.setitimer(signal.ITIMER_PROF, read_s)
        try:
            _send(answers, packed(parse(data, suffix, rules)))
        except JobInvalid as invalid:
            _send(answers, packed(invalid))
        except MemoryError:
            _send(answers, TOO_MUCH_MEMORY | {"maybe_unfinished": False})
        signal.setitimer(signal.ITIMER_PROF, 0)


def _configure_process() -> None:
    """Ignore signals (the daemon closes standard input instead), write no core files, and limit memory."""
    os.nice(int(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _next_frame(requests: BinaryIO) -> bytes:
    """The next frame; b"" at the end of the file."""
    head = requests.read(LENGTH.size)
    return requests.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""


def _send(answers: BinaryIO, answer: dict[str, Any]) -> None:
    text = json.dumps(answer, separators=(",", ":")).encode()
    left = memoryview(LENGTH.pack(len(text)) + text)
    while left:
        left = left[answers.write(left) :]


if __name__ == "__main__":
    main()
