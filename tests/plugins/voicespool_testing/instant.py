"""An engine that takes no time, or a fixed one, for measuring the overhead of the spool."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from engines.base import Audio, ChunkSource, Device, EngineInfo, Option, Rendered, each

from .tone import LANGUAGES, RATE_HZ, nearest_language, tone

MAX_CHARS = 400


class Instant:
    """Renders each chunk as a part of the same tone, 20 ms per character."""

    @classmethod
    def info(cls) -> EngineInfo:
        return EngineInfo(
            name="instant",
            title="A fixed tone at no cost",
            licence="Apache-2.0",
            library="voicespool-testing",
            version="1.0",
            missing=None,
            sample_rate_hz=RATE_HZ,
            languages=LANGUAGES,
            max_chars=MAX_CHARS,
            options=(Option("seconds", float, 0.0, "time for each chunk, without the GIL", 0.0),),
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return nearest_language(tag)

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        self.samples = tone("instant", 0.02 * MAX_CHARS).samples
        return {"device": "cpu"}

    def render(self, chunks: ChunkSource) -> Iterator[Rendered]:
        for index, chunk in each(chunks):
            if seconds := chunk.settings.get("seconds"):
                time.sleep(float(seconds))  # as a card: the processor is free meanwhile
            yield index, Audio(self.samples[: round(0.02 * RATE_HZ) * len(chunk.text)], RATE_HZ)

    def close(self) -> None:
        pass
