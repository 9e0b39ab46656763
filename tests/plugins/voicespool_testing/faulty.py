"""An engine that fails as the job's settings say, and otherwise makes tones quickly.

`faults.py` has the faults; the options below determine which chunks fail, and how often.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from engines.base import Audio, Chunk, ChunkSource, Device, EngineInfo, Option, Rendered, each
from engines.errors import RequestRefused

from .faults import FAULTS
from .tone import LANGUAGES, RATE_HZ, nearest_language, tone

OPTIONS = (
    Option("fault", str, "none", "the fault: none, " + ", ".join(FAULTS)),
    Option("only", str, "", "fail only on chunks that contain this text; empty: on every chunk"),
    Option("times", int, 0, "fail only this often, counted in the file `counter`; 0: always", 0, 1000),
    Option("counter", str, "", "absolute path of a file whose size counts faults across processes"),
    Option("journal", str, "", "absolute path of a file; a line `PID TEXT` is appended when a chunk begins"),
    Option("gate", str, "", "absolute path; each chunk waits until this file exists"),
    Option("chunk_ms", float, 0.0, "time that each chunk takes, in ms", 0, 3_600_000),
    Option("busy", bool, False, "spend chunk_ms computing instead of waiting"),
    Option("audio_ms", float, 0.0, "length of each chunk's audio, in ms; 0: 60 per character", 0, 600_000),
    Option("allocate_mb", int, 1 << 20, "memory that the fault `allocate` takes before MemoryError", 0, 1 << 24),
)


class Faulty:
    """See the options. `$FAULTY_LOAD` is a fault in `load`, which has no settings."""

    @classmethod
    def info(cls) -> EngineInfo:
        return EngineInfo(
            name="faulty",
            title="Tones, and faults on demand",
            licence="Apache-2.0",
            library="voicespool-testing",
            version="1.0",
            missing=None,
            sample_rate_hz=RATE_HZ,
            languages=LANGUAGES,
            options=OPTIONS,
            clones_voices=True,
            speakers=("high", "low"),
            mixes_jobs="FAULTY_LONER" not in os.environ,
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return nearest_language(tag)

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        fault = os.environ.get("FAULTY_LOAD", "none")
        if fault in FAULTS:
            FAULTS[fault](Chunk(text="load", language="en", seed=0))
        return {"device": "cpu", "precision": "float32"}

    def render(self, chunks: ChunkSource) -> Iterator[Rendered]:
        for index, chunk in each(chunks):
            _take_time(chunk.settings, chunk.text)
            fault = str(chunk.settings.get("fault", "none"))
            if fault not in ("none", *FAULTS):
                raise RequestRefused(f"unknown fault {fault!r}; available: {', '.join(FAULTS)}")
            result = FAULTS[fault](chunk) if fault in FAULTS and _is_due(chunk) else None
            if isinstance(result, Audio):
                yield index, result
            elif result is None:
                yield index, _render(chunk)

    def close(self) -> None:
        pass


def _render(chunk: Chunk) -> Audio:
    for recording in chunk.recordings:
        if not recording.is_file():
            raise RequestRefused(f"the recording {recording.name} does not exist")
    sizes = [str(path.stat().st_size) for path in chunk.recordings]
    audio_ms = float(chunk.settings.get("audio_ms", 0.0)) or 60.0 * len(chunk.text)
    return tone("/".join([chunk.text, chunk.language, chunk.speaker or "", *sizes]), audio_ms / 1000)


def _take_time(settings: Mapping[str, object], text: str) -> None:
    journal, gate = str(settings.get("journal", "")), str(settings.get("gate", ""))
    if journal:
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {text}\n")
    while gate and not os.path.exists(gate):
        threading.Event().wait(0.005)
    duration_s = float(str(settings.get("chunk_ms", 0.0))) / 1000
    end = time.monotonic() + duration_s
    if not settings.get("busy", False):
        threading.Event().wait(duration_s)
    while time.monotonic() < end:
        pass


def _is_due(chunk: Chunk) -> bool:
    """Whether this chunk is to fail, by `only` and `times`. Counts before the fault, which may end the process."""
    only, times = str(chunk.settings.get("only", "")), int(chunk.settings.get("times", 0))
    if only not in chunk.text:
        return False
    if not times:
        return True
    counter = str(chunk.settings.get("counter", ""))
    if not counter:
        raise RequestRefused("settings.times needs settings.counter, the absolute path of a file")
    with open(counter, "ab") as file:
        if file.tell() >= times:
            return False
        file.write(b"x")
    return True
