"""What `voicespool checkpoints` shows on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engines.checkpoints.f5_variant import settling
from engines.checkpoints.inspection import Checkpoint
from watcher.cli.display import clean

DIFFERENCES_SHOWN = 3


def table(models: Sequence[tuple[str, Checkpoint]]) -> RenderableType:
    """One line for each model, by its name, and below what keeps some from loading."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("name", "engine", "architecture", "step", "validation", "training", "", "size", "created", "loads"):
        right = column in ("step", "validation", "training", "size")
        wraps = column in ("name", "architecture")
        grid.add_column(column, header_style="dim", justify="right" if right else "left", no_wrap=not wraps)
    for name, one in models:
        grid.add_row(
            clean(name, "bold"), one.engine or "-", clean(one.architecture), number(one.step),
            number(one.validation_loss), number(one.training_loss), Text("best" if one.is_best else "", "green"),
            size(one.size_bytes), moment(one.created)[:10], _loads(one),
        )  # fmt: skip
    faults = [Text.assemble(clean(name, "bold"), "  ", *_fault(one)) for name, one in models if not one.loads]
    return Group(grid, *([Text("")] if faults else []), *faults)


def one_model(name: str, one: Checkpoint) -> RenderableType:
    """Everything about one."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("", "name", clean(name, "bold", 5000))
    grid.add_row("", "is", clean(in_short(one), limit=5000))
    if not one.loads:
        grid.add_row("", "loads", Text.assemble(*_fault(one)))
    for what, value in (
        ("variant", _variant(one)), ("weights", f"{one.parameters:,} of {one.precision}" if one.precision else None),
        ("container", one.container or None), ("size", size(one.size_bytes)), ("created", moment(one.created)),
        ("step", number(one.step) or None), ("epoch", number(one.epoch) or None),
        ("validation loss", _validation(one) or None), ("training loss", number(one.training_loss) or None),
        ("config", _beside(one.config)), ("vocab", _beside(one.vocab)), ("speakers", _beside(one.speakers)),
        *(("note", warning) for warning in one.warnings),
    ):  # fmt: skip
        if value is not None:
            grid.add_row("", what, clean(value, limit=5000))
    return grid


def in_short(one: Checkpoint) -> str:
    """`F5-TTS Base (DiT 1024×22, text 512), vocabulary 2545 + 1, float32, EMA; loads as f5`."""
    known = one.variant is not None and one.variant.flags is not None
    parts = [one.architecture, one.variant.name if one.variant is not None and known else ""]
    if one.vocabulary is not None:
        parts.append(
            f"vocabulary {one.vocabulary - 1} + 1" if one.sizes is not None else f"vocabulary {one.vocabulary}"
        )
    parts += [one.precision, {True: "EMA", False: "no EMA", None: ""}[one.averaged]]
    return f"{', '.join(filter(None, parts))}; {f'loads as {one.engine}' if one.loads else 'does not load'}"


def comparison(name: str, one: Checkpoint, published: str, found: Sequence[tuple[str, str, str]]) -> RenderableType:
    """Why a file would not load as a published model, in few lines."""
    short = Text.assemble(clean(name, "bold", 5000), ": ", clean(in_short(one), limit=5000))
    if not found:
        fault = [] if one.loads else [Text.assemble("It loads: ", *_fault(one))]
        return Group(short, Text(f"It has the sizes of {published}."), *fault)
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("", "this file", f"{published} needs"):
        grid.add_column(column, header_style="dim")
    for what, has, needs in found[:DIFFERENCES_SHOWN]:
        grid.add_row(what, clean(has), clean(needs))
    more = [what for what, _has, _needs in found[DIFFERENCES_SHOWN:]]
    also = [Text(f"They also differ in: {', '.join(more)}.")] if more else []
    return Group(short, Text(f"It would not load as {published}:"), grid, *also)


def _variant(one: Checkpoint) -> str | None:
    if one.variant is None:
        return None
    vocoder = f"; vocoder {one.variant.vocoder}" if one.variant.vocoder != "vocos" else ""
    hint = f" ({one.variant.hint})" if one.variant.hint else ""
    settle = f"; if you know, {settling(one.path)}" if one.variant.flags is None else ""
    return f"{one.variant.name}: {one.variant.evidence}{hint}{settle}{vocoder}"


def _loads(one: Checkpoint) -> Text:
    return Text("yes", "green") if one.loads else Text("no", "red")


def _fault(one: Checkpoint) -> tuple[Text, ...]:
    return Text("no: ", "red"), clean(one.why_not), Text(" "), clean(one.cure)


def _validation(one: Checkpoint) -> str:
    return f"{number(one.validation_loss)}{', the best in its folder' if one.is_best else ''}"


def _beside(path: Path | None) -> str | None:
    return None if path is None else str(path)


def number(value: float | None) -> str:
    """Whole numbers in full, others with four digits; "" for none."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def size(count: int) -> str:
    """`5.2 GB`: of a thousand each, as disks are sold."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def moment(seconds: float) -> str:
    """`2026-11-21 18:03`, local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
