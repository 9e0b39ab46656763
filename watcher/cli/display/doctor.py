"""What `voicespool doctor` shows: findings in groups, and how many there are of each level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from engines import installing
from files.printable import printable
from watcher.cli.display.layout import Paragraph, clean
from watcher.doctor.finding import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_LEVEL, _WHAT = 8, 25


def finding(one: Finding, *, is_first: bool) -> RenderableType:
    """A finding and its cure; before the first one of a group the group's title."""
    lead = Text.assemble("  ", (f"{one.level:<4}", _COLOURS[one.level]), "  ", clean(one.what, limit=60))
    lead.append("  ")
    parts: list[RenderableType] = [Text(one.group, "bold")] if is_first and one.group else []
    for number, line in enumerate(one.message.splitlines()):
        parts.append(Paragraph(line, max(_WHAT, lead.cell_len), first=lead if number == 0 else None))
    return Group(*parts, *([_cure(one.cure)] if one.cure else []))


def _cure(cure: str) -> RenderableType:
    """A sentence in lines that fit; a command alone stays in one line, so that it can be copied."""
    if installing.is_command(cure):
        return Text(" " * _LEVEL + printable(cure), no_wrap=True, overflow="ignore")
    return Paragraph(cure, _LEVEL)


def summary(findings: Sequence[Finding]) -> RenderableType:
    """The last line: how many checks there were, and how many found something."""
    levels = Counter(one.level for one in findings)
    failed, warned = levels["fail"], levels["warn"]
    parts = [f"{levels['ok']} ok", _several(warned, "warning")] + ([_several(failed, "failure")] if failed else [])
    works = "The spool can't work until they are fixed." if failed else "The spool can work."
    colour = "red" if failed else "yellow" if warned else "green"
    return Group(Text(""), Paragraph(f"{', '.join(parts)}. {works}", style=colour))


def _several(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
