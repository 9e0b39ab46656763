"""The result of a worker: validated, and saved during a hold."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.durable import sha256_of, to_json
from files.printable import printable
from jobs.errors import RenderFailed
from jobs.order import Order, Rendering
from jobs.results.manifest import AudioFile, Checks, SpokenChunk, SpokenSegment, Timing, without_empty
from jobs.results.open_outbox import MANIFEST
from jobs.spool.claim import Claim

ERROR_TEXT = "ERROR.txt"


@dataclass(frozen=True, slots=True)
class Made:
    """A rendering, and the folder of its files."""

    rendering: Rendering
    folder: Path


def checked(rendering: Rendering, order: Order) -> Made:
    """Validate a worker's result; the worker runs code of plugins, so it is not trusted.

    Raises:
        RenderFailed: The result is invalid.
    """
    folder = Path(order.result_dir)
    try:
        for audio in rendering.audio:
            AudioFile.model_validate(audio, strict=True)  # strict: "3.0" is not a number
        for segment in rendering.segments:
            SpokenSegment.model_validate(segment, strict=True)
        for chunk in rendering.chunks:
            SpokenChunk.model_validate(chunk, strict=True)
        Checks.model_validate(rendering.checks)
        Timing.model_validate({"queued_s": 0.0, "total_s": 0.0, **rendering.timing}, strict=True)
        # Raises on NaN, lone surrogates, and warnings that are not text.
        json.dumps(without_empty(_to_json(rendering)), ensure_ascii=False, allow_nan=False).encode()
        "".join(rendering.warnings)
    except (ValueError, TypeError, RecursionError) as error:
        raise RenderFailed(f"the worker's answer is invalid: {printable(error, 300)}") from None
    taken = {MANIFEST, ERROR_TEXT, f"{order.stem}.yaml", f"{order.stem}.yml", f"{order.stem}.json"}
    if len(set(rendering.files) - taken) < len(rendering.files):
        raise RenderFailed("the worker returned files with duplicate or reserved names")
    if rendering.chunks_file and rendering.chunks_file not in rendering.files:
        raise RenderFailed("the worker did not return the chunks file that it names")
    if not all("/" not in name and _is_regular(folder / name) for name in rendering.files):
        raise RenderFailed("files that the worker returned are missing")
    return Made(rendering, folder)


def keep(claim: Claim, made: Made) -> None:
    """Save a result during a hold, so that it need not be rendered again.

    Not forced to disk: after a power failure the files are assembled again from their chunks.
    """
    value = {"folder": made.folder.name, "rendering": _to_json(made.rendering)}
    if to_json({"rendered": claim.record.last("rendered")}) != to_json({"rendered": value}):  # a hold may last for days
        claim.record.add(durable=False, rendered=value)


def kept(claim: Claim) -> Made | None:
    """The result saved by `keep`; None if there is none, or its files are not whole."""
    saved = claim.record.last("rendered")
    if not saved:
        return None
    made = Made(_from_json(saved["rendering"]), claim.folder.path / saved["folder"])
    return made if all(_is_whole(made, name) for name in made.rendering.files) else None


def _is_whole(made: Made, name: str) -> bool:
    """Whether a saved file is complete: a power failure may have kept its name but not its content."""
    if not _is_regular(made.folder / name):
        return False
    wanted = [audio["sha256"] for audio in made.rendering.audio if audio["file"] == name]
    return not wanted or sha256_of(made.folder / name) == wanted[0]


def _is_regular(path: Path) -> bool:
    """Only regular files are published, never the target of a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _to_json(rendering: Rendering) -> dict[str, Any]:
    return {name: getattr(rendering, name) for name in Rendering.__dataclass_fields__}


def _from_json(value: Mapping[str, Any]) -> Rendering:
    tuples: dict[str, Callable[[Any], Any]] = dict.fromkeys(("files", "audio", "segments", "warnings", "chunks"), tuple)
    return Rendering(**{name: tuples.get(name, lambda value: value)(part) for name, part in value.items()})
