"""The process that holds libespeak-ng for `engines.espeak.engine`: speaks each request in a fork of its own.

Run as a script by a bare interpreter (`python -I -S espeak_process.py LIBRARY REQUESTS ANSWERS`), in the folder
that holds `espeak-ng-data`; needs the standard library alone, so that the process is small and forks in under a
millisecond. LIBRARY is a file; REQUESTS and ANSWERS are numbers of open pipes.

A request is one JSON line: `text`, `voice` (the library's name), `parameters` (its number -> value), `seed`.
An answer is a header `<iI`, then the audio: the fork's exit status (0 well, negative: killed by that signal, else
one of the REFUSED_… below), the number of bytes that follow, and mono 16-bit samples of this machine's byte order.
Before the first request comes one answer that says whether the library is ready: its version in place of audio.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
from typing import Any

HEADER = struct.Struct("<iI")
REFUSED_VOICE = 10
REFUSED_TEXT = 11
REFUSED_START = 12
RATE_HZ = 22050

_IN_THIS_THREAD = 2  # AUDIO_OUTPUT_SYNCHRONOUS: no thread of the library's own, which a fork would lose
_DO_NOT_EXIT = 0x8000
_UTF8 = 1  # and neither espeakSSML (0x10) nor espeakPHONEMES (0x100): text is spoken as it stands
_PARENT_DEATH_SIGNAL = 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def main() -> None:
    library_file, requests, answers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _die_with_parent()
    _leave_no_core_file()
    library = _open(library_file)
    with open(requests, "rb") as lines, open(answers, "wb", buffering=0) as out:
        _send(out.fileno(), *_begin(library))
        for line in lines:
            _send(out.fileno(), *_in_a_fork(library, line))


def _open(file: str) -> ctypes.CDLL:
    library = ctypes.CDLL(file)
    library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _begin(library: ctypes.CDLL) -> tuple[int, bytes]:
    """Load the data from the current folder: a relative path, because the library cuts long ones at 160 bytes."""
    rate_hz = library.espeak_Initialize(_IN_THIS_THREAD, 0, b".", _DO_NOT_EXIT)
    if rate_hz != RATE_HZ:
        return REFUSED_START, b""
    version: bytes = library.espeak_Info(None)
    return 0, version


def _in_a_fork(library: ctypes.CDLL, request: bytes) -> tuple[int, bytes]:
    """Speak one request in a copy of this process, which has never spoken: that makes its audio repeatable."""
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        _child(library, request, sink)
    os.close(sink)
    with open(source, "rb") as pipe:
        samples = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), samples


def _child(library: ctypes.CDLL, request: bytes, sink: int) -> None:
    status = REFUSED_TEXT
    try:
        _die_with_parent()
        status, samples = _speak(library, json.loads(request))
        _write(sink, samples)
    finally:
        os._exit(status)


def _speak(library: ctypes.CDLL, request: dict[str, Any]) -> tuple[int, bytes]:
    pieces: list[bytes] = []

    def collect(samples: Any, count: int, _events: object) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    if library.espeak_SetVoiceByName(str(request["voice"]).encode()):
        return REFUSED_VOICE, b""
    for number, value in request["parameters"].items():
        library.espeak_SetParameter(int(number), int(value), 0)
    _seed(library, int(request["seed"]))
    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    text = str(request["text"]).encode() + b"\0"
    if library.espeak_Synth(text, len(text), 0, 1, 0, _UTF8, None, None):
        return REFUSED_TEXT, b""
    return 0, b"".join(pieces)


def _seed(library: ctypes.CDLL, seed: int) -> None:
    """Both generators that the voices' breath and flutter draw from: the library's own and the C library's."""
    folded = (seed ^ seed >> 32) & 0x7FFFFFFF
    library.espeak_ng_SetRandSeed(ctypes.c_long(folded))
    ctypes.CDLL(None).srand(ctypes.c_uint(folded))


def _send(answers: int, status: int, payload: bytes) -> None:
    _write(answers, HEADER.pack(status, len(payload)) + payload)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _die_with_parent() -> None:
    """On Linux, be killed when the parent ends, whatever the C code is busy with; elsewhere the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _leave_no_core_file() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
