"""What `voicespool engines` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from engines import installing
from engines.base import EngineInfo, Option
from files.printable import printable
from watcher.cli.display.layout import Paragraph, Row, Table, clean


def engines(infos: Sequence[EngineInfo], planned: Mapping[str, str]) -> RenderableType:
    """One line for each engine, and how to install those that are not."""
    rows = [
        Row((clean(info.name, "bold", 60), clean(info.title, limit=100), "cloned" if info.clones_voices else "built in",
             str(len(info.languages)), _state(info)))
        for info in infos
    ]  # fmt: skip
    rows += [Row((Text(name, "bold"), "", "", "", Text("planned", "yellow"))) for name in planned]
    parts: list[RenderableType] = [Table(("engine", "title", "voices", ">languages", "state"), rows), Text("")]
    for info in infos:
        if info.missing is not None:
            parts += [Text(f"To use {printable(info.name, 60)}:"), _missing(info.missing), Text("")]
    return Group(*parts, Paragraph("`voicespool engines NAME` shows an engine's languages, voices and settings."))


def _state(info: EngineInfo) -> Text:
    return Text("ready", "green") if info.missing is None else Text("not usable", "red")


def _missing(words: str) -> RenderableType:
    """How to install it: a command in one line, a sentence in lines that fit."""
    return clean(f"  {words}", limit=2000) if installing.is_command(words) else Paragraph(words, 2)


def engine(info: EngineInfo) -> RenderableType:
    """Everything about one engine."""
    voices = "clones a voice from a recording (speaker_wav)" if info.clones_voices else "built in (speaker)"
    facts = {
        "library": f"{info.library} {info.version or '(not installed)'}",
        "licence": info.licence,
        "model": info.model,
        "device": info.device,
        "audio": f"{info.sample_rate_hz} Hz",
        "voices": voices,
        "languages": f"{len(info.languages)}: {' '.join(info.languages)}" if info.languages else "",
        "speakers": f"{len(info.speakers)}: {', '.join(info.speakers)}" if info.speakers else "",
    }
    head = Text.assemble(clean(info.name, "bold", 60), "  ", clean(info.title, limit=200), "  ", _state(info))
    parts: list[RenderableType] = [Text.assemble(head, no_wrap=True, overflow="ignore")]
    if info.missing is not None:
        parts += [Text("To use it:"), _missing(info.missing)]
    parts += [Paragraph(value, 13, first=Text(f"  {name}", "dim")) for name, value in facts.items() if value]
    if info.options:
        parts += [Text(""), Table(("setting", "type", "range", "default"), [*map(_option, info.options)])]
    return Group(*parts)


def _option(option: Option) -> Row:
    low, high = ("" if bound is None else f"{bound:g}" for bound in (option.minimum, option.maximum))
    span = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}" if high else ""
    default = "" if option.default is None else str(option.default).lower() if option.kind is bool else option.default
    return Row((clean(option.name, "bold"), option.kind.__name__, span, clean(default)), [option.help])


def planned_engine(name: str, sentence: str) -> RenderableType:
    """An engine that this version does not have."""
    return Paragraph(sentence, len(name) + 2, first=Text(name, "bold"))
