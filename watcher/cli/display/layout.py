"""Lines for a terminal of any width: tables whose first column is never broken, and sentences with an indent.

Where output goes to no terminal, a row is one line, and so is a sentence. Everything is put into `Text`, which rich
prints as it is: no markup, no links.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from files.printable import printable, wrapped

WIDE = 10_000
"""Columns of what is no terminal."""
GAP = 2
_INDENT = 2


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
    """A sentence, in lines that fit, all with an indent; `first` stands before the first line, in it."""

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

    Where the lines are too long for the terminal, the first cell of each row has a line of its own, and the others are
    in the next one.

    Attributes:
        columns: Titles; one that begins with `>` is of numbers, which are set to the right.
        title: A line before it.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    title: str = ""
    _gap: str = field(default=" " * GAP, init=False)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield Text(self.title, "bold", no_wrap=True, overflow="ignore")
        cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row.cells] for row in self.rows]
        used = [n for n in range(len(self.columns)) if any(row[n].cell_len for row in cells)]
        header = [Text(self.columns[n].lstrip(">"), "dim") for n in used]
        table = [header, *([row[n] for n in used] for row in cells)]
        widths = [max(row[n].cell_len for row in table) for n in range(len(used))]
        is_stacked = len(used) > 1 and sum(widths) + GAP * (len(widths) - 1) > options.max_width
        for number, line in enumerate(table):
            rest = [
                _set(cell, width, right=self.columns[n].startswith(">"))
                for n, cell, width in zip(used, line, widths, strict=True)
            ]
            if is_stacked:
                yield _line(line[0])
                yield _line(Text(" " * _INDENT), self._joined(rest[1:]))
            else:
                yield _line(self._joined(rest))
            for note in self.rows[number - 1].notes if number else ():
                yield Paragraph(note, 2 * _INDENT)

    def _joined(self, cells: Sequence[Text]) -> Text:
        return Text(self._gap).join(cells)


def _set(cell: Text, width: int, *, right: bool) -> Text:
    placed = cell.copy()
    if right:
        placed.pad_left(width - cell.cell_len)
    else:
        placed.pad_right(width - cell.cell_len)
    return placed


def _line(*parts: Text) -> Text:
    line = Text(no_wrap=True, overflow="ignore")
    for part in parts:
        line.append_text(part)
    line.rstrip()
    return line
