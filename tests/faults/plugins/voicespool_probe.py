"""An engine for tests of the worker: reports the process it runs in, and misbehaves towards the daemon.

A plugin with its own metadata: put this folder on PYTHONPATH. The text of each chunk selects the action: `write`,
`endless`, `hangup`, `lie`, `memory`, `disk`, `fork`; any other text gives 10 ms of tone.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from engines.base import Audio, ChunkSource, Device, EngineInfo, each

DIARY = "PROBE_DIARY"
"""Environment variable: a file that gets a line for each load and close."""


class Probe:
    @classmethod
    def info(cls) -> EngineInfo:
        return EngineInfo("probe", "Probe", "Apache-2.0", "probe", "1.0", None, 16000, ("en",))

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return "en" if tag.startswith("en") else None

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        self._name = f"{checkpoint} on {device.name}"
        _write_diary(f"load {self._name}")
        umask = os.umask(0)
        os.umask(umask)
        self._facts = {
            "models": str(device.models),
            "umask": umask,
            "leads_session": os.getsid(0) == os.getpid() == os.getpgrp(),
            "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "oom_score": int(Path("/proc/self/oom_score_adj").read_text()),
            "stdin": os.path.realpath("/proc/self/fd/0"),
            "environment": sorted(os.environ),
            "path": sys.path,
            "open_files": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
            "torch": "torch" in sys.modules,
        }
        return self._facts

    def render(self, chunks: ChunkSource) -> Iterator[tuple[int, Audio]]:
        import numpy as np

        for index, chunk in each(chunks):
            word = chunk.text.strip(".").lower()
            if word == "odd":
                self._facts["odd"] = float("nan")
            if word in _TRICKS:
                _TRICKS[word]()
            tone = 0.5 * np.sin(np.arange(160, dtype=np.float32))
            yield index, Audio(tone.astype(np.float32), 16000)

    def close(self) -> None:
        _write_diary(f"close {self._name}")


def _write_diary(line: str) -> None:
    if DIARY in os.environ:
        with open(os.environ[DIARY], "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {line}\n")


def _lines_to_the_daemon() -> list[int]:
    """All open sockets, which a faulty library could write to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
        except OSError:
            continue
    return found


def _write(data: bytes) -> None:
    for descriptor in _lines_to_the_daemon():
        with socket.socket(fileno=os.dup(descriptor)) as channel:
            channel.sendall(data)


def _write_rubbish() -> None:
    _write(b"\x1b[2J\x00\xff rubbish\n")


def _write_without_end() -> None:
    for _ in range(40):
        _write(b"x" * (1 << 20))


def _write_a_lie() -> None:
    """A complete answer that names a file outside of the result folder."""
    rendering: dict[str, object] = {"files": ["../../../etc/passwd"], "chunks_file": ""}
    rendering |= {key: {} for key in ("engine", "voice", "checks", "timing")}
    rendering |= {key: [] for key in ("audio", "segments", "warnings", "chunks")}
    _write(json.dumps({"kind": "done", "job_id": "x", "rendering": rendering}).encode() + b"\n")


def _hang_up() -> None:
    for descriptor in _lines_to_the_daemon():
        os.close(descriptor)
    threading.Event().wait()


def _out_of_memory() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch has it."""

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/full")


def _fork_and_fall() -> None:
    """Fork a process with an uncaught exception."""
    if not os.fork():
        raise RuntimeError("in the fork")
    os.wait()


_TRICKS = {
    "fork": _fork_and_fall,
    "write": _write_rubbish,
    "endless": _write_without_end,
    "hangup": _hang_up,
    "lie": _write_a_lie,
    "memory": _out_of_memory,
    "disk": _disk_full,
}
