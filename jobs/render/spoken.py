"""`segments`, `chunks` and `voice` of a manifest: the times and voices in the finished audio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files.printable import printable_json
from jobs.render.chunk_plan import PlannedChunk, ResolvedOrder
from jobs.spec.job_spec import Segment

MAX_CHUNKS = 500
"""In the manifest; more chunks are written to a file of their own."""
DEFAULT_SPEAKER = "default"
"""Name of the voice of an engine that does not name it."""


@dataclass
class Spans:
    """Start and end of each segment and chunk in the audio. A segment goes from its first chunk to the end of its last.

    Attributes:
        spans: Index of a segment -> start_s, end_s and the seed of its first chunk (None for a pause alone).
        chunks: Text, start and end of each chunk, in seconds.
    """

    resolved: ResolvedOrder
    spans: dict[int, dict[str, Any]] = field(default_factory=dict)
    chunks: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, planned: PlannedChunk, start_s: float, end_s: float) -> None:
        """Add the next chunk of the plan."""
        span = self.spans.setdefault(planned.segment, {"start_s": start_s, "end_s": end_s, "seed": None})
        if planned.chunk is None:
            return
        if span["seed"] is None:  # a pause came first; the segment starts with its first chunk
            span["start_s"], span["seed"] = start_s, planned.chunk.seed
        span["end_s"] = end_s
        self.chunks.append((planned.chunk.text, round(start_s, 6), round(end_s, 6)))

    def segments(self) -> tuple[Mapping[str, Any], ...]:
        """`segments` of the manifest."""
        segments = enumerate(self.resolved.spec.full_segments())
        return tuple(self._segment(segment, self.spans[index]) for index, segment in segments if index in self.spans)

    def _segment(self, segment: Segment, span: Mapping[str, Any]) -> Mapping[str, Any]:
        """One entry. Its seed is the job's, else that of its first chunk. A job's `text` is in `request` only."""
        text = {"text": segment.text} if self.resolved.spec.segments else {}
        times = {name: round(span[name], 6) for name in ("start_s", "end_s")}
        if span["seed"] is None:
            return {**text, **times}
        job_seed = self.resolved.spec.seed
        return {
            **text,
            **times,
            "seed": span["seed"] if job_seed is None else job_seed,
            "takes": 1,
            "language": segment.language or self.resolved.languages[""],
            **_voice(segment, self.resolved),
        }

    def write(self, path: Path) -> None:
        """Write the chunks to a JSON file, one per line."""
        with path.open("x", encoding="utf-8") as file:
            file.write('{"chunks": [\n')
            file.writelines(self._lines())
            file.write("]}\n")

    def _lines(self) -> Iterator[str]:
        last = len(self.chunks) - 1
        for number, chunk in enumerate(self.as_manifest()):
            yield printable_json(json.dumps(chunk, ensure_ascii=False)) + (",\n" if number < last else "\n")

    def as_manifest(self) -> Iterator[Mapping[str, Any]]:
        """`chunks` of the manifest."""
        return ({"text": text, "start_s": start_s, "end_s": end_s} for text, start_s, end_s in self.chunks)


def voice(resolved: ResolvedOrder, used: Mapping[str, str]) -> Mapping[str, Any]:
    """`voice` of the manifest: the recordings that were used, and the first voice that is not a recording.

    Args:
        used: Path of a recording -> the part of its transcript that the engine used.
    """
    segments = resolved.spec.full_segments()
    transcripts = _transcripts(resolved, segments)
    files = []
    for name, sha256 in resolved.recordings.items():
        file = {"file": name, "sha256": sha256}
        if text := used.get(resolved.order.recordings[name], transcripts.get(name)):
            file["transcript"] = text
        if name in resolved.transcribed and transcripts.get(name) == resolved.transcribed[name]:
            file["transcribed_by"] = "whisper"
        files.append(file)
    speakers = (_voice(segment, resolved).get("speaker") for segment in segments)
    speaker = next(filter(None, speakers), None)
    return {**({"files": files} if files else {}), **({"speaker": speaker} if speaker else {})}


def _transcripts(resolved: ResolvedOrder, segments: Sequence[Segment]) -> Mapping[str, str]:
    """The transcript of each recording, if the engine needs it; the first one, if the job has several."""
    if not resolved.info.needs_transcript:
        return {}
    in_job = {
        part.speaker_wav[0]: part.speaker_text for part in reversed(segments) if part.speaker_wav and part.speaker_text
    }
    return {**resolved.transcripts(), **in_job}


def _voice(segment: Segment, resolved: ResolvedOrder) -> Mapping[str, Any]:
    if segment.speaker_wav and resolved.info.clones_voices:
        return {"recordings": list(segment.speaker_wav)}
    own = resolved.info.default_speakers.get(resolved.languages[segment.language or ""], DEFAULT_SPEAKER)
    return {"speaker": segment.speaker or own}
