"""Lines for a terminal of any width: tables whose first column is never broken, and sentences with an indent.

Where output goes to no terminal, a row is one line, and so is a sentence. Everything is put into `Text`, which rich
prints as it is: no markup, no links.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from files.printable import printable, wrapped

WIDE = 10_000
"""Columns of what is no terminal."""
GAP = 2


def console(stream: TextIO) -> Console:
    """A console that interprets nothing; where it is no terminal, lines are as long as they are."""
    wide = {} if stream.isatty() else {"width": WIDE}
    return Console(file=stream, markup=False, emoji=False, highlight=False, **wide)  # type: ignore[arg-type]


def show(what: RenderableType, stream: TextIO) -> None:
    """Print; where it goes to no terminal, without spaces at the end of lines."""
    if stream.isatty():
        console(stream).print(what, crop=False)
        return
    buffer = io.StringIO()
    console(buffer).print(what, crop=False)
    stream.writelines(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())


def clean(value: object, style: str = "", limit: int = 500) -> Text:
    """Text from anywhere, harmless on a terminal, in one line however long it is."""
    return Text(printable("" if value is None else value, limit), style=style, overflow="ignore", no_wrap=True)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence, in lines that fit, all with an indent; `first` fills the indent of the first line."""

    text: str
    indent: int = 0
    style: str = ""
    first: Text | None = None

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for number, line in enumerate(wrapped(printable(self.text, 5000), options.max_width - self.indent) or [""]):
            before = self.first if number == 0 and self.first is not None else Text("")
            lead = before.copy()
            lead.pad_right(max(0, self.indent - before.cell_len))
            yield _line(lead, Text(line, self.style))


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of a table, and sentences that belong below them."""

    cells: Sequence[Text | str]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header. Columns without content are left out.

    A first cell that leaves no room for the others has a line of its own, and they are in the next one.

    Attributes:
        columns: Titles; one that begins with `>` is of numbers, which are set to the right.
        title: A line before it.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    title: str = ""

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield _line(Text(self.title, "bold"))
        lines, is_right = self._used()
        widths = [max(line[n].cell_len for line in lines) for n in range(len(is_right))]
        room = options.max_width - sum(GAP + width for width in widths[1:])
        widths[0] = max((line[0].cell_len for line in lines if line[0].cell_len <= room), default=0)
        for number, line in enumerate(lines):
            cells = [_set(*cell) for cell in zip(line, widths, is_right, strict=True)]
            if line[0].cell_len > widths[0] and len(cells) > 1:
                yield _line(line[0])
                cells[0] = Text(" " * widths[0])
            yield _line(Text(" " * GAP).join(cells))
            for note in self.rows[number - 1].notes if number else ():
                yield Paragraph(note, 2 * GAP)

    def _used(self) -> tuple[list[list[Text]], list[bool]]:
        """Header and rows without the columns that are empty, and which of the others are set to the right."""
        cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row.cells] for row in self.rows]
        used = [n for n in range(len(self.columns)) if any(row[n].cell_len for row in cells)] or [0]
        header = [Text(self.columns[n].lstrip(">"), "dim") for n in used]
        return [header, *([row[n] for n in used] for row in cells)], [self.columns[n][:1] == ">" for n in used]


def _set(cell: Text, width: int, is_right: bool) -> Text:
    placed = cell.copy()
    pad = placed.pad_left if is_right else placed.pad_right
    pad(max(0, width - cell.cell_len))
    return placed


def _line(*parts: Text) -> Text:
    line = Text(no_wrap=True, overflow="ignore")
    for part in parts:
        line.append_text(part)
    line.rstrip()
    return line
