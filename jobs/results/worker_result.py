"""What a worker answered: believed only as far as it can be checked, and remembered over a hold."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.durable import from_json, replace, sha256_of, to_json
from files.printable import printable
from jobs.errors import RenderFailed
from jobs.order import Order, Rendering
from jobs.results.manifest import AudioFile, Checks, SpokenChunk, SpokenSegment, Timing, without_gaps
from jobs.results.outbox import MANIFEST
from jobs.spool.claim import ClaimFolder

ERROR_TEXT = "ERROR.txt"


@dataclass(frozen=True, slots=True)
class Made:
    """What the worker made, and the folder that its files are in."""

    rendering: Rendering
    folder: Path


def checked(rendering: Rendering, order: Order) -> Made:
    """Believe a worker only what a manifest can hold; it runs code from outside.

    Raises:
        RenderFailed: The answer is none.
    """
    folder = Path(order.result_dir)
    try:
        for audio in rendering.audio:
            AudioFile.model_validate(audio, strict=True)  # "3.0" is no number to calculate with
        for segment in rendering.segments:
            SpokenSegment.model_validate(segment, strict=True)
        for chunk in rendering.chunks:
            SpokenChunk.model_validate(chunk, strict=True)
        Checks.model_validate(rendering.checks)
        Timing.model_validate({"queued_s": 0.0, "total_s": 0.0, **rendering.timing}, strict=True)
        # Neither NaN nor half a surrogate pair, anywhere; the words of warnings are texts.
        json.dumps(without_gaps(_to_json(rendering)), ensure_ascii=False, allow_nan=False).encode()
        "".join(rendering.warnings)
    except (ValueError, TypeError, RecursionError) as error:
        raise RenderFailed(f"the worker's answer makes no sense: {printable(error, 300)}") from None
    taken = {MANIFEST, ERROR_TEXT, f"{order.stem}.yaml", f"{order.stem}.yml", f"{order.stem}.json"}
    if len(set(rendering.files) - taken) < len(rendering.files):
        raise RenderFailed("the worker's files have names that are not theirs to have")
    if rendering.chunks_file and rendering.chunks_file not in rendering.files:
        raise RenderFailed("the worker names a file of chunks that it did not make")
    if not all("/" not in name and _is_regular(folder / name) for name in rendering.files):
        raise RenderFailed("the worker says that it is done, but its files are not there")
    return Made(rendering, folder)


def keep(folder: ClaimFolder, made: Made) -> None:
    """Remember finished files over a hold, so that they need not be made again.

    Not forced to disk: after a power failure they are assembled again from their chunks.
    """
    value = {"folder": made.folder.name, "rendering": _to_json(made.rendering)}
    replace(folder.rendered, to_json(value), durable=False)


def kept(folder: ClaimFolder) -> Made | None:
    """What `keep` has remembered; None when there is nothing, or it is damaged."""
    found = from_json(folder.rendered)
    if not found:
        return None
    made = Made(_from_json(found["rendering"]), folder.path / found["folder"])
    return made if all(_is_whole(made, name) for name in made.rendering.files) else None


def _is_whole(made: Made, name: str) -> bool:
    """Whether a kept file is what was made: a power failure may have left its name without its content."""
    if not _is_regular(made.folder / name):
        return False
    wanted = [audio["sha256"] for audio in made.rendering.audio if audio["file"] == name]
    return not wanted or sha256_of(made.folder / name) == wanted[0]


def _is_regular(path: Path) -> bool:
    """Only what the worker made itself is published, never what a link leads to."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _to_json(rendering: Rendering) -> dict[str, Any]:
    return {name: getattr(rendering, name) for name in Rendering.__dataclass_fields__}


def _from_json(value: Mapping[str, Any]) -> Rendering:
    tuples: dict[str, Callable[[Any], Any]] = dict.fromkeys(("files", "audio", "segments", "warnings", "chunks"), tuple)
    return Rendering(**{name: tuples.get(name, lambda same: same)(part) for name, part in value.items()})
