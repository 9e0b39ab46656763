"""espeak-ng: clear, robotic speech in over a hundred languages, at once, on any machine.

The library (GPL-3.0-or-later) and its data come with the wheel `espeakng-loader`; nothing else is installed or
downloaded. It is not linked into this program: it runs in a small process of its own (`espeak_process.py`).

The library keeps state from one call to the next, so that the same words sound a little different the second time,
even after `espeak_Terminate` and a new `espeak_Initialize`. In a process that has never spoken they give the same bytes
each time, so every chunk is spoken in a fork of a small one. That needs no trust in `dlclose`, grows no slower with
what else the worker holds, leaves no file behind, and a crash in the C code ends a fork and not the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from engines import installing
from engines.base import Audio, Chunk, Device, EngineInfo, Option
from engines.errors import EngineError, EngineMissing, RequestRefused
from engines.espeak import process, voices

PACKAGE = "espeakng-loader"
NORMAL_WORDS_PER_MINUTE = 175

OPTIONS = (
    Option("speed", float, 1.0, "speaking rate; 1.0 is 175 words per minute", 0.5, 2.0),
    Option("pitch", int, 50, "pitch of the voice", 0, 99),
    Option("pitch_range", int, 50, "range of the pitch; 0 is monotone", 0, 99),
    Option("word_gap_ms", int, 0, "additional silence between words, in ms", 0, 1000),
)

# espeak_PARAMETER in speak_lib.h
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_WORD_GAP_UNIT_MS = 10

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_CLOSE_TIMEOUT_S = 2.0
# The library reads \x01 as the start of a command; nothing below a space is ever spoken.
_CONTROLS = dict.fromkeys((*range(0x20), 0x7F), " ")


class Espeak:
    """One instance holds one process of the library, from `load` to `close`. Not for several threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: IO[bytes] | None = None
        self._answers: IO[bytes] | None = None

    @classmethod
    def info(cls) -> EngineInfo:
        """What espeak-ng can do here. Reads the data folder once (about ten milliseconds), loads nothing."""
        voices = _voices()
        return EngineInfo(
            name="espeak",
            title="espeak-ng, formant synthesis",
            licence="GPL-3.0-or-later",
            library=PACKAGE,
            version=_version(),
            missing=None if voices else installing.for_package(PACKAGE),
            sample_rate_hz=process.RATE_HZ,
            languages=tuple(sorted(voices.files)) if voices else (),
            options=OPTIONS,
            speakers=tuple(voices.speakers) if voices else (),
            speaker_sexes={name: sex for name, sex in voices.speakers.items() if sex} if voices else {},
            default_speakers=voices.files if voices else {},
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        """`pt-PT` -> `pt`, `zh-Hans` -> `cmn`, `en-AU` -> `en` (British, as in espeak-ng), `tlh` -> None."""
        voices = _voices()
        return voices.match(tag) if voices else None

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Start the library's process: about 30 ms. It ends when this instance is closed or the calling thread ends.

        Raises:
            EngineMissing: the wheel is not installed, or its library does not load here.
            RequestRefused: a checkpoint was asked for; espeak-ng has none.
        """
        if checkpoint is not None:
            raise RequestRefused(
                f"espeak has no checkpoints, and the job asks for {checkpoint.name}",
                "Leave `checkpoint` out, or name the engine that the checkpoint is for.",
            )
        home = _home()
        if home is None or not _voices():
            raise EngineMissing("espeak-ng is not installed", installing.for_package(PACKAGE))
        self.close()
        self._start(home)
        try:
            status, told = self._answer()
        except EngineError:
            status, told = process.REFUSED_START, b""
        if status != 0:
            raise self._not_started()
        return {"device": "cpu", "espeak_ng": told.decode(errors="replace")}

    def render(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Audio]]:
        """Speak chunks one after the other.

        Raises:
            RequestRefused: a language or speaker that espeak-ng does not have.
            EngineError: the library crashed on a text, or its process is gone.
        """
        for index, chunk in enumerate(chunks):
            yield index, self._speak(chunk)

    def close(self) -> None:
        """End the library's process; one that does not listen is killed."""
        process, self._process = self._process, None
        for pipe in (self._requests, self._answers):
            if pipe is not None:
                _close_quietly(pipe)
        self._requests = self._answers = None
        if process is None:
            return
        try:
            process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _not_started(self) -> EngineError:
        """Why the library's process did not come up: killed from outside, or the library does not load here."""
        process = self._process
        self.close()
        if process is not None and process.returncode < 0:
            return EngineError(
                f"the process of espeak-ng was killed at its start ({_signal_name(-process.returncode)})"
            )
        return EngineMissing("espeak-ng does not start here", installing.for_package(PACKAGE, "--force-reinstall"))

    def _start(self, home: Path) -> None:
        requests, self_requests = os.pipe()
        self_answers, answers = os.pipe()
        self._requests = open(self_requests, "wb", buffering=0)  # noqa: SIM115 - closed in close()
        self._answers = open(self_answers, "rb")  # noqa: SIM115 - closed in close()
        script = str(Path(process.__file__))
        # A stop from a terminal or a service manager reaches every process; the daemon lets the running chunk
        # finish, so that this one must not hear it. Blocked signals stay blocked in the new program.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, _library(home), str(requests), str(answers)],
                stdin=subprocess.DEVNULL,
                cwd=home,
                env=_environment(),
                pass_fds=(requests, answers),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(requests)
            os.close(answers)

    def _speak(self, chunk: Chunk) -> Audio:
        import numpy as np

        request = json.dumps(_request(chunk)).encode() + b"\n"
        try:
            if self._requests is not None:
                self._requests.write(request)
            status, samples = self._answer()
        except BrokenPipeError as error:
            raise EngineError("the process of espeak-ng is gone") from error
        _check(status, chunk)
        pcm = np.frombuffer(samples, dtype=np.int16)
        return Audio(pcm.astype(np.float32) / np.float32(32768), process.RATE_HZ)

    def _answer(self) -> tuple[int, bytes]:
        if self._answers is None:
            raise EngineError("espeak was asked to speak before it was loaded")
        header = self._answers.read(process.HEADER.size)
        if len(header) < process.HEADER.size:
            raise EngineError("the process of espeak-ng ended without an answer")
        status, size = process.HEADER.unpack(header)
        payload = self._answers.read(size)
        if len(payload) < size:
            raise EngineError("the process of espeak-ng ended in the middle of an answer")
        return status, payload


def _check(status: int, chunk: Chunk) -> None:
    if status < 0:
        raise EngineError(f"espeak-ng crashed ({_signal_name(-status)}) on the text {chunk.text[:60]!r}")
    if status == process.REFUSED_VOICE:
        raise RequestRefused(f"espeak-ng has no voice for {chunk.language} with speaker {chunk.speaker}")
    if status != 0:
        raise EngineError(f"espeak-ng could not speak (status {status}) the text {chunk.text[:60]!r}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # real-time signals have no names


def _request(chunk: Chunk) -> dict[str, object]:
    return {
        "text": chunk.text.translate(_CONTROLS),
        "voice": _voice(chunk),
        "parameters": _parameters(chunk.settings),
        "seed": chunk.seed,
    }


def _voice(chunk: Chunk) -> str:
    voices = _voices()
    if voices is None or chunk.language not in voices.files:
        raise RequestRefused(f"espeak does not speak {chunk.language}")
    language = voices.files[chunk.language]
    if chunk.speaker is None:
        return language
    folded = {name.casefold(): name for name in reversed([*voices.speakers])} | {name: name for name in voices.speakers}
    speaker = folded.get(chunk.speaker) or folded.get(chunk.speaker.casefold())
    if speaker is None:
        near = get_close_matches(chunk.speaker, voices.speakers, 3)
        raise RequestRefused(
            f"espeak has no speaker {chunk.speaker!r}" + (f"; near it: {', '.join(near)}" if near else ""),
            "`voicespool engines` lists the speakers; any of them goes with any language.",
        )
    return f"{language}+{speaker}"


def _parameters(settings: Mapping[str, object]) -> dict[int, int]:
    """Options to the library's parameters. What is left out stays the voice's own."""
    scale = {
        "speed": (_RATE, NORMAL_WORDS_PER_MINUTE),
        "pitch": (_PITCH, 1),
        "pitch_range": (_RANGE, 1),
        "word_gap_ms": (_WORD_GAP, 1 / _WORD_GAP_UNIT_MS),
    }
    return {
        number: round(float(str(settings[name])) * factor)
        for name, (number, factor) in scale.items()
        if settings.get(name) is not None
    }


def _environment() -> dict[str, str]:
    """The same speech wherever the daemon was started: a fixed locale, and nobody else's data folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "ESPEAK"))}
    return kept | {"LC_ALL": "C.UTF-8"}


def _close_quietly(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # what was still to be written has nobody left to read it
        pipe.close()


@cache
def _voices() -> voices.Voices | None:
    home = _home()
    try:
        return voices.read(home / "espeak-ng-data") if home is not None else None
    except OSError:
        return None  # a wheel without its data is as good as none


@cache
def _home() -> Path | None:
    """The folder of the wheel's package, found without importing it."""
    spec = find_spec("espeakng_loader")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _library(home: Path) -> str:
    return str(home / ("libespeak-ng.dylib" if sys.platform == "darwin" else "libespeak-ng.so"))


@cache
def _version() -> str | None:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None
