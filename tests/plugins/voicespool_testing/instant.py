"""An engine that costs nearly nothing, for measuring what the spool itself costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from engines.base import Audio, Chunk, Device, EngineInfo

from .tone import LANGUAGES, RATE_HZ, nearest_language, tone


class Instant:
    """Answers every chunk with the same 50 ms of tone, made once at load."""

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
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return nearest_language(tag)

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        self.audio = tone("instant", 0.05)
        return {"device": "cpu"}

    def render(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Audio]]:
        for index in range(len(chunks)):
            yield index, self.audio

    def close(self) -> None:
        pass
