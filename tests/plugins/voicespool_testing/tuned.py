"""An engine that needs a voice and takes checkpoints: tones whose pitch depends on the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import count
from pathlib import Path

from engines.base import ChunkSource, Device, EngineInfo, Option, Rendered, each
from engines.errors import RequestRefused

from .tone import LANGUAGES, RATE_HZ, nearest_language, tone

_loads = count(1)


class Tuned:
    """A checkpoint is any safetensors file, with optional metadata as JSON: `settings`, `warnings`, `step`, and
    `refused`, the error of `load`.
    """

    @classmethod
    def info(cls) -> EngineInfo:
        return EngineInfo(
            name="tuned",
            title="Tones by checkpoint",
            licence="Apache-2.0",
            library="voicespool-testing",
            version="1.0",
            missing=None,
            sample_rate_hz=RATE_HZ,
            languages=LANGUAGES,
            options=(
                Option("depth", float, 0.1, "changes the pitch", 0, 1),
                Option("width", float, 0.2, "changes the pitch too", 0, 1),
            ),
            clones_voices=True,
            needs_voice=True,
            takes_checkpoints=True,
            max_chars_in={"pt": 60},
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return nearest_language(tag)

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        data = checkpoint.read_bytes() if checkpoint is not None else b""
        self.key = sha256(data).hexdigest()
        facts: dict[str, object] = {"device": "cpu", "loads": next(_loads), "architecture": "tone", "sha256": self.key}
        facts["profile"] = device.profile
        self.settings: Mapping[str, object] = {}
        if data:
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
            if "refused" in metadata:
                raise RequestRefused(metadata["refused"], "Train it again.")
            self.settings = json.loads(metadata.get("settings", "{}"))
            facts |= {"settings": self.settings, "warnings": json.loads(metadata.get("warnings", "[]"))}
            facts |= {"step": int(metadata.get("step", 0))}
        return facts

    def render(self, chunks: ChunkSource) -> Iterator[Rendered]:
        for index, chunk in each(chunks):
            settings = {**self.settings, **chunk.settings}
            key = f"{self.key} {chunk.text} {chunk.speaker} {sorted(settings.items())}"
            yield index, tone(key, 0.05 * len(chunk.text))

    def close(self) -> None:
        pass
