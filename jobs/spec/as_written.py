"""Restores text as it was typed: keys that take text get the source text of an unquoted value.

In YAML, `text: 3.10` is the number 3.1, and in `text: Call #42 now` the part ` #42 now` is a comment. The first is
restored to "3.10"; the second can't be (a comment may be one), so a warning is added.
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
_NEVER_WITH_HASH = frozenset(
    {"language", "engine"}
)  # their values contain no "#", so a "#" after them is always a comment
_MAX_SHOWN = 60


@dataclass(slots=True)
class AsWritten:
    """A document with its text restored.

    Attributes:
        tree: The document as read.
        value: The same data, with source text for keys that take text.
        warnings: Comments that may have been meant as text, by line.
        excused: Keys with a number that is too large, but that take text.
        more: Number of further warnings.
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
        """The problems of the tree, without those of numbers that turned out to be text."""
        is_text = [p.message == TOO_LARGE and p.key in self.excused for p in self.tree.problems]
        return tuple(problem for problem, excused in zip(self.tree.problems, is_text, strict=True) if not excused)

    def first_warnings(self) -> tuple[Problem, ...]:
        """The warnings in the order of the file, at most 20, and one that counts the others."""
        more = (Problem(f"and {self.more} more texts followed by a comment"),) if self.more else ()
        return (*(self.warnings[line] for line in sorted(self.warnings)), *more)

    def _part(self, path: Path, value: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
        """Restore the text of the job or of a segment, in a copy: an alias may share the mapping."""
        restored: dict[str, Any] = {}
        written = self.tree.written.get(id(value), {})
        for key in takes_text(model):
            if key in written:
                restored[key] = self._text((*path, key), key, value[key], written[key])
            elif isinstance(items := value.get(key), list) and id(items) in self.tree.written:
                restored[key] = self._items((*path, key), key, items)
        return {**value, **restored} if restored else value

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
    """Whether a comment may have been meant as text: any after spoken text, one like `#42` after a name."""
    if key in _SPOKEN:
        return bool(comment)
    return key not in _NEVER_WITH_HASH and len(comment) > 1 and not comment[1].isspace()


def _cut(key: str, written: Written) -> str:
    shown = printable(written.comment.rstrip(), _MAX_SHOWN)
    what = "is not spoken" if key == "text" else "is ignored"
    or_block = f", or indent it below `{key}: |`" if key in _SPOKEN else ""
    return (
        f"`{shown}` {what}: in YAML, a # after a space starts a comment. If it is part of the text, put the whole text "
        f'in quotes (`{key}: "… {shown}"`){or_block}'
    )


@cache
def takes_text(model: type[BaseModel]) -> tuple[str, ...]:
    """Keys of a job or a segment that take text, or a list of texts."""
    return tuple(key for key, about in model.model_fields.items() if _is_text(about.annotation))


def _is_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    return get_origin(annotation) in {Annotated, Union, UnionType, tuple} and any(map(_is_text, get_args(annotation)))
