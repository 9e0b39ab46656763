"""What was spoken where, and by whom: `segments`, `chunks` and `voice` of a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files.printable import printable_json
from jobs.render.chunk_plan import PlannedChunk, Stage
from jobs.spec.job_spec import Segment

MAX_CHUNKS = 500
"""In the manifest itself; more of them are a file of their own."""
DEFAULT_SPEAKER = "default"
"""The voice of an engine that has no name for it."""


@dataclass
class Spans:
    """Where each segment and each chunk lies in the file; segments from their first chunk to the end of their last.

    Attributes:
        found: Number of a segment -> start_s, end_s and the seed of its first chunk; None where it is a pause alone.
        chunks: Text, start and end of each chunk, in seconds.
    """

    stage: Stage
    found: dict[int, dict[str, Any]] = field(default_factory=dict)
    chunks: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, line: PlannedChunk, start_s: float, end_s: float) -> None:
        """Note down the next line of the script."""
        span = self.found.setdefault(line.segment, {"start_s": start_s, "end_s": end_s, "seed": None})
        if line.chunk is None:
            return
        if span["seed"] is None:
            span["start_s"], span["seed"] = start_s, line.chunk.seed
        span["end_s"] = end_s
        self.chunks.append((line.chunk.text, round(start_s, 6), round(end_s, 6)))

    def segments(self) -> tuple[Mapping[str, Any], ...]:
        """For the manifest. What the whole job says as one `text` is not said again."""
        passages = enumerate(self.stage.spec.full_segments())
        return tuple(self._segment(passage, self.found[index]) for index, passage in passages if index in self.found)

    def _segment(self, passage: Segment, span: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its seed is the job's if it gives one, else that of its first chunk."""
        text = {"text": passage.text} if self.stage.spec.segments else {}
        times = {name: round(span[name], 6) for name in ("start_s", "end_s")}
        if span["seed"] is None:
            return {**text, **times}
        job_seed = self.stage.spec.seed
        return {
            **text,
            **times,
            "seed": span["seed"] if job_seed is None else job_seed,
            "takes": 1,
            "language": passage.language or self.stage.languages[""],
            **_voice(passage, self.stage),
        }

    def keep(self, path: Path) -> None:
        """Write the chunks to a file, one on each line."""
        with path.open("x", encoding="utf-8") as file:
            file.write('{"chunks": [\n')
            file.writelines(self._lines())
            file.write("]}\n")

    def _lines(self) -> Iterator[str]:
        last = len(self.chunks) - 1
        for number, chunk in enumerate(self.told()):
            yield printable_json(json.dumps(chunk, ensure_ascii=False)) + (",\n" if number < last else "\n")

    def told(self) -> Iterator[Mapping[str, Any]]:
        """The chunks as the manifest has them."""
        return ({"text": text, "start_s": start_s, "end_s": end_s} for text, start_s, end_s in self.chunks)


def voice(stage: Stage, used: Mapping[str, str]) -> Mapping[str, Any]:
    """For the manifest: the recordings that were used, and the first voice that is not one.

    Args:
        used: Path of a recording -> what of its transcript the engine says that it used.
    """
    passages = stage.spec.full_segments()
    told = _transcripts(stage, passages)
    files = []
    for name, sha256 in stage.recordings.items():
        file = {"file": name, "sha256": sha256}
        if text := used.get(stage.order.recordings[name], told.get(name)):
            file["transcript"] = text
        if name in stage.heard and told.get(name) == stage.heard[name]:
            file["transcribed_by"] = "whisper"
        files.append(file)
    speakers = (_voice(passage, stage).get("speaker") for passage in passages)
    speaker = next(filter(None, speakers), None)
    return {**({"files": files} if files else {}), **({"speaker": speaker} if speaker else {})}


def _transcripts(stage: Stage, passages: Sequence[Segment]) -> Mapping[str, str]:
    """What an engine that needs to know was told of each recording; the first, where the job tells several things."""
    if not stage.info.needs_transcript:
        return {}
    given = {one.speaker_wav[0]: one.speaker_text for one in reversed(passages) if one.speaker_wav and one.speaker_text}
    return {**stage.transcripts(), **given}


def _voice(passage: Segment, stage: Stage) -> Mapping[str, Any]:
    if passage.speaker_wav and stage.info.clones_voices:
        return {"recordings": list(passage.speaker_wav)}
    own = stage.info.default_speakers.get(stage.languages[passage.language or ""], DEFAULT_SPEAKER)
    return {"speaker": passage.speaker or own}
