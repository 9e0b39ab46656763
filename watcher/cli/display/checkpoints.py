"""What `voicespool checkpoints` shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from engines.checkpoints.f5_variant import settling
from engines.checkpoints.inspection import Checkpoint
from files.printable import printable, short_path
from watcher.cli.display.layout import Paragraph, Row, Table, clean

DIFFERENCES_SHOWN = 3


def table(models: Sequence[tuple[str, Checkpoint]]) -> RenderableType:
    """One line for each model, and below it what keeps it from loading."""
    columns = ("name", "engine", "model", ">step", ">validation", ">training", "rank", ">size", "loads")
    rows = [
        Row(
            (clean(name, "bold", 5000), clean(one.engine), clean(one.architecture.partition(" (")[0]), number(one.step),
             number(one.validation_loss), number(one.training_loss), Text("best" if one.is_best else "", "green"),
             size(one.size_bytes), Text("yes", "green") if one.loads else Text("no", "red")),
            () if one.loads else (printable(fault(one)),),
        )
        for name, one in models
    ]  # fmt: skip
    return Table(columns, rows)


def one_model(name: str, one: Checkpoint) -> RenderableType:
    """Everything about one."""
    lines: list[tuple[str, object]] = [
        ("name", name), ("model", in_short(one)), ("loads", None if one.loads else f"no: {fault(one)}"),
        ("variant", _variant(one)), ("weights", f"{one.parameters:,} of {one.precision}" if one.precision else None),
        ("container", one.container or None), ("size", size(one.size_bytes)), ("created", moment(one.created)),
        ("step", number(one.step) or None), ("epoch", number(one.epoch) or None),
        ("validation loss", _validation(one) or None), ("training loss", number(one.training_loss) or None),
        *((key, short_path(path)) for key in ("config", "vocab", "speakers") if (path := getattr(one, key))),
        *(("note", warning) for warning in one.warnings),
    ]  # fmt: skip
    width = max(len(what) for what, _value in lines) + 4
    return Group(
        *(Paragraph(str(value), width, first=Text(f"  {what}", "dim")) for what, value in lines if value is not None)
    )


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
    short = Paragraph(f"{name}: {in_short(one)}")
    if not found:
        why_not = [] if one.loads else [Paragraph(f"Loads: no: {fault(one)}")]
        return Group(short, Text(f"It has the sizes of {published}."), *why_not)
    shown = [Row((what, clean(has), clean(needs))) for what, has, needs in found[:DIFFERENCES_SHOWN]]
    more = [what for what, _has, _needs in found[DIFFERENCES_SHOWN:]]
    also = [Paragraph(f"Further differences: {', '.join(more)}.")] if more else []
    table = Table(("part", "this file", f"{published} needs"), shown)
    return Group(short, Text(f"It does not load as {published}:"), table, *also)


def _variant(one: Checkpoint) -> str | None:
    if one.variant is None:
        return None
    vocoder = f"; vocoder {one.variant.vocoder}" if one.variant.vocoder != "vocos" else ""
    hint = f" ({one.variant.hint})" if one.variant.hint else ""
    settle = f"; if you know, {settling(one.path)}" if one.variant.flags is None else ""
    return f"{one.variant.name}: {one.variant.evidence}{hint}{settle}{vocoder}"


def fault(one: Checkpoint) -> str:
    """Why it does not load, and what to do."""
    return f"{one.why_not} {one.cure}".rstrip()


def _validation(one: Checkpoint) -> str:
    return f"{number(one.validation_loss)}{', the best in its folder' if one.is_best else ''}"


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
