"""eSpeak NG: formant synthesis in over a hundred languages, on any machine, within milliseconds.

The library (GPL-3.0-or-later) and its data are in the wheel `espeakng-loader`; nothing else is installed or downloaded.
It is not linked into this program, but runs in a small process of its own (`process.py`).

The library keeps state between calls: the same text gives slightly different audio the second time, even after
`espeak_Terminate` and another `espeak_Initialize`. A process that has not synthesised anything yet always gives the
same bytes, so each chunk is synthesised in a fork of such a process. Forking a small process takes under a millisecond
however large the worker is, and a crash in the C code ends a fork and not the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from engines import installing
from engines.base import Audio, Chunk, ChunkSource, Device, EngineInfo, Option, Rendered, each
from engines.errors import EngineError, EngineMissing, RequestRefused
from engines.espeak import process, voices

PACKAGE = "espeakng-loader"
NORMAL_WORDS_PER_MINUTE = 175

OPTIONS = (
    Option("speed", float, 1.0, "speech rate; 1.0 is 175 words a minute", 0.5, 2.0),
    Option("pitch", int, 50, "pitch of the voice", 0, 99),
    Option("pitch_range", int, 50, "pitch range; 0 is monotone", 0, 99),
    Option("word_gap_ms", int, 0, "extra pause between words, in ms", 0, 1000),
)

# espeak_PARAMETER in speak_lib.h
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_WORD_GAP_UNIT_MS = 10

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_CLOSE_TIMEOUT_S = 2.0
# The library reads \x01 as the start of a command, and ignores other control characters.
_CONTROLS = dict.fromkeys((*range(0x20), 0x7F), " ")


class Espeak:
    """Runs one process of the library from `load` to `close`. Not thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: IO[bytes] | None = None
        self._answers: IO[bytes] | None = None

    @classmethod
    def info(cls) -> EngineInfo:
        """Facts about the engine. Reads the data folder once (about 10 ms), and loads no library."""
        voices = _voices()
        return EngineInfo(
            name="espeak",
            title="eSpeak NG, formant synthesis",
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
        """`pt-PT` -> `pt`, `zh-Hans` -> `cmn`, `en-AU` -> `en` (British, as in eSpeak NG), `tlh` -> None."""
        voices = _voices()
        return voices.match(tag) if voices else None

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Start the library's process (about 30 ms). It ends with `close`, or with the thread that called this.

        Raises:
            EngineMissing: The wheel is not installed, or its library does not load.
            RequestRefused: The job names a checkpoint; eSpeak NG has none.
            EngineError: The process was killed while it started.
        """
        if checkpoint is not None:
            raise RequestRefused(
                f"espeak has no checkpoints, and the job asks for {checkpoint.name}",
                "Remove `checkpoint`, or set `engine` to the one that the checkpoint is for.",
            )
        home = _home()
        if home is None or not _voices():
            raise EngineMissing("eSpeak NG is not installed", installing.for_package(PACKAGE))
        self.close()
        self._start(home)
        try:
            status, library_version = self._answer()
        except EngineError:  # it ended before its first answer
            status, library_version = process.REFUSED_START, b""
        if status != 0:
            raise self._not_started()
        return {"device": "cpu", "espeak_ng": library_version.decode(errors="replace")}

    def render(self, chunks: ChunkSource) -> Iterator[Rendered]:
        """Render chunks one after the other, in order.

        Raises:
            EngineError: The library's process has ended.
        """
        for number, chunk in each(chunks):
            try:
                request = _request(chunk)
            except RequestRefused as refused:
                yield number, refused
                continue
            status, samples = self._ask(request)
            yield number, _why_not(status, chunk) or _audio(samples)

    def close(self) -> None:
        """End the library's process; kill it if it has not ended after 2 s."""
        process, self._process = self._process, None
        # The process ends when its pipes are closed.
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
        """The reason why the process did not start: a signal from outside, or a library that does not load."""
        process = self._process
        self.close()
        if process is not None and process.returncode < 0:
            return EngineError(
                f"the eSpeak NG process was killed while it started ({_signal_name(-process.returncode)})"
            )
        return EngineMissing(
            "eSpeak NG does not start on this machine", installing.for_package(PACKAGE, "--force-reinstall")
        )

    def _start(self, home: Path) -> None:
        requests, self_requests = os.pipe()
        self_answers, answers = os.pipe()
        self._requests = open(self_requests, "wb", buffering=0)  # noqa: SIM115 - closed in close()
        self._answers = open(self_answers, "rb")  # noqa: SIM115 - closed in close()
        script = str(Path(process.__file__))
        # Ctrl-C and service managers signal every process of a group, but the daemon lets the running chunk finish. So
        # these signals are blocked in this process, and stay blocked after exec.
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

    def _ask(self, request: Mapping[str, object]) -> tuple[int, bytes]:
        """The process' answer to a request: its status, and samples of 16 bits."""
        try:
            if self._requests is not None:
                self._requests.write(json.dumps(request).encode() + b"\n")
            return self._answer()
        except BrokenPipeError as error:
            raise EngineError("the eSpeak NG process has ended") from error

    def _answer(self) -> tuple[int, bytes]:
        if self._answers is None:
            raise EngineError("espeak was asked to render before it was loaded")
        header = self._answers.read(process.HEADER.size)
        if len(header) < process.HEADER.size:
            raise EngineError("the eSpeak NG process ended without an answer")
        status, size = process.HEADER.unpack(header)
        payload = self._answers.read(size)
        if len(payload) < size:
            raise EngineError("the eSpeak NG process ended in the middle of an answer")
        return status, payload


def _audio(samples: bytes) -> Audio:
    import numpy as np

    pcm = np.frombuffer(samples, dtype=np.int16)
    return Audio(pcm.astype(np.float32) / np.float32(32768), process.RATE_HZ)


def _why_not(status: int, chunk: Chunk) -> EngineError | None:
    """Why a chunk has no audio; None if it has. The process survives a crash of the library."""
    if status < 0:
        return EngineError(f"eSpeak NG crashed ({_signal_name(-status)}) on the text {chunk.text[:60]!r}")
    if status == process.REFUSED_VOICE:
        return RequestRefused(f"eSpeak NG has no voice for {chunk.language} with speaker {chunk.speaker}")
    if status != 0:
        return EngineError(f"eSpeak NG failed (status {status}) on the text {chunk.text[:60]!r}")
    return None


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
    """The library's name for a language with a speaker: `roa/pt-BR+Annie`."""
    voices = _voices()
    if voices is None or chunk.language not in voices.files:
        raise RequestRefused(f"espeak does not support the language {chunk.language}")
    language = voices.files[chunk.language]
    if chunk.speaker is None:
        return language
    folded = {name.casefold(): name for name in reversed([*voices.speakers])} | {name: name for name in voices.speakers}
    speaker = folded.get(chunk.speaker) or folded.get(chunk.speaker.casefold())
    if speaker is None:
        close = get_close_matches(chunk.speaker, voices.speakers, 3)
        raise RequestRefused(
            f"unknown speaker {chunk.speaker!r} for espeak" + (f"; similar: {', '.join(close)}" if close else ""),
            "`voicespool engines` lists the speakers; each of them can be used with any language.",
        )
    return f"{language}+{speaker}"


def _parameters(settings: Mapping[str, object]) -> dict[int, int]:
    """Numbers and values of `espeak_PARAMETER`; settings that are not given keep the voice's own value."""
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
    """A fixed locale and no other data folder, so the audio does not depend on where the daemon was started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "ESPEAK"))}
    return kept | {"LC_ALL": "C.UTF-8"}


def _close_quietly(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the process has ended before it read everything
        pipe.close()


@cache
def _voices() -> voices.Voices | None:
    home = _home()
    try:
        return voices.read(home / "espeak-ng-data") if home is not None else None
    except OSError:
        return None  # without its data the wheel counts as not installed


@cache
def _home() -> Path | None:
    """Folder of the wheel's package, found without importing it; None if it is not installed."""
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
