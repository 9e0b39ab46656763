"""Text as it was typed: where a key takes text, a value without quotes is what stands in the file.

To YAML `text: 3.10` is the number 3.1, and ` #42 now` behind `text: Call` is a comment. The first is taken as it is
written; of the second, which YAML takes away before anybody can ask, the author is warned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from files.printable import printable
from files.tree import TOO_LARGE, Path, Problem, Tree, Written, dotted
from jobs.spec.job_spec import JobSpec, Segment

MAX_WARNINGS = 20
_SPOKEN = frozenset({"text", "speaker_text"})
_WITHOUT_SIGNS = frozenset({"language", "engine"})  # no value of theirs has a #, so that behind them it is a comment
_MAX_SHOWN = 60


@dataclass(slots=True)
class AsWritten:
    """A document with its texts as they were typed.

    Attributes:
        tree: The document as it was read.
        value: The same, with text where a key takes text.
        warnings: What was cut from a text, by line.
        excused: Keys whose value is too large for a number, but is text.
    """

    tree: Tree
    value: dict[str, Any] = field(init=False)
    warnings: dict[int, Problem] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)
    more: int = 0

    def __post_init__(self) -> None:
        self.value = self._part((), self.tree.value, JobSpec) if self.tree.written else self.tree.value
        segments = self.value.get("segments")
        if self.tree.written and isinstance(segments, list):
            parts = (
                self._part(("segments", index), part, Segment) if isinstance(part, dict) else part
                for index, part in enumerate(segments)
            )
            self.value = {**self.value, "segments": list(parts)}

    def faults(self) -> tuple[Problem, ...]:
        """What was wrong when the document was read, and is so still."""
        is_text = [p.message == TOO_LARGE and p.key in self.excused for p in self.tree.problems]
        return tuple(problem for problem, excused in zip(self.tree.problems, is_text, strict=True) if not excused)

    def told(self) -> tuple[Problem, ...]:
        """The warnings in the order of the file, at most 20 and one that counts the others."""
        more = (Problem(f"and {self.more} more texts that a comment follows"),) if self.more else ()
        return (*(self.warnings[line] for line in sorted(self.warnings)), *more)

    def _part(self, path: Path, value: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
        """The job or a segment. What it shares with others is copied."""
        found: dict[str, Any] = {}
        written = self.tree.written.get(id(value), {})
        for key in takes_text(model):
            if key in written:
                found[key] = self._text((*path, key), key, value[key], written[key])
            elif isinstance(items := value.get(key), list) and id(items) in self.tree.written:
                found[key] = self._items((*path, key), key, items)
        return {**value, **found} if found else value

    def _items(self, path: Path, key: str, items: list[Any]) -> list[Any]:
        written: Mapping[str | int, Written] = self.tree.written[id(items)]
        return [
            self._text((*path, index), key, item, written[index]) if index in written else item
            for index, item in enumerate(items)
        ]

    def _text(self, path: Path, key: str, value: Any, written: Written) -> str:
        if written.fault:
            self.excused.add(dotted(path))
        if _is_cut(key, written.comment) and written.line not in self.warnings:
            if len(self.warnings) < MAX_WARNINGS:
                self.warnings[written.line] = Problem(_cut(key, written), dotted(path), written.line)
            else:
                self.more += 1
        return value if isinstance(value, str) else written.text


def _is_cut(key: str, comment: str) -> bool:
    """Whether a comment may have been meant as text: behind what is spoken any, behind names what looks like `#42`."""
    if key in _SPOKEN:
        return bool(comment)
    return key not in _WITHOUT_SIGNS and len(comment) > 1 and not comment[1].isspace()


def _cut(key: str, written: Written) -> str:
    shown = printable(written.comment.rstrip(), _MAX_SHOWN)
    what = "is not spoken" if key == "text" else "is left out"
    or_block = f", or below `{key}: |`, indented" if key in _SPOKEN else ""
    return (
        f"`{shown}` {what}: in YAML a # after a space begins a comment. If it belongs to the text, put the whole text "
        f'in quotes (`{key}: "… {shown}"`){or_block}'
    )


@cache
def takes_text(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys of a job or a segment that take text, or a list of texts."""
    return tuple(key for key, about in model.model_fields.items() if _is_text(about.annotation))


def _is_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    return get_origin(annotation) in {Annotated, Union, UnionType, tuple} and any(map(_is_text, get_args(annotation)))
