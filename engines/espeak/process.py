"""The process that runs libespeak-ng for `engines.espeak.engine`: synthesises each request in a fork of its own.

Run as a script by a bare interpreter (`python -I -S process.py LIBRARY REQUESTS ANSWERS`), in the folder that contains
`espeak-ng-data`. It imports only the standard library, so the process is small and forks in under a millisecond.
LIBRARY is a file; REQUESTS and ANSWERS are descriptors of open pipes.

A request is one line of JSON: `text`, `voice` (the library's name), `parameters` (number -> value), `seed`.
An answer is a header `<iI` and the audio. The header has the fork's exit status (0 for success, negative if it was
killed by a signal, else one of the REFUSED_… below) and the number of bytes that follow. The audio is mono, 16 bits,
native byte order. The first answer precedes all requests: whether the library is ready, with its version instead of
audio.
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

# speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2  # no thread of the library's own, which a fork would not have
_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1  # without espeakSSML (0x10) and espeakPHONEMES (0x100): markup is read out as text
_PR_SET_PDEATHSIG = 1  # sys/prctl.h

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
    """Load the data from the current folder; by a relative path, as the library truncates paths at 160 bytes."""
    rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, b".", _DONT_EXIT)
    if rate_hz != RATE_HZ:
        return REFUSED_START, b""
    version: bytes = library.espeak_Info(None)
    return 0, version


def _in_a_fork(library: ctypes.CDLL, request: bytes) -> tuple[int, bytes]:
    """Synthesise one request in a copy of this process, which has synthesised nothing: so the audio is repeatable."""
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
    status = REFUSED_TEXT  # also after an exception, such as that of a lone surrogate in the text
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
    if library.espeak_Synth(text, len(text), 0, 1, 0, _CHARS_UTF8, None, None):
        return REFUSED_TEXT, b""
    return 0, b"".join(pieces)


def _seed(library: ctypes.CDLL, seed: int) -> None:
    """Seed both random generators that breath and flutter of a voice use: the library's own and the C library's."""
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
    """On Linux, be killed when the parent ends, also within C code; elsewhere the closed pipe ends this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_no_core_file() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
