"""What `voicespool voices list` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from files.printable import printable, short_path
from watcher.cli.display.layout import Paragraph, Row, Table, clean
from watcher.models.voices import BuiltIn, Voice

_EACH_LANGUAGE = 3


def voices(folder: Path, recordings: Sequence[Voice], built_in: Sequence[BuiltIn]) -> RenderableType:
    """A table of the recordings with their faults, and one of the built-in voices."""
    where = short_path(folder)
    nothing: RenderableType = Paragraph(f"No recording is in {where}.")
    found = Table(
        ("recording", ">seconds", ">Hz", ">channels", "transcript"), [*map(_recording, recordings)],
        f"recordings in {where} (speaker_wav)",
    )  # fmt: skip
    named = [row for engine in built_in for row in _speakers(engine)]
    notes = [Paragraph(f"{engine.engine}: {printable(engine.note)}") for engine in built_in if engine.note]
    table = Table(("voice", "engine", "language", "sex"), named, "built-in voices (speaker)")
    return Group(found if recordings else nothing, Text(""), table, *notes)


def _recording(voice: Voice) -> Row:
    one = voice.recording
    numbers = (f"{one.duration_s:.1f}", str(one.rate_hz), str(one.channels)) if one.rate_hz else ("-", "-", "-")
    faults = [*(f"error: {text}" for text in one.errors), *(f"warning: {text}" for text in one.warnings)]
    return Row((clean(voice.name, limit=5000), *numbers, "yes" if voice.has_transcript else "no"), faults)


def _speakers(engine: BuiltIn) -> list[Row]:
    few = ", ".join(engine.languages) if len(engine.languages) <= _EACH_LANGUAGE else f"any of {len(engine.languages)}"
    return [Row((clean(name), engine.engine, few, engine.sexes.get(name, "-"))) for name in engine.speakers]
